"""The notebook file: its name, reading it, what is odd in a saved one."""

import contextlib
import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from datetime import datetime
from html import unescape
from pathlib import Path

import nbformat
from nbformat import NotebookNode, v4
from nbformat.validator import normalize

from submission import SubmissionError
from typstpdf.cells import GONE, describe, tags

Files = dict[str, Path]  # by their names in the ZIP
OUTPUTS = ("stream", "display_data", "execute_result", "error")
EXAMPLE, PLACEHOLDER = "Muster-12345678", "Surname-MatriculationNumber"
HALF = 50_000  # characters; of more than three times that the middle goes
LEFT_OUT = "the middle of this output is left out here"
# The words that stand for a progress bar made of widgets: as it began.
BEGUN = re.compile(r"\b0%\||\b0it \[|Progress\(")
VIEW = "application/vnd.jupyter.widget-view+json"
WIDGETS = VIEW.replace("view", "state")
UNKNOWN = "how this progress bar ended was not saved"
PRINTS = re.compile(r"(?ms)\A(?!%%).*^(?:print|display|plt\.show)\(")


def check_name(name: str) -> str:
    """Return the name in one Unicode form if it keeps the sheet's rule."""
    name = unicodedata.normalize("NFC", name)
    # Marks belong to the letter before them; Python's \w leaves them out.
    kinds = ((char, unicodedata.category(char)[0]) for char in name)
    letters = "".join(k if k in "LM" else char for char, k in kinds)
    if name == PLACEHOLDER or (
        re.fullmatch(r"L[LM]*(?:[-'’ ]L[LM]*)*-[0-9]+", letters)
        and len(name.encode()) <= 200  # with more, a file's name is too long
    ):
        return name
    what = f"{name[:60]!r} is not a surname, a hyphen and a number"
    raise SubmissionError(f"{what}.\nGive it like this: --name {EXAMPLE}")


def read_notebook(path: Path, name: str) -> tuple[NotebookNode, list[str]]:
    """Read a notebook in format 4, with the name put in; what is odd."""
    if not path.is_file():
        raise SubmissionError(f"There is no notebook {path}.")
    content, faults = path.read_bytes(), {}
    try:
        text = content.decode(json.detect_encoding(content))  # or UTF-16
        nb = nbformat.reads(text, 4, capture_validation_error=faults)
        for number, cell in enumerate(nb.cells):
            # nbformat makes up another one each time.
            if "id" in cell and f'"{cell.id}"' not in text:
                cell.id = f"cell-{number}"
            if cell.cell_type == "code":
                cell.setdefault("execution_count", None)
                cell.outputs = [
                    NotebookNode(v4.new_output(out.output_type) | out)
                    for out in cell.get("outputs", [])
                    if out.get("output_type") in OUTPUTS
                ]
            elif cell.cell_type == "markdown":
                cell.source = cell.source.replace(PLACEHOLDER, name)
        _, nb = normalize(nb, strip_invalid_metadata=True)
    # nbformat lets KeyError, AttributeError and others of its parts through.
    except Exception as error:
        raise SubmissionError(
            f"{path.name} is not a valid notebook: {error!s:.200}\n"
            "Open it in Jupyter and save it again, or take an earlier copy."
        ) from error
    said = f"{path.name} does not keep to the notebook format"
    return nb, [f"{said}: {e.message[:99]}" for e in faults.values()]


def is_code(cell: NotebookNode) -> bool:
    """Whether the cell holds code to run: not only comments."""
    code = re.sub(r"(?m)^\s*#.*", "", cell.source).strip()
    skipped = "skip_execution" in tags(cell)
    return cell.cell_type == "code" and bool(code) and not skipped


def outputs(nb: NotebookNode) -> list[NotebookNode]:
    """All outputs of all cells."""
    return [out for cell in nb.cells for out in cell.get("outputs", [])]


def cut(text: str, limit: int = 3 * HALF) -> str:
    """Leave out what is written over, then the middle of a flood."""
    while len(text) > limit and (left := GONE.sub(r"\2\1", text)) != text:
        text = left
    if len(text) <= 3 * HALF:
        return text
    return f"{text[:HALF]}\n[… {LEFT_OUT} …]\n{text[-HALF:]}"


def finish_bars(nb: NotebookNode) -> None:
    """Let the words that stand for a progress bar say how it ended."""
    saved = nb.metadata.get("widgets", {}).get(WIDGETS, {})
    saved = saved.get("state", saved)  # Colab leaves "state" out
    for out in outputs(nb):
        data = out.get("data", {})
        if VIEW in data and BEGUN.search(str(data.get("text/plain"))):
            model = data.pop(VIEW).get("model_id")
            words = ended(model, saved) if model in saved else f"[{UNKNOWN}]"
            data["text/plain"] = words


def ended(model: str, saved: dict[str, dict]) -> str:
    """A widget in words, as a terminal would show it."""
    state = saved.get(model.removeprefix("IPY_MODEL_"), {}).get("state", {})
    layout = saved.get(state.get("layout", "").removeprefix("IPY_MODEL_"), {})
    if layout.get("state", {}).get("visibility") == "hidden":
        return ""
    words = "".join(ended(m, saved) for m in state.get("children", []))
    if "max" in state:
        share = state.get("value", 0) / (state["max"] or 1)
        return f"{words}|{'█' * round(10 * share):10}|"
    words += re.sub("<[^>]*>", "", str(state.get("value", "")))
    return unescape(words).replace("\u2007", " ")  # tqdm's wide spaces


def look_at(nb: NotebookNode, executed: bool) -> list[str]:
    """What is odd in a notebook, most of all in one that Jupyter saved."""
    odd, counts = defaultdict(list), []
    for index, cell in enumerate(nb.cells):
        found, where = cell.get("outputs", []), describe(nb, index)
        failed = any(out.output_type == "error" for out in found)
        ran = bool(found) or cell.get("execution_count") is not None
        counts += [cell.get("execution_count")] * ran
        if is_code(cell) and not ran:
            odd["not run"].append(where)
        if failed and "raises_exception" not in tags(cell):
            odd["ended with an error"].append(where)
        if is_code(cell) and ran and not found and PRINTS.match(cell.source):
            odd["its output is lost"].append(where)
        for what in (LEFT_OUT, UNKNOWN):
            if what in str(found):
                odd[what].append(where)
    if odd and not counts:
        raise SubmissionError("No cell was run: run all in Jupyter, and save")
    notes = [
        f"{what}: {', '.join(cells[:3])}" + " and others" * (len(cells) > 3)
        for what, cells in odd.items()
    ]
    if not executed and not outputs(nb):
        notes.append("no cell shows an output: were they stripped?")
    if not executed and counts != list(range(1, len(counts) + 1)):
        notes.append("the cells were not run once each, from top to bottom")
    return notes


def changed(nb: NotebookNode, path: Path, files: Files) -> list[str]:
    """Notes on modules that may not be those that the notebook ran with."""
    times, ran_with, notes = [path.stat().st_mtime + 1], {}, []
    for cell in nb.cells:  # if Jupyter was told to record times
        for when in cell.metadata.get("execution", {}).values():
            with contextlib.suppress(ValueError):
                times.append(datetime.fromisoformat(str(when)).timestamp())
    for out in outputs(nb):  # files' names and their SHA-256
        ran_with |= out.get("metadata", {}).get("ran_with") or {}
    for name, file in sorted(files.items()):
        newer = file.suffix == ".py" and file.stat().st_mtime > min(times)
        if name in ran_with:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            newer = digest != ran_with[name]
        if newer:
            notes.append(f"{name} is newer than the notebook's results")
    return notes
