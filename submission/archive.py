"""The ZIP: which files belong in it, packing them, checking the result."""

import ast
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from pypdf import PdfReader

from submission import SubmissionError
from submission.notebook import (
    FINGERPRINT,
    describe,
    fingerprints,
    is_code,
    tags,
)

EXTRAS = ("requirements.txt", "README.md")
# The oldest date that a ZIP can hold: packing twice gives the same bytes.
EPOCH = (1980, 1, 1, 0, 0, 0)
PICTURE = re.compile(r"!\[[^\]]*\]\(\s*<?([^)\s>]+)")

# Runs in the unpacked ZIP; leaves the faulty cell and its error in a file.
RUNNER = """
import pathlib, sys
source, verdict = map(pathlib.Path, sys.argv[1:])
space = {"__name__": "__main__"}
try:
    exec(compile(source.read_text("utf-8"), "check.py", "exec"), space)
except BaseException as error:
    text = f"{space.get('cell', -1)} {type(error).__name__}: {error}"
    verdict.write_text(text, "utf-8")
    sys.exit(1)
"""


def parse(source: str) -> ast.Module:
    """A cell's or module's syntax tree; without magics, empty if broken."""
    # "%%time" and its like stand above ordinary Python.
    source = re.sub(r"\A\s*%%\w+.*\n", "", source)
    with warnings.catch_warnings():
        # "\d" in a string warns here and again when it runs.
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            return ast.parse(TransformerManager().transform_cell(source))
        except (SyntaxError, ValueError):
            return ast.Module([], [])


def imported(tree: ast.Module, package: list[str]) -> Iterator[list[str]]:
    """Every module name that a tree may import, split at the dots.

    Args:
        tree: a cell or module.
        package: the package the module is in, for relative imports.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                base = package[: len(package) + 1 - node.level] + base
            # "from package import name": the name may be a module.
            for alias in node.names:
                yield [*base, alias.name]
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(
                ("import_module", "__import__")
            )
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value).split(".")


def local_modules(nb: NotebookNode, root: Path) -> list[str]:
    """The project's own modules that the notebook imports, recursively.

    Returns:
        Paths relative to the project's folder, sorted. A package comes with
        all its modules, since it may choose among them at run time.

    Raises:
        SubmissionError: a module is a link to somewhere outside.
    """
    found: set[Path] = set()
    waiting = [
        name
        for cell in nb.cells
        if is_code(cell)
        for name in imported(parse(cell.source), [])
    ]
    while waiting:
        name = waiting.pop()
        # Building submissions is no part of one.
        if name[0] in ("", "submission", *sys.builtin_module_names):
            continue
        if (root / f"{name[0]}.py").is_file():
            modules = [root / f"{name[0]}.py"]
        else:
            modules = visible_files(root / name[0], root, "*.py")
        for path in modules:
            if path not in found:
                inside(path, root)
                found.add(path)
                tree = parse(path.read_text("utf-8", "replace"))
                package = list(path.parent.relative_to(root).parts)
                waiting += imported(tree, package)
    return sorted(path.relative_to(root).as_posix() for path in found)


def inside(path: Path, root: Path) -> Path:
    """Return the path if it really lies in the folder.

    Raises:
        SubmissionError: it leads out, by a link or by "..".
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise SubmissionError(
            f"{path.name} leads out of the notebook's folder, to "
            f"{path.resolve()}.\nCopy the file itself into the folder."
        )
    return path


def visible_files(folder: Path, root: Path, pattern: str) -> list[Path]:
    """The files below a folder, without caches and hidden ones."""
    return [
        inside(path, root)
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
        and not any(
            part.startswith(".") or part == "__pycache__"
            for part in path.relative_to(root).parts
        )
    ]


def shown_pictures(nb: NotebookNode, root: Path) -> list[str]:
    """The project's picture files that Markdown cells show."""
    shown = {
        unquote(target)
        for cell in nb.cells
        if cell.cell_type == "markdown"
        for target in PICTURE.findall(cell.source)
        if ":" not in target
    }
    return sorted(
        inside(root / target, root).relative_to(root).as_posix()
        for target in shown
        if (root / target).is_file()
    )


def belonging(nb: NotebookNode, root: Path) -> list[str]:
    """All files that the notebook needs beside it, except figures/."""
    extras = [name for name in EXTRAS if (root / name).is_file()]
    for name in extras:
        inside(root / name, root)
    return sorted(
        {*local_modules(nb, root), *shown_pictures(nb, root), *extras}
    )


def pack(members: dict[str, bytes]) -> bytes:
    """A ZIP of these files; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(members.items()):
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data, compresslevel=9)
    return buffer.getvalue()


def check(
    packed: bytes,
    name: str,
    members: dict[str, bytes],
    expected: dict[str, Any],
) -> int:
    """Reopen a finished ZIP as a grader would; return the PDF's pages.

    Args:
        packed: the ZIP.
        name: what its PDF and notebook are called.
        members: the files that went in.
        expected: the exporter's "headings" and number of "pictures".

    Raises:
        SubmissionError: something is missing or does not work.
    """
    with (
        zipfile.ZipFile(io.BytesIO(packed)) as archive,
        tempfile.TemporaryDirectory() as folder,
    ):
        if archive.testzip() or set(archive.namelist()) != set(members):
            raise SubmissionError("The ZIP came out damaged; run again.")
        archive.extractall(folder)
        nb = nbformat.read(Path(folder, f"{name}.ipynb"), as_version=4)
        for index, cell in enumerate(nb.cells):
            if is_code(cell) and cell.execution_count is None:
                raise SubmissionError(
                    f"{describe(nb, index)} has not been run."
                )
        check_code(nb, Path(folder))
        return check_pdf(Path(folder, f"{name}.pdf"), expected)


def check_pdf(path: Path, expected: dict[str, Any]) -> int:
    """Look for the report's headings and pictures; return the pages.

    Raises:
        SubmissionError: the PDF lacks some.
    """
    reader = PdfReader(path)
    outline = [item.title for item in flat(reader.outline)]
    missing = len(outline) != len(expected["headings"]) or any(
        heading and letters(heading) != letters(title)
        for heading, title in zip(expected["headings"], outline, strict=False)
    )
    if missing:
        raise SubmissionError(
            f"The PDF's headings {outline} are not the notebook's "
            f"{expected['headings']}."
        )
    drawn = {
        item.idnum
        for page in reader.pages
        for item in page["/Resources"].get("/XObject", {}).values()
    }
    if len(drawn) < expected["pictures"]:
        raise SubmissionError(
            f"The PDF shows {len(drawn)} of {expected['pictures']} pictures."
        )
    return len(reader.pages)


def letters(text: str) -> str:
    """A heading without the spaces and signs that typesetting may change."""
    return re.sub(r"[\W_]", "", text)


def flat(outline: list[Any]) -> Iterator[Any]:
    """The entries of a nested outline in reading order."""
    for entry in outline:
        if isinstance(entry, list):
            yield from flat(entry)
        else:
            yield entry


def check_code(nb: NotebookNode, folder: Path) -> None:
    """Run imports and definitions in a fresh process, as a grader would.

    Raises:
        SubmissionError: they fail; names the cell.
    """
    script = ["import sys; sys.modules['submission'] = None; cell = -1"]
    for index, cell in enumerate(nb.cells):
        if is_code(cell):
            tree = parse(cell.source)
            if "definitions" not in tags(cell):
                tree.body = [
                    node
                    for node in tree.body
                    if isinstance(node, ast.Import | ast.ImportFrom)
                ]
            script += [f"cell = {index}", ast.unparse(tree)]
    # "from __future__" must stand first.
    script.sort(key=lambda part: not part.startswith("from __future__"))
    with tempfile.TemporaryDirectory() as outside:
        source, verdict = Path(outside, "check.py"), Path(outside, "verdict")
        source.write_text("\n".join(script), "utf-8")
        # Nothing but the unpacked folder may help: no PYTHONPATH (-E), and
        # the current folder comes first on Python's path.
        done = subprocess.run(
            [sys.executable, "-EBc", RUNNER, str(source), str(verdict)],
            cwd=folder,
            env=os.environ | {"MPLBACKEND": "Agg"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if done.returncode == 0:
            return
        index, reason = "-1", "Python was killed"
        if verdict.exists():
            index, _, reason = verdict.read_text("utf-8").partition(" ")
    place = describe(nb, int(index)) if index != "-1" else "the code"
    raise SubmissionError(
        f"In the unpacked ZIP, {place} fails: {reason}\n"
        "A cell tagged definitions may hold only imports, functions and "
        "classes, and what it uses must stand above it."
    )


def edited_since(nb: NotebookNode, path: Path, modules: list[str]) -> None:
    """Refuse a notebook whose results are not those of its code.

    Args:
        nb: the notebook as it was run in Jupyter.
        path: its file.
        modules: the files that it imports, relative to its folder.

    Raises:
        SubmissionError: a cell was not run, not in order, failed or was
            edited afterwards, or a module was.
    """
    expected = 0
    for index, cell in enumerate(nb.cells):
        if not is_code(cell):
            continue
        expected += 1
        if cell.execution_count is None:
            fault = "has not been run"
        elif any(out.output_type == "error" for out in cell.outputs):
            fault = "ended with an error"
        elif cell.execution_count != expected:
            fault = "was not run in order"
        else:
            continue
        raise SubmissionError(
            f"{describe(nb, index)} {fault}.\nIn Jupyter, choose Run → "
            "Restart Kernel and Run All Cells, save, and try again."
        )
    if changed := changes(nb, path, modules):
        raise SubmissionError(
            f"{'; '.join(changed)}.\nIn Jupyter, choose Run → Restart "
            "Kernel and Run All Cells, save, and try again."
        )


def changes(nb: NotebookNode, path: Path, modules: list[str]) -> list[str]:
    """Name the cells and files that were edited after the run."""
    root = path.parent
    prints = fingerprints(nb)
    # Without fingerprints: a module is older than the results it gave.
    saved = path.stat().st_mtime
    cells, files = {}, {}
    if prints:
        cells, files = (
            prints[-1].get("cells", {}),
            prints[-1].get("files", {}),
        )
    changed = []
    for index, cell in enumerate(nb.cells):
        if (
            prints
            and is_code(cell)
            and not any(
                FINGERPRINT in out.get("data", {}) for out in cell.outputs
            )
        ):
            known = cells.get(str(cell.execution_count))
            if known != digest(cell.source.strip().encode()):
                changed.append(
                    f"{describe(nb, index)} was edited after it ran"
                )
    # A fingerprint may name more than modules, such as the figures drawn.
    for name in sorted({*modules, *files}):
        if name in files:
            there = (root / name).is_file()
            stale = not there or files[name] != digest(
                inside(root / name, root).read_bytes()
            )
        else:
            stale = (root / name).stat().st_mtime > saved + 1
        if stale:
            changed.append(f"{name} changed since the run")
    return changed


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
