"""From the notebook to the ZIP: run, export, pack, publish."""

import contextlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nbformat import NotebookNode

from submission import notebook, pack
from submission.run import SILENT, run
from typstpdf import TypstPDFExporter

MOODLE_LIMIT = 20_000_000
PICTURE = re.compile(r"(?i)\.(png|jpe?g|svg|gif|webp|pdf)$")
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
    date, path = pack.zip_date(), path.resolve()
    project, output = path.parent, (output_dir or path.parent).resolve()
    include = [os.path.relpath(project / p, project) for p in include]
    output.mkdir(parents=True, exist_ok=True)
    save_figures = execute and os.access(project, os.W_OK)
    old_figures = [project / "figures"] * (project / "figures").exists()
    # Hours later would be too late to learn that nothing can be written.
    for place in (output, *old_figures * save_figures):
        tempfile.TemporaryFile(dir=place).close()
    nb = notebook.read_notebook(path, name)
    files, notes = pack.find_files(
        nb, path, name, [*include, *["figures"] * (not execute)]
    )
    notes += pack.not_found(nb, files)
    if execute:
        for note in notes:
            print(f"Look at: {note}", flush=True)
    else:
        notes += notebook.look_at(nb, path.stat().st_mtime, files)
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
            members, left = pack.collect(folder, files, include)
            figures = {m: members[m] for m in members if m[:8] == "figures/"}
            members[f"{full_name}.pdf"] = pdf
            members[f"{full_name}.ipynb"] = notebook.written(nb)
            packed = pack.pack(members, date)
            results = {output / f"{full_name}.pdf": pdf}
            # Demo figures are none of the report's.
            if save_figures and not demo:
                results |= {project / m: figures[m] for m in figures}
            zip_file = output / f"{full_name}.zip"
            pack.publish(results | {zip_file: packed})
        except BaseException as error:
            if execute and any(c.get("execution_count") for c in nb.cells):
                kept = keep(nb, name, (output, project, Path.home()))
                error.add_note(f"The notebook as far as it ran: {kept}")
            raise
    drawn = sum(
        bool(PICTURE.search(m)) and not (execute and m in files)
        for m in figures
    )
    contents = [str(out.get("data")) for out in notebook.outputs(nb)]
    shown = sum(  # one of HTML may show several
        max("image/" in data, data.count("data:image/")) for data in contents
    )
    if shown < drawn:
        notes.append(f"figures/ holds {drawn} pictures, the cells {shown}")
    report(full_name, members, len(packed), notes + warnings + left)
    if demo:
        return f"DEMO only, not a submission: {zip_file}"
    if name == notebook.PLACEHOLDER:
        return f"Not to be uploaded: run again, --name {notebook.EXAMPLE}"
    return f"ready to upload: {zip_file}"


def export(
    nb: NotebookNode, name: str, folder: Path, demo: bool
) -> tuple[bytes, list[str]]:
    """The notebook's PDF, and what is shown in it differently."""
    banner = DEMO_BANNER * demo
    exporter = TypstPDFExporter(author=name, banner=banner, log=SILENT)
    about = {"metadata": {"name": name, "path": str(folder)}}
    pdf, resources = exporter.from_notebook_node(nb, about)
    return pdf, notebook.left_out(nb) + resources["warnings"]


def keep(nb: NotebookNode, name: str, folders: Sequence[Path]) -> str:
    """Save hours of work in the first folder that takes it; say where."""
    for folder in folders:
        path = folder / f"{name}-FAILED.ipynb"
        with contextlib.suppress(OSError):
            pack.publish({path: notebook.written(nb)})
            return str(path)
    return "lost, since no folder takes it"


def report(
    name: str, members: dict[str, bytes], size: int, notes: Sequence[str]
) -> None:
    """Print what the ZIP holds, and what the student should look at."""
    print(f"{name}.zip  {size / 1e6:.2f} MB")
    for member, data in sorted(members.items()):
        print(f"  {member}  {len(data) / 1e6:.2f} MB")
    large = ["Moodle usually takes 20 MB at most"] * (size > MOODLE_LIMIT)
    for note in [*notes, *large]:
        print(f"Look at: {note}")
