"""The notebook file: its name, reading it, what is odd in a saved one."""

import contextlib
import hashlib
import re
import unicodedata
from datetime import datetime
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from submission import SubmissionError
from typstpdf.cells import describe

EXAMPLE = "Muster-12345678"
PLACEHOLDER = "Surname-MatriculationNumber"
# Leaves room for "-DEMO.pdf" and a temporary suffix in 255 bytes.
MAX_NAME_BYTES = 200
DEMO_LINE = re.compile(r"(?m)^DEMO:.*")
# A cell may print three times as much; then its middle is left out.
HALF = 50_000
LEFT_OUT = re.compile(r"\[… ([\d,]+) characters left out here …\]")
# What prints or draws, at the start of a line.
SHOWS = re.compile(r"(?m)^(?:print|display|plt\.show)\(")


def check_name(name: str) -> str:
    """Return the name in one Unicode form if it keeps the sheet's rule.

    The rule: a surname (letters of any language; hyphens, apostrophes and
    spaces inside), a hyphen, a number; or the untouched placeholder.

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
    raise SubmissionError(
        f"{name[:60]!r} is not a surname, a hyphen and a matriculation "
        f"number.\nGive it like this: --name {EXAMPLE}"
    )


def read_notebook(path: Path, name: str) -> NotebookNode:
    """Read a notebook in the current format (4), with the name put in.

    Raises:
        SubmissionError: it is not there, or not a notebook.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise SubmissionError(f"There is no notebook {path}.")
    content = path.read_bytes()
    try:
        # Some Windows editors put a mark in front.
        nb = nbformat.reads(content.decode("utf-8-sig"), as_version=4)
        for cell in nb.cells:
            # Careless programs leave out what the format demands.
            cell.setdefault("metadata", NotebookNode())
            if cell.cell_type == "code":
                cell.setdefault("outputs", [])
                cell.setdefault("execution_count", None)
            elif cell.cell_type == "markdown":
                cell.source = cell.source.replace(PLACEHOLDER, name)
    # nbformat lets KeyError, AttributeError and others of its parts through.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SubmissionError(
            f"{path.name} is not a valid notebook: {reason[:200]}\n"
            "Open it in Jupyter and save it again, or take an earlier copy."
        ) from error
    return nb


def written(nb: NotebookNode) -> bytes:
    """The notebook's file, even with half a character in an output."""
    return nbformat.writes(nb).encode(errors="backslashreplace")


def tagged(cell: NotebookNode, tag: str) -> bool:
    """Whether the cell has that tag."""
    return tag in (cell.metadata.get("tags") or [])


def is_code(cell: NotebookNode) -> bool:
    """Whether the cell holds code to run: not only comments."""
    code = re.sub(r"(?m)^\s*#.*", "", cell.source).strip()
    skipped = tagged(cell, "skip-execution")
    return cell.cell_type == "code" and bool(code) and not skipped


def outputs(nb: NotebookNode) -> list[NotebookNode]:
    """All outputs of all cells."""
    return [out for cell in nb.cells for out in cell.get("outputs", [])]


def says_demo(nb: NotebookNode) -> bool:
    """Whether a cell printed a line that begins with ``DEMO:``."""
    return any(DEMO_LINE.search(out.get("text", "")) for out in outputs(nb))


def cut(text: str) -> str:
    """Leave out the middle of a flood and say so; may be called again."""
    if len(text) <= 3 * HALF:
        return text
    rest, number = text[HALF:], 0
    if earlier := LEFT_OUT.match(rest, 1):
        number, rest = int(earlier[1].replace(",", "")), rest[earlier.end() :]
    number += len(rest) - HALF
    notice = f"\n[… {number:,} characters left out here …]\n"
    return text[:HALF] + notice + rest[-HALF:]


def left_out(nb: NotebookNode) -> list[str]:
    """The cells of whose outputs the middle is left out."""
    return [
        f"{describe(nb, index)}: the middle of its output is left out"
        for index, cell in enumerate(nb.cells)
        if LEFT_OUT.search(str(cell.get("outputs")))
    ]


def look_at(
    nb: NotebookNode, saved: float, files: dict[str, Path]
) -> list[str]:
    """What is odd in a notebook that Jupyter saved (seconds since 1970).

    Raises:
        SubmissionError: none of its cells was run.
    """
    odd: dict[str, list[str]] = {}
    counts = []
    for index, cell in enumerate(nb.cells):
        if not is_code(cell):
            continue
        kinds = {out.output_type for out in cell.outputs}
        what = ""
        if cell.execution_count is None and not kinds:
            what = "not run"
        elif "error" in kinds and not tagged(cell, "raises-exception"):
            what = "ended with an error"
        elif not kinds and SHOWS.search(cell.source):
            what = "its output is lost"
        odd.setdefault(what, []).append(describe(nb, index))
        if what != "not run":
            counts.append(cell.execution_count)
    if odd and not counts:
        raise SubmissionError(
            "No cell of the notebook was run: there is nothing to show.\n"
            "In Jupyter: Run → Restart Kernel and Run All Cells, and save."
        )
    notes = [
        f"{what}: {', '.join(cells[:3])}" + " and others" * (len(cells) > 3)
        for what, cells in odd.items()
        if what
    ]
    if not outputs(nb):
        notes.append("no cell shows an output: were they stripped?")
    if counts != list(range(1, len(counts) + 1)):
        notes.append("the cells were not run once each, from top to bottom")
    return notes + changed(nb, saved, files)


def changed(
    nb: NotebookNode, saved: float, files: dict[str, Path]
) -> list[str]:
    """The modules that may not be those that the notebook ran with.

    Its cells hold times if Jupyter was told to record them, and an output's
    metadata may hold ``ran_with``: files' names and their SHA-256.
    """
    times, ran_with, notes = [saved + 1], {}, []  # file systems round
    for cell in nb.cells:
        for when in (cell.metadata.get("execution") or {}).values():
            with contextlib.suppress(ValueError):
                times.append(datetime.fromisoformat(str(when)).timestamp())
    for out in outputs(nb):
        ran_with |= out.get("metadata", {}).get("ran_with") or {}
    for name, file in sorted(files.items()):
        newer = file.suffix == ".py" and file.stat().st_mtime > min(times)
        if name in ran_with:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            newer = digest != ran_with[name]
        if newer:
            notes.append(f"{name} is newer than the notebook's results")
    return notes
