"""From the notebook to the ZIP: run, export, pack, check, publish."""

import argparse
import contextlib
import copy
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from errno import EISDIR
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.utils.exceptions import ConversionException
from nbformat import NotebookNode

from submission import EXAMPLE, SubmissionError, archive, explain
from submission.execute import DataUnavailable, run
from submission.exporter import TypstPDFExporter
from submission.notebook import (
    DEMO_BANNER,
    PLACEHOLDER,
    check_name,
    is_demo,
    put_name,
    read_notebook,
)

MOODLE_LIMIT = 20_000_000
EARLIER = "-earlier"


def find_notebook(given: Path | None) -> Path:
    """The notebook to hand in.

    Raises:
        SubmissionError: it is missing, or there are several.
    """
    if given is not None:
        if not given.is_file():
            raise SubmissionError(f"There is no notebook {given}.")
        return given.resolve()
    found = sorted(
        path
        for path in Path().glob("*.ipynb")
        if not path.name.startswith(".") and not path.stem.endswith("-FAILED")
    )
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SubmissionError(
            f"Which notebook? In this folder there are: {names}.\n"
            "Give its file name: python -m submission NOTEBOOK.ipynb"
        )
    return found[0].resolve()


def environment(
    project: Path, modules: list[str], demo: bool
) -> dict[str, str]:
    """The kernel's environment: it runs elsewhere, the data stays here."""
    data = os.environ.get("DATA_DIR")
    env = os.environ | {
        "DATA_DIR": os.path.abspath(data) if data else str(project / "data")
    }
    # In a kernel, PYTHONPATH comes before the notebook's own folder: a module
    # of the same name would run instead of the one that is handed in.
    own = {module.partition("/")[0] for module in modules}
    env["PYTHONPATH"] = os.pathsep.join(
        folder
        for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if folder and not any(Path(folder, name).exists() for name in own)
    )
    if demo:
        env["DEMO"] = "1"
    return env


@contextlib.contextmanager
def staged(nb: NotebookNode, project: Path) -> Iterator[Path]:
    """A folder with just what the ZIP will hold, and empty figures/."""
    with tempfile.TemporaryDirectory(
        prefix="submission-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name).resolve()
        (folder / "figures").mkdir()
        for member in archive.belonging(nb, project):
            target = folder / member
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(project / member, target)
        yield folder


def publish(files: dict[Path, bytes]) -> None:
    """Write all files, or leave what was there as it was.

    Raises:
        OSError: no space, no permission.
    """
    parts: dict[Path, str] = {}
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(EISDIR, "Is a folder", str(path))
            handle, parts[path] = tempfile.mkstemp(
                dir=path.parent, prefix=".submission-"
            )
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                error.filename = error.filename or str(path)
                raise
            # mkstemp lets nobody else read; a submission is no secret.
            os.chmod(parts[path], 0o644)
        exchange(parts)
    finally:
        for part in parts.values():
            Path(part).unlink(missing_ok=True)


def exchange(parts: dict[Path, str]) -> None:
    """Move files to their places, all of them or none.

    A viewer may hold the PDF open (Windows), or Ctrl-C may come between two
    files: a new PDF beside an old ZIP would be worse than neither.

    Args:
        parts: where each file belongs, and where it is.

    Raises:
        OSError: no permission.
    """
    earlier: dict[Path, str] = {}
    try:
        for path, part in parts.items():
            earlier[path] = part + EARLIER
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, earlier[path])
            os.replace(part, path)
    except BaseException:
        for path, kept in earlier.items():
            # One that cannot be put back keeps none of the others away.
            with contextlib.suppress(OSError):
                if os.path.exists(kept):
                    os.replace(kept, path)
                elif not os.path.exists(parts[path]):
                    path.unlink(missing_ok=True)
        raise
    for kept in earlier.values():
        Path(kept).unlink(missing_ok=True)


def export(
    nb: NotebookNode, name: str, folder: Path, banner: str
) -> tuple[bytes, dict[str, Any]]:
    """The notebook's PDF, and what the check expects of it.

    Raises:
        SubmissionError: the PDF would not show what the notebook says.
    """
    exporter = TypstPDFExporter(author=name, banner=banner)
    resources = {"metadata": {"name": name, "path": str(folder)}}
    try:
        return exporter.from_notebook_node(nb, resources)
    except ConversionException as error:
        raise SubmissionError(str(error)) from error


def proofread(nb: NotebookNode, name: str, folder: Path) -> None:
    """Find faults of the text before hours of computing, not after.

    Raises:
        SubmissionError: as for the export.
    """
    draft = copy.deepcopy(nb)
    for cell in draft.cells:
        if cell.cell_type == "code":
            cell.outputs = []
        else:
            # The run may still have to draw them.
            cell.source = archive.PICTURE.sub("(", cell.source)
    export(draft, name, folder, "")


def build(args: argparse.Namespace) -> str:
    """Do what the command line asks for; return the last line to print.

    Raises:
        SubmissionError: what is wrong and how to mend it.
        OSError: no space, no permission.
    """
    path = find_notebook(args.notebook)
    name = check_name(path.stem if args.name is None else args.name)
    project = path.parent
    output = (args.output_dir or project).resolve()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=output):
        pass
    nb = read_notebook(path)
    if args.no_execute:
        modules = archive.local_modules(nb, project)
        archive.edited_since(nb, path, modules)
        with staged(nb, project) as folder:
            for figure in archive.visible_files(
                project / "figures", project, "*"
            ):
                target = folder / figure.relative_to(project)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(figure, target)
            return finish(nb, name, folder, output)
    # The notebook would see the variable whoever set it.
    if not args.demo and os.environ.get("DEMO", "") in ("", "0"):
        try:
            return execute(args, nb, name, project, output)
        except DataUnavailable as reason:
            say(
                f"No data: {reason}\n"
                "Starting again on stand-in data: the result is only a DEMO."
            )
    return execute(args, nb, name, project, output, demo=True)


def execute(
    args: argparse.Namespace,
    nb: NotebookNode,
    name: str,
    project: Path,
    output: Path,
    demo: bool = False,
) -> str:
    """Run the notebook and finish; keep what there is if that fails."""
    if demo:
        say("DEMO: this run uses stand-in data; it makes no submission.")
    with staged(nb, project) as folder:
        proofread(nb, name, folder)
        try:
            modules = archive.local_modules(nb, project)
            env = environment(project, modules, demo)
            run(nb, folder, env, args.timeout)
            return finish(nb, name, folder, output, project, demo)
        except (SubmissionError, OSError) as error:
            reason = explain(error) if isinstance(error, OSError) else error
            kept = keep(
                nb,
                f"{name}{'-DEMO' * demo}-FAILED.ipynb",
                (output, project, Path.home()),
            )
            raise SubmissionError(
                f"{reason}\nThe notebook as far as it ran: {kept}"
            ) from error


def keep(nb: NotebookNode, name: str, folders: Sequence[Path]) -> str:
    """Save hours of work in the first folder that takes it; say where."""
    for folder in folders:
        with contextlib.suppress(OSError):
            publish({folder / name: nbformat.writes(nb).encode()})
            return str(folder / name)
    return "lost, since no folder takes it"


def finish(
    nb: NotebookNode,
    name: str,
    folder: Path,
    output: Path,
    project: Path | None = None,
    demo: bool = False,
) -> str:
    """Make, check and publish PDF and ZIP of an executed notebook.

    Args:
        nb: the executed notebook.
        name: what the results are called.
        folder: holds the files that go into the ZIP.
        output: where the results go.
        project: where new figures go, if the notebook just drew them.
        demo: mark everything as a demonstration.
    """
    demo = demo or is_demo(nb)
    full_name = f"{name}-DEMO" if demo else name
    members = {
        member: (folder / member).read_bytes()
        for member in archive.belonging(nb, folder)
    }
    figures = {
        figure.relative_to(folder): figure.read_bytes()
        for figure in archive.visible_files(folder / "figures", folder, "*")
    }
    members |= {figure.as_posix(): data for figure, data in figures.items()}
    pdf, expected = export(nb, name, folder, DEMO_BANNER if demo else "")
    put_name(nb, name)
    members[f"{full_name}.pdf"] = pdf
    members[f"{full_name}.ipynb"] = nbformat.writes(nb).encode()
    packed = archive.pack(members)
    pages = archive.check(packed, full_name, members, expected)
    files = {
        output / f"{full_name}.pdf": pdf,
        output / f"{full_name}.zip": packed,
    }
    # Demo figures are none of the report's; a folder may be read-only.
    if project and not demo and os.access(project, os.W_OK):
        drawn = {project / figure: data for figure, data in figures.items()}
        files = drawn | files
    publish(files)
    return summary(output / f"{full_name}.zip", members, pages, demo)


def summary(
    path: Path, members: dict[str, bytes], pages: int, demo: bool
) -> str:
    """Show what was made; return the line that says what to do with it."""
    size = path.stat().st_size
    print(f"{path.name}  {megabytes(size)}")
    for name, data in sorted(members.items()):
        note = f", {pages} pages" if name == f"{path.stem}.pdf" else ""
        print(f"  {name}  {megabytes(len(data))}{note}")
    for name in archive.EXTRAS:
        if name not in members:
            print(f"Note: there is no {name} to pack.")
    if size > MOODLE_LIMIT:
        print(
            "Warning: Moodle usually takes 20 MB at most. Save figures with "
            "a lower dpi, or as PDF."
        )
    if demo:
        return f"DEMO only, not a submission: {path}"
    if path.stem == PLACEHOLDER:
        return (
            f"Not to be uploaded under this name: run again with your own, "
            f"--name {EXAMPLE}"
        )
    return f"ready to upload: {path}"


def megabytes(size: int) -> str:
    """A file's size for a person."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def say(message: str) -> None:
    """Tell the user something that must not be overlooked."""
    bar = "*" * 70
    print(f"{bar}\n{message}\n{bar}", file=sys.stderr, flush=True)
