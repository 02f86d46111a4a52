"""From the notebook to the ZIP: run, export, pack, publish."""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbconvert.utils.exceptions import ConversionException
from nbformat import NotebookNode

from submission import SubmissionError
from submission.notebook import (
    EXAMPLE,
    PLACEHOLDER,
    check_executed,
    check_name,
    outputs,
    put_name,
    read_notebook,
    says_demo,
)
from submission.pack import (
    check_code,
    pack,
    read_files,
    staged,
    visible_files,
)
from submission.publish import publish
from submission.run import SILENT, environment, run
from typstpdf import PICTURE_FILE, TypstPDFExporter

MOODLE_LIMIT = 20_000_000
DEMO_BANNER = (
    "DEMO: computed from stand-in data, not from the real data set. "
    "This is not a submission."
)


def hand_in(args: argparse.Namespace) -> str:
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
    # Hours later would be too late to learn that nothing can be written.
    tempfile.TemporaryFile(dir=output).close()
    nb = read_notebook(path)
    put_name(nb, name)
    with staged(nb, project, with_figures=args.no_execute) as folder:
        try:
            demo, notes = results(nb, path, folder, args)
            pdf, warnings = export(nb, name, folder, demo)
            full_name = f"{name}-DEMO" if demo else name
            members = {
                f"{full_name}.pdf": pdf,
                f"{full_name}.ipynb": nbformat.writes(nb).encode(),
                **read_files(folder),
            }
            packed = pack(members)
            check_code(nb, packed)
            files = {
                output / f"{full_name}.pdf": pdf,
                output / f"{full_name}.zip": packed,
            }
            # Demo figures are none of the report's.
            if not (args.no_execute or demo) and os.access(project, os.W_OK):
                drawn = (m for m in members if m.startswith("figures/"))
                files |= {project / m: members[m] for m in drawn}
            publish(files)
        except Exception as error:
            ran = any(cell.get("execution_count") for cell in nb.cells)
            if ran and not args.no_execute:
                kept = keep(nb, name, (output, project, Path.home()))
                error.add_note(f"The notebook as far as it ran: {kept}")
            raise
    report(full_name, members, len(packed), notes + warnings)
    result = output / f"{full_name}.zip"
    if demo:
        return f"DEMO only, not a submission: {result}"
    if name == PLACEHOLDER:
        return (
            f"Not to be uploaded under this name: run again with your own, "
            f"--name {EXAMPLE}"
        )
    return f"ready to upload: {result}"


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
        for path in Path().glob("[!.]*.ipynb")
        if not path.stem.endswith("-FAILED")
    )
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SubmissionError(
            f"Which notebook? In this folder there are: {names}.\n"
            "Give its file name: python -m submission NOTEBOOK.ipynb"
        )
    return found[0].resolve()


def results(
    nb: NotebookNode, path: Path, folder: Path, args: argparse.Namespace
) -> tuple[bool, list[str]]:
    """Run the notebook, or take the results that Jupyter saved.

    Args:
        nb: the notebook; running it fills in its outputs.
        path: its file.
        folder: where it runs, with just what the ZIP will hold.
        args: the command line.

    Returns:
        Whether it all comes from stand-ins (this is decided here alone), and
        what the student should look at.
    """
    demo, notes = False, []
    if args.no_execute:
        saved = path.stat().st_mtime
        notes = check_executed(nb) + [
            f"{module.name} is newer than the notebook: were its results "
            "made with it?"
            for module in sorted(folder.rglob("*.py"))
            if module.stat().st_mtime > saved + 1
        ]
    else:
        demo = args.demo or os.environ.get("DEMO", "") not in ("", "0")
        env = environment(folder, path.parent / "data", demo)
        try:
            run(nb, folder, env, args.timeout)
        except SubmissionError as error:
            kinds = {out.get("ename") for out in outputs(nb)}
            if demo or "DataUnavailable" not in kinds:
                raise
            bar = "*" * 70
            again = "Starting again on stand-ins: only a DEMO."
            print(bar, error, again, bar, sep="\n", file=sys.stderr)
            demo = True
            run(nb, folder, env | {"DEMO": "1"}, args.timeout)
    files = visible_files(folder / "figures")
    drawn = sum(bool(PICTURE_FILE.fullmatch(path.name)) for path in files)
    shown = sum(
        "image/" in " ".join(out.get("data", [])) for out in outputs(nb)
    )
    if shown < drawn:
        notes.append(
            f"figures/ holds {drawn} pictures, the cells show {shown}"
        )
    return demo or says_demo(nb), notes


def export(
    nb: NotebookNode, name: str, folder: Path, demo: bool
) -> tuple[bytes, list[str]]:
    """The notebook's PDF, and what is shown in it differently.

    Raises:
        SubmissionError: Typst refuses the notebook as a whole.
    """
    exporter = TypstPDFExporter(
        author=name, banner=DEMO_BANNER * demo, log=SILENT
    )
    about = {"metadata": {"name": name, "path": str(folder)}}
    try:
        pdf, resources = exporter.from_notebook_node(nb, about)
    except ConversionException as error:
        raise SubmissionError(f"Typst cannot set it: {error}") from error
    return pdf, resources["warnings"]


def keep(nb: NotebookNode, name: str, folders: Sequence[Path]) -> str:
    """Save hours of work in the first folder that takes it; say where."""
    for folder in folders:
        path = folder / f"{name}-FAILED.ipynb"
        with contextlib.suppress(OSError):
            publish({path: nbformat.writes(nb).encode()})
            return str(path)
    return "lost, since no folder takes it"


def report(
    name: str, members: dict[str, bytes], size: int, notes: list[str]
) -> None:
    """Print what the ZIP holds, and what the student should look at."""
    print(f"{name}.zip  {size / 1e6:.2f} MB")
    for member, data in sorted(members.items()):
        print(f"  {member}  {len(data) / 1e6:.2f} MB")
    for note in notes:
        print(f"Look at: {note}")
    if size > MOODLE_LIMIT:
        print(
            "Look at: Moodle usually takes 20 MB at most: save figures with "
            "a lower dpi, or as PDF"
        )
