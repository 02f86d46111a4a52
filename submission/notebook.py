"""The notebook file: reading it, naming its cells, putting in the name."""

import re
import unicodedata
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from submission import SubmissionError
from typstpdf.cells import describe

EXAMPLE = "Muster-12345678"
PLACEHOLDER = "Surname-MatriculationNumber"
# Leaves room for "-DEMO.pdf" and a temporary suffix in 255 bytes.
MAX_NAME_BYTES = 200


def check_name(name: str) -> str:
    """Return the name in one Unicode form if it keeps the sheet's rule.

    Args:
        name: a surname (letters of any language; hyphens, apostrophes and
            spaces inside), a hyphen, the matriculation number in digits;
            or the untouched placeholder.

    Raises:
        SubmissionError: the name breaks the rule or is too long.
    """
    name = unicodedata.normalize("NFC", name)
    surname, _, number = name.rpartition("-")
    # Marks belong to the letter before them; Python's \w leaves them out.
    letters = "".join(
        "a" if unicodedata.category(char)[0] in "LM" else char
        for char in surname
    )
    if name == PLACEHOLDER or (
        re.fullmatch(r"a+(?:[-'’ ]a+)*", letters)
        and not unicodedata.combining(surname[0])
        and re.fullmatch(r"[0-9]+", number)
        and len(name.encode()) <= MAX_NAME_BYTES
    ):
        return name
    shown = name if len(name) <= 60 else name[:60] + "…"
    raise SubmissionError(
        f"{shown!r} is not a surname, a hyphen and a matriculation number.\n"
        f"Give it like this: --name {EXAMPLE}, or rename the notebook to "
        f"{EXAMPLE}.ipynb."
    )


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook in the current format (version 4).

    Raises:
        SubmissionError: not there, not a notebook, or no code in it.
    """
    try:
        nb = nbformat.read(path, as_version=4)
        nbformat.validate(nb)
    except OSError as error:
        raise SubmissionError(
            f"Cannot read {path}: {error.strerror}."
        ) from error
    # nbformat lets KeyError, AttributeError and others of its parts through.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SubmissionError(
            f"{path.name} is not a valid notebook: {reason[:200]}\n"
            "Open it in Jupyter and save it again, or take an earlier copy."
        ) from error
    if not any(is_code(cell) for cell in nb.cells):
        raise SubmissionError(f"{path.name} has no code cells to hand in.")
    return nb


def is_code(cell: NotebookNode) -> bool:
    """Whether the cell holds code to run."""
    return cell.cell_type == "code" and bool(cell.source.strip())


def put_name(nb: NotebookNode, name: str) -> None:
    """Replace the placeholder by the name in all Markdown cells."""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace(PLACEHOLDER, name)


def outputs(nb: NotebookNode) -> list[NotebookNode]:
    """All outputs of all cells."""
    return [out for cell in nb.cells for out in cell.get("outputs", [])]


def says_demo(nb: NotebookNode) -> bool:
    """Whether a cell printed a line that begins with ``DEMO:``."""
    return any(
        re.search(r"(?m)^DEMO:", out.get("text", "")) for out in outputs(nb)
    )


def check_executed(nb: NotebookNode) -> list[str]:
    """Look whether Jupyter ran the whole notebook, from top to bottom.

    Returns:
        What the student should look at.

    Raises:
        SubmissionError: a cell was not run, or ended with an error.
    """
    counts = []
    for index, cell in enumerate(nb.cells):
        if not is_code(cell):
            continue
        counts.append(cell.execution_count)
        failed = any(out.output_type == "error" for out in cell.outputs)
        if cell.execution_count is None or failed:
            raise SubmissionError(
                f"{describe(nb, index)} "
                f"{'ended with an error' if failed else 'has not been run'}."
                "\nIn Jupyter, choose Run → Restart Kernel and Run All "
                "Cells, save, and try again."
            )
    if counts != list(range(1, len(counts) + 1)):
        return ["the cells were not run once each, from top to bottom"]
    return []
