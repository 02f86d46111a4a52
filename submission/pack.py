"""Which files belong to a notebook, and the ZIP that holds them."""

import ast
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from modulefinder import ModuleFinder
from pathlib import Path
from urllib.parse import unquote

from bs4 import BeautifulSoup
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from submission import SubmissionError
from submission.notebook import is_code
from typstpdf.cells import describe, render, tags

EXTRAS = ("requirements.txt", "constraints.txt")
# The oldest date that a ZIP can hold: packing twice gives the same bytes.
EPOCH = (1980, 1, 1, 0, 0, 0)


def parse(source: str) -> ast.Module:
    """A cell's syntax tree; without magics, empty if broken."""
    # "%%time" and its like stand above ordinary Python.
    source = re.sub(r"\A\s*%%\w+.*\n", "", source)
    with warnings.catch_warnings():
        # "\d" in a string warns here and again when it runs.
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            return ast.parse(TransformerManager().transform_cell(source))
        except (SyntaxError, ValueError):
            return ast.Module([], [])


def modules(nb: NotebookNode, root: Path) -> set[Path]:
    """The project's own modules that the notebook imports, recursively."""
    # Building submissions is no part of one.
    finder = ModuleFinder([str(root)], excludes=["submission"])
    trees = [parse(cell.source) for cell in nb.cells if is_code(cell)]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "cells.py")
        script.write_text("\n".join(map(ast.unparse, trees)), "utf-8")
        finder.run_script(str(script))
    found = {
        Path(module.__file__)
        for name, module in finder.modules.items()
        if module.__file__ and name != "__main__"
    }
    # One with a fault comes along: the run says what is wrong with it.
    bad = (root / f"{name}.py" for name in finder.badmodules)
    return found | {path for path in bad if path.is_file()}


def pictures(nb: NotebookNode, root: Path) -> set[Path]:
    """The project's picture files that Markdown cells show."""
    html = "".join(
        render(cell.source)
        for cell in nb.cells
        if cell.cell_type == "markdown"
    )
    shown = BeautifulSoup(html, "html.parser").select("img[src]")
    paths = [root / unquote(picture["src"]) for picture in shown]
    inside = (path for path in paths if path.resolve().is_relative_to(root))
    return {path for path in inside if path.is_file()}


def visible_files(folder: Path) -> set[Path]:
    """The files below a folder, without caches and hidden ones."""
    return {
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(
            part.startswith(".") or part == "__pycache__"
            for part in path.relative_to(folder).parts
        )
    }


def read_files(folder: Path) -> dict[str, bytes]:
    """The visible files below a folder, by their names in the ZIP."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in visible_files(folder)
    }


@contextlib.contextmanager
def staged(
    nb: NotebookNode, project: Path, with_figures: bool
) -> Iterator[Path]:
    """A folder with just what the ZIP will hold.

    Args:
        nb: the notebook.
        project: its folder.
        with_figures: whether to copy ``figures/``, or to leave it empty for
            the notebook to fill.

    Raises:
        SubmissionError: a file is a link to somewhere else.
    """
    members = modules(nb, project) | pictures(nb, project)
    members |= {p for name in EXTRAS if (p := project / name).is_file()}
    if with_figures:
        members |= visible_files(project / "figures")
    with tempfile.TemporaryDirectory(
        prefix="submission-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name).resolve()
        (folder / "figures").mkdir()
        for member in members:
            # A notebook from elsewhere must not reach for private files.
            if not member.resolve().is_relative_to(project):
                raise SubmissionError(
                    f"{member.name} leads out of the notebook's folder, to "
                    f"{member.resolve()}.\nCopy the file itself there."
                )
            target = folder / member.relative_to(project)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(member, target)
        yield folder


def pack(members: dict[str, bytes]) -> bytes:
    """A ZIP of these files; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(members.items()):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def check_code(nb: NotebookNode, packed: bytes) -> None:
    """Run imports and definitions as a grader would, in the unpacked ZIP.

    Raises:
        SubmissionError: they fail; names the cell.
    """
    script = ["import sys; sys.modules['submission'] = None"]
    for index, cell in enumerate(nb.cells):
        if is_code(cell):
            tree = parse(cell.source)
            if "definitions" not in tags(cell):
                tree.body = [
                    node
                    for node in tree.body
                    if isinstance(node, ast.Import | ast.ImportFrom)
                ]
            script += [f"print('\\0cell', {index}, '\\0')", ast.unparse(tree)]
    # "from __future__" must stand first.
    script.sort(key=lambda part: not part.startswith("from __future__"))
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(folder)
        # Nothing but the unpacked folder may help: no PYTHONPATH (-E), and
        # the current folder comes first on Python's path.
        done = subprocess.run(
            [sys.executable, "-EBX", "utf8", "-"],
            input="\n".join(script).encode(),
            cwd=folder,
            env=os.environ | {"MPLBACKEND": "Agg"},
            capture_output=True,
        )
    if done.returncode:
        cells = re.findall(rb"\0cell (\d+) \0", done.stdout)
        place = describe(nb, int(cells[-1])) if cells else "the code"
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise SubmissionError(
            f"In the unpacked ZIP, {place} fails: "
            f"{lines[-1] if lines else 'Python was killed'}\n"
            "A cell tagged definitions may hold only imports, functions and "
            "classes, and what it uses must stand above it."
        )
