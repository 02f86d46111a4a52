"""Small notebooks and ways to look into what became of them."""

import base64
import io
import unicodedata

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

from typstpdf import TypstPDFExporter

NAME = "Muster-12345678"
markdown = new_markdown_cell


def code(
    source: str, *outputs: NotebookNode, tags: tuple[str, ...] = ()
) -> NotebookNode:
    metadata = {"tags": list(tags)}
    return new_code_cell(source, outputs=list(outputs), metadata=metadata)


def stdout(text: str) -> NotebookNode:
    return new_output("stream", name="stdout", text=text)


def display(**data: str) -> NotebookNode:
    """An output; "image_png" stands for "image/png"."""
    data = {mime.replace("_", "/", 1): text for mime, text in data.items()}
    return new_output("display_data", data=data)


def figure(kind: str = "png", width: float = 4) -> str:
    """A drawing as it stands in a notebook's output."""
    drawing = matplotlib.figure.Figure(figsize=(width, 2))
    drawing.subplots().plot([1, 3, 2])
    buffer = io.BytesIO()
    drawing.savefig(buffer, format=kind, dpi=72)
    if kind == "svg":
        return buffer.getvalue().decode()
    return base64.b64encode(buffer.getvalue()).decode()


def notebook(*cells: NotebookNode) -> NotebookNode:
    """A notebook that has been run, once and from top to bottom."""
    run = [cell for cell in cells if cell.cell_type == "code"]
    for number, cell in enumerate(run, 1):
        cell.execution_count = number
    return new_notebook(cells=list(cells))


def save(
    *cells: NotebookNode, name: str = "report.ipynb", executed: bool = False
) -> None:
    """Write a notebook into the current folder."""
    nb = notebook(*cells) if executed else new_notebook(cells=list(cells))
    nbformat.write(nb, name)


def export(
    *cells: NotebookNode, **traits: str
) -> tuple[PdfReader, list[str]]:
    """The PDF of these cells, and what had to be shown differently."""
    exporter = TypstPDFExporter(**traits)
    pdf, resources = exporter.from_notebook_node(notebook(*cells))
    return PdfReader(io.BytesIO(pdf)), resources["warnings"]


def text(reader: PdfReader) -> str:
    """All pages' words; letters of formulas as plain letters."""
    pages = "\n".join(page.extract_text() for page in reader.pages)
    # Blank lines of code hold an invisible space.
    return unicodedata.normalize("NFKC", pages).replace("\u200b", "")


def pictures(reader: PdfReader) -> list[int]:
    """How many pictures each page shows."""
    return [
        len(page["/Resources"].get("/XObject", {})) for page in reader.pages
    ]


def alternatives(reader: PdfReader) -> list[str]:
    """What a screen reader says for pictures and formulas."""
    numbers = range(1, reader.trailer["/Size"])
    entries = [reader.get_object(number) for number in numbers]
    return [e["/Alt"] for e in entries if isinstance(e, dict) and "/Alt" in e]
