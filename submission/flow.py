"""From the notebook to the ZIP: run, export, pack, publish."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nbconvert.utils.exceptions import ConversionException
from nbformat import NotebookNode

from submission import SubmissionError, notebook, pack
from submission.run import SILENT, run
from typstpdf import TypstPDFExporter

PICTURE = re.compile(r"(?i)\.(png|jpe?g|svg|gif|webp|pdf)$")
MOODLE_LIMIT = 20_000_000
DEMO_BANNER = (
    "DEMO: computed from stand-in data, not from the real data set. "
    "This is not a submission."
)


def hand_in(
    path: Path,
    name: str | None = None,
    *,
    execute: bool = True,
    demo: bool = False,
    timeout: int | None = None,
    output_dir: Path | None = None,
    include: Sequence[str] = (),
) -> str:
    """Make a notebook's PDF and ZIP, with the command line's options.

    Returns:
        The last line to print.

    Raises:
        SubmissionError: what is wrong and how to fix it.
        OSError: no space, no permission.
    """
    # What a failed run or a demo left can be handed in as it is.
    stem = re.sub("-(DEMO|FAILED)$", "", path.stem)
    name = notebook.check_name(stem if name is None else name)
    path, date = path.resolve(), pack.zip_date()
    project = path.parent
    output = (output_dir or project).resolve()
    include = [os.path.relpath(project / p, project) for p in include]
    # Hours later would be too late to learn that nothing can be written.
    output.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=output).close()
    keep_figures = execute and os.access(project, os.W_OK)
    if keep_figures and os.path.lexists(project / "figures"):
        tempfile.TemporaryFile(dir=project / "figures").close()
    nb = notebook.read_notebook(path, name)
    wanted = include if execute else [*include, "figures"]
    files, notes = pack.find_files(nb, path, name, wanted)
    doubts = pack.not_found(nb, files)
    if execute:
        for note in notes + doubts:
            print(f"Look at: {note}", file=sys.stderr)
    else:
        notes += doubts + notebook.look_at(nb, path.stat().st_mtime, files)
    with tempfile.TemporaryDirectory(
        prefix="submission-", ignore_cleanup_errors=True
    ) as scratch:
        folder = Path(scratch).resolve()
        pack.stage(files, folder)
        try:
            if execute:
                demo = run(nb, folder, project, demo, timeout)
            demo = demo or notebook.says_demo(nb)
            full_name = f"{name}-DEMO" if demo else name
            pdf, warnings = export(nb, name, folder, demo)
            members, others = pack.collect(folder, files, include)
            figures = {m: members[m] for m in members if "figures/" in m[:8]}
            members[f"{full_name}.pdf"] = pdf
            members[f"{full_name}.ipynb"] = notebook.written(nb)
            packed = pack.pack(members, date)
            results = {output / f"{full_name}.pdf": pdf}
            # Demo figures are none of the report's.
            if keep_figures and not demo:
                results |= {project / m: figures[m] for m in figures}
            zip_file = output / f"{full_name}.zip"
            pack.publish(results | {zip_file: packed})
        except BaseException as error:
            if execute and any(c.get("execution_count") for c in nb.cells):
                kept = keep(nb, name, (output, project, Path.home()))
                error.add_note(f"The notebook as far as it ran: {kept}")
            raise
    print(f"{full_name}.zip  {len(packed) / 1e6:.2f} MB")
    for member, data in sorted(members.items()):
        print(f"  {member}  {len(data) / 1e6:.2f} MB")
    notes += notebook.left_out(nb) + warnings + others
    drawn = [m for m in figures if not (execute and m in files)]
    shown = [
        o for o in notebook.outputs(nb) if "image/" in str(o.get("data"))
    ]
    if len(shown) < len(drawn):
        figures = f"figures/ holds {len(drawn)} files"
        notes.append(f"{figures}, the cells show {len(shown)} pictures")
    if len(packed) > MOODLE_LIMIT:
        notes.append("Moodle usually takes 20 MB at most")
    for note in notes:
        print(f"Look at: {note}")
    if demo:
        return f"DEMO only, not a submission: {zip_file}"
    if name == notebook.PLACEHOLDER:
        return (
            f"Not to be uploaded under this name: run again with your own, "
            f"--name {notebook.EXAMPLE}"
        )
    return f"ready to upload: {zip_file}"


def export(
    nb: NotebookNode, name: str, folder: Path, demo: bool
) -> tuple[bytes, list[str]]:
    """The notebook's PDF, and what is shown in it differently."""
    banner = DEMO_BANNER * demo
    exporter = TypstPDFExporter(author=name, banner=banner, log=SILENT)
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
            pack.publish({path: notebook.written(nb)})
            return str(path)
    return "lost, since no folder takes it"
