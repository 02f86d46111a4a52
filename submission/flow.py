"""From the notebook to the ZIP: run, export, pack, publish."""

import contextlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from nbformat import v4

from submission import notebook, pack
from submission.run import run
from typstpdf import TypstPDFExporter

BANNER = "DEMO: computed from stand-in data. This is not a submission."


def hand_in(
    path: Path,
    name: str | None = None,
    *,
    execute: bool = True,
    demo: bool = False,
    timeout: int | None = None,
    output_dir: Path | None = None,
    include: list[str] | tuple[str, ...] = (),
) -> str:
    """Make a notebook's PDF and ZIP; return the last line to print."""
    name = notebook.check_name(path.stem if name is None else name)
    project = path.parent.resolve()  # beside a link, not where it leads
    output = (output_dir or project).expanduser().resolve()
    path = project / path.name
    include = [os.path.relpath(project / p, project) for p in include]
    pack.publish(output, {})  # to fail now, not after hours
    nb, notes = notebook.read_notebook(path, name)
    saved = [*include, "figures"]
    asked = include if execute else saved
    files, outside = pack.find_files(nb, path, name, asked)
    lost = [p for p in include if not pack.matching(project, [p])]
    notes += outside + [f"--include {p}: no such file at first" for p in lost]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch).resolve()
        (folder / "figures").mkdir()
        for member, file in files.items():
            (folder / member).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, folder / member)
        absent = pack.not_found(nb, project, folder)
        if not execute:
            notes += absent + notebook.changed(nb, path, files)
        try:
            if execute:
                for note in notes + absent:
                    print(f"Look at: {note}", flush=True)
                demo |= os.environ.get("DEMO", "") not in ("", "0", "auto")
                run(nb, folder, project, demo, timeout)
            for out in notebook.outputs(nb):
                for line in re.findall(r"(?m)^DEMO:.*", out.get("text", "")):
                    print(line, file=sys.stderr)
                    demo = True
            full_name = f"{name}-DEMO" if demo else name
            notebook.finish_bars(nb)
            notes += notebook.look_at(nb, executed=execute)
            # Preprocessors refuse what breaks the notebook format.
            exporter = TypstPDFExporter(author=name, default_preprocessors=[])
            exporter.banner = BANNER * demo
            about = {"metadata": {"name": name, "path": str(folder)}}
            pdf, resources = exporter.from_notebook_node(nb, about)
            after, _ = pack.find_files(nb, folder / path.name, name, saved)
            notes += pack.left_over(folder, after)
            found = (files | after).items()  # a run may delete its input
            members = {member: file.read_bytes() for member, file in found}
            named = set(pack.pictures(nb, folder))
            results = {f"{full_name}.pdf": pdf}
            # Half a character in an output is no reason to fail.
            content = v4.writes(nb).encode(errors="backslashreplace")
            members |= results | {f"{full_name}.ipynb": content}
            results[f"{full_name}.zip"] = packed = pack.pack(members)
            pack.publish(output, results)
        except BaseException as error:
            failed = f"{name}-FAILED.ipynb"
            ran = execute and any(c.get("execution_count") for c in nb.cells)
            content = v4.writes(nb).encode(errors="backslashreplace")
            for place in (output, project, Path.home()) * ran:
                with contextlib.suppress(OSError):
                    pack.publish(place, {failed: content})
                    error.add_note(f"Kept as far as it ran: {place / failed}")
                    break
            raise
        if execute and not demo:
            with contextlib.suppress(OSError):  # perhaps read-only
                for file in pack.visible(folder / "figures"):
                    to = project / file.relative_to(folder)
                    pack.publish(to.parent, {to.name: file.read_bytes()})
    data = [str(out.get("data")) for out in notebook.outputs(nb)]
    shown = sum(max("image/" in d, d.count("data:image/")) for d in data)
    figures = {f for m, f in after.items() if m.startswith("figures/")}
    drawn = sum(bool(pack.PICTURE.search(f.name)) for f in figures - named)
    said = f"figures/ holds {drawn} pictures, the cells {shown}"
    notes += [said] * (shown < drawn)
    notes += ["Moodle usually takes 20 MB at most"] * (len(packed) > 20e6)
    zip_file = output / f"{full_name}.zip"
    for member, data in [(zip_file.name, packed), *sorted(members.items())]:
        print(f"{member}  {len(data) / 1e6:.2f} MB")
    for note in notes + resources["warnings"]:
        print(f"Look at: {note}")
    if demo:
        return f"DEMO only, not a submission: {zip_file}"
    if name == notebook.PLACEHOLDER:
        return f"Not to be uploaded: run again, --name {notebook.EXAMPLE}"
    return f"ready to upload: {zip_file}"
