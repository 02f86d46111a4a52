"""Small notebooks and ways to look into what became of them."""

import base64
import io
import unicodedata
from pathlib import Path
from typing import Any

import matplotlib.figure
import nbformat
from nbformat import NotebookNode
from nbformat.v4 import (
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_output,
)
from pypdf import PdfReader

from submission.pdf import TypstPDFExporter

NAME = "Muster-12345678"


def markdown(source: str, **metadata: Any) -> NotebookNode:
    return new_markdown_cell(source, metadata=metadata)


def code(
    source: str, *outputs: NotebookNode, tags: tuple[str, ...] = ()
) -> NotebookNode:
    return new_code_cell(
        source,
        outputs=list(outputs),
        execution_count=1,
        metadata={"tags": list(tags)} if tags else {},
    )


def notebook(*cells: NotebookNode) -> NotebookNode:
    """A notebook whose code cells count up as if they had been run."""
    number = 0
    for position, cell in enumerate(cells):
        cell["id"] = f"cell-{position}"
        if cell.cell_type == "code" and cell.execution_count is not None:
            number += 1
            cell.execution_count = number
    return new_notebook(cells=list(cells))


def stdout(text: str) -> NotebookNode:
    return new_output("stream", name="stdout", text=text)


def display(**data: str) -> NotebookNode:
    """An output; "image_png" stands for "image/png"."""
    return new_output(
        "display_data",
        data={mime.replace("_", "/", 1): text for mime, text in data.items()},
    )


def figure(kind: str = "png", width: float = 4, dpi: int = 100) -> str:
    """A drawing as it stands in a notebook's output."""
    drawing = matplotlib.figure.Figure(figsize=(width, 2))
    drawing.subplots().plot([1, 3, 2])
    buffer = io.BytesIO()
    drawing.savefig(buffer, format=kind, dpi=dpi)
    if kind == "svg":
        return buffer.getvalue().decode()
    return base64.b64encode(buffer.getvalue()).decode()


def export(*cells: NotebookNode, **traits: Any) -> PdfReader:
    """The PDF of a notebook made of these cells."""
    pdf, _ = TypstPDFExporter(**traits).from_notebook_node(notebook(*cells))
    return PdfReader(io.BytesIO(pdf))


def text(reader: PdfReader) -> str:
    """All pages' words; letters of formulas as plain letters."""
    pages = "\n".join(page.extract_text() for page in reader.pages)
    # Long words may break at an invisible space.
    return unicodedata.normalize("NFKC", pages).replace("\u200b", "")


def headings(reader: PdfReader) -> list[tuple[int, str]]:
    """The outline: level and title."""

    def walk(entries: list[Any], level: int) -> list[tuple[int, str]]:
        found = []
        for entry in entries:
            if isinstance(entry, list):
                found += walk(entry, level + 1)
            else:
                found.append((level, entry.title))
        return found

    return walk(reader.outline, 1)


def pictures(reader: PdfReader) -> list[int]:
    """How many pictures each page shows."""
    return [
        len(page["/Resources"].get("/XObject", {})) for page in reader.pages
    ]


def save(
    *cells: NotebookNode, name: str = "report.ipynb", executed: bool = False
) -> None:
    """Write a notebook into the current folder."""
    nb = notebook(*cells)
    for cell in nb.cells:
        if cell.cell_type == "code" and not executed:
            cell.execution_count = None
    nbformat.write(nb, name)


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files of a folder and what they hold, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
