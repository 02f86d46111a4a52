"""The whole command: what is made, what is refused, what is kept."""

import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbformat.v4 import new_output
from pypdf import PdfReader
from zoo import (
    NAME,
    code,
    headings,
    markdown,
    notebook,
    save,
    snapshot,
    text,
)

from submission import archive, build, exporter
from submission.__main__ import main

Capture = pytest.CaptureFixture[str]


def last_line(capsys: Capture) -> str:
    return capsys.readouterr().out.strip().splitlines()[-1]


def unpack(path: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_run_makes_a_checked_zip(project: Path, capsys: Capture) -> None:
    source = Path("report.ipynb").read_bytes()
    assert main(["--name", NAME]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines()[-1].startswith("ready to upload")
    assert "cell 3/4  Task 1: Train" in output.err
    members = unpack(f"{NAME}.zip")
    assert list(members) == [
        f"{NAME}.ipynb",
        f"{NAME}.pdf",
        "README.md",
        "deeper.py",
        "figures/a.txt",
        "helper.py",
        "requirements.txt",
    ]
    assert members["figures/a.txt"] == b"new"
    assert members[f"{NAME}.pdf"] == Path(f"{NAME}.pdf").read_bytes()
    reader = PdfReader(io.BytesIO(members[f"{NAME}.pdf"]))
    shown = text(reader)
    assert f"loss 2 {project / 'data'}" in shown.replace("\n", "")
    assert reader.metadata.title == "Sheet 7"
    assert headings(reader) == [(1, "Task 1: Train"), (1, "Task 2: Draw")]
    nb = nbformat.reads(members[f"{NAME}.ipynb"].decode(), as_version=4)
    assert [c.execution_count for c in nb.cells if c.cell_type == "code"] == [
        1,
        2,
        3,
        4,
    ]
    assert NAME in nb.cells[0].source
    assert Path("report.ipynb").read_bytes() == source
    assert Path("figures/a.txt").read_text() == "new"
    assert not list(project.glob(".*"))

    # The executed notebook, packed again and again, gives the same bytes.
    Path(f"{NAME}.ipynb").write_bytes(members[f"{NAME}.ipynb"])
    first = Path(f"{NAME}.zip").read_bytes()
    Path(f"{NAME}.zip").unlink()
    os.utime(f"{NAME}.ipynb")
    for _ in range(2):
        assert main([f"{NAME}.ipynb", "--no-execute"]) == 0
        assert Path(f"{NAME}.zip").read_bytes() == first


def test_name_from_the_notebook(project: Path, capsys: Capture) -> None:
    save(markdown("# A"), code("1"), name="Müller-Lüdenscheidt-77.ipynb")
    assert main(["Müller-Lüdenscheidt-77.ipynb", "--output-dir", "out"]) == 0
    assert Path("out/Müller-Lüdenscheidt-77.zip").exists()
    assert not Path("Müller-Lüdenscheidt-77.zip").exists()


def test_placeholder_builds_but_is_not_ready(
    project: Path, capsys: Capture
) -> None:
    Path("report.ipynb").rename("Surname-MatriculationNumber.ipynb")
    assert main([]) == 0
    assert "ready" not in (line := last_line(capsys)) and "--name" in line
    assert Path("Surname-MatriculationNumber.zip").exists()


def test_demo(project: Path, capsys: Capture) -> None:
    save(
        markdown("# A"),
        code(
            "import os\nprint(os.environ['DEMO'])\n"
            "open('figures/a.txt', 'w').write('demo')"
        ),
    )
    assert main(["--name", NAME, "--demo"]) == 0
    assert "not a submission" in last_line(capsys)
    members = unpack(f"{NAME}-DEMO.zip")
    assert {f"{NAME}-DEMO.pdf", f"{NAME}-DEMO.ipynb"} <= set(members)
    reader = PdfReader(f"{NAME}-DEMO.pdf")
    assert reader.pages[0].extract_text().count("DEMO:") == 2
    assert Path("figures/a.txt").read_text() == "old"
    assert not Path(f"{NAME}.zip").exists()


def test_without_data_it_falls_back_to_the_demo(
    project: Path, capsys: Capture
) -> None:
    save(
        markdown("# A"),
        code(
            "import os\n"
            "class DataUnavailable(Exception): pass\n"
            "if 'DEMO' not in os.environ:\n"
            "    raise DataUnavailable('MNIST is neither here nor there')"
        ),
    )
    assert main(["--name", NAME]) == 0
    output = capsys.readouterr()
    assert "MNIST is neither here nor there" in output.err
    assert "not a submission" in output.out.splitlines()[-1]
    assert [path.name for path in project.glob("*.zip")] == [
        f"{NAME}-DEMO.zip"
    ]


@pytest.mark.parametrize("options", [[], ["--no-execute"]])
def test_notebook_that_says_it_ran_on_stand_ins(
    project: Path, capsys: Capture, options: list[str]
) -> None:
    """However it was run: by hand, in Jupyter with DEMO=1, or always."""
    mime = "application/vnd.submission.fingerprint+json"
    source = f"display({{{mime!r}: {{'demo': True}}}}, raw=True)"
    said = new_output("display_data", data={mime: {"demo": True}})
    nb = notebook(markdown("# A"), code(source, said))
    nbformat.write(nb, "report.ipynb")
    assert main(["--name", NAME, *options]) == 0
    assert "not a submission" in last_line(capsys)
    assert [path.name for path in project.glob("*.zip")] == [
        f"{NAME}-DEMO.zip"
    ]
    assert "DEMO:" in PdfReader(f"{NAME}-DEMO.pdf").pages[0].extract_text()
    assert Path("figures/a.txt").read_text() == "old"


@pytest.mark.parametrize(("value", "demo"), [("1", True), ("0", False)])
def test_demo_asked_for_by_the_environment(
    project: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    demo: bool,
) -> None:
    monkeypatch.setenv("DEMO", value)
    save(markdown("# A"), code("1"))
    assert main(["--name", NAME]) == 0
    assert ("not a submission" in last_line(capsys)) == demo
    assert Path(f"{NAME}.zip").exists() != demo


REFUSED = [
    ([], "not a surname"),
    (["--name", "Muster"], "Muster-12345678"),
    (["--name", "../Muster-1"], "not a surname"),
    (["--name", "Muster-1\n"], "not a surname"),
    (["--name", "x" * 300 + "-1"], "not a surname"),
    (["--name", NAME, "gone.ipynb"], "no notebook"),
    (["--name", NAME, "broken.ipynb"], "not a valid notebook"),
    (["--name", NAME, "old.ipynb"], "not a valid notebook"),
    (["--name", NAME, "list.ipynb"], "not a valid notebook"),
    (["--name", NAME, "prose.ipynb"], "no code cells"),
    (["--name", NAME, "html.ipynb"], 'cell 2 (section "Part"'),
    (["--name", NAME, "report.ipynb", "--no-execute"], "has not been run"),
    (["--name", NAME, "report.ipynb", "--output-dir", "README.md"], "exists"),
    (["--name", NAME, "link.ipynb"], "leads out"),
]


@pytest.mark.parametrize(("options", "reason"), REFUSED)
def test_refused_before_any_work(
    project: Path, capsys: Capture, options: list[str], reason: str
) -> None:
    if "report.ipynb" not in options and options[2:]:
        Path("broken.ipynb").write_text('{"cells": [')
        Path("list.ipynb").write_text("[1, 2]")
        Path("old.ipynb").write_text('{"nbformat": 99, "cells": []}')
        save(markdown("# Only prose"), name="prose.ipynb")
        part = markdown("## Part\n\n<b>bold</b>")
        save(code("1"), part, name="html.ipynb")
        save(code("import linked"), name="link.ipynb")
        outside = project.parent / "outside.py"
        outside.write_text("")
        Path("linked.py").symlink_to(outside)
    Path(f"{NAME}.zip").write_bytes(b"earlier")
    before = snapshot(project)
    started = time.monotonic()
    assert main(options) == 1
    error = capsys.readouterr().err
    assert reason in error and "Traceback" not in error
    assert len(error.strip().splitlines()) <= 3
    assert snapshot(project) == before
    assert time.monotonic() - started < 5


def test_several_notebooks_are_listed(project: Path, capsys: Capture) -> None:
    save(code("1"), name="second.ipynb")
    assert main(["--name", NAME]) == 1
    assert "report.ipynb, second.ipynb" in capsys.readouterr().err


FAULTS = [
    ("1 / 0", [], "ZeroDivisionError: division by zero"),
    ("import time\ntime.sleep(60)", ["--timeout", "1"], "--timeout 1"),
    ("import os\nos.kill(os.getpid(), 9)", [], "killed"),
    ("import broken", [], "SyntaxError"),
    ("import nowhere_at_all", [], "No module named"),
    ("open('figures/x', 'w').write('x')\ninput()", [], "Stdin"),
]


@pytest.mark.parametrize(("source", "options", "reason"), FAULTS)
def test_failing_cell(
    project: Path,
    capsys: Capture,
    source: str,
    options: list[str],
    reason: str,
) -> None:
    Path("broken.py").write_text("def (\n")
    save(code("print('before')"), markdown("## Faulty part"), code(source))
    Path(f"{NAME}.zip").write_bytes(b"earlier")
    before = snapshot(project)
    assert main(["--name", NAME, *options]) == 1
    error = capsys.readouterr().err
    assert 'cell 3 (section "Faulty part"' in error and reason in error
    assert "Traceback" not in error
    after = snapshot(project)
    partial = nbformat.reads(
        after.pop(f"{NAME}-FAILED.ipynb").decode(), as_version=4
    )
    assert partial.cells[0].outputs[0].text == "before\n"
    assert after == before


def test_definitions_that_need_more_are_refused(
    project: Path, capsys: Capture
) -> None:
    save(
        code("limit = 3"),
        code("def f(x=limit):\n    return x", tags=("definitions",)),
    )
    assert main(["--name", NAME]) == 1
    error = capsys.readouterr().err
    assert "cell 2" in error and "NameError" in error
    assert not Path(f"{NAME}.zip").exists()


def test_huge_output(project: Path, capsys: Capture) -> None:
    save(code("for _ in range(100):\n    print('0123456789' * 100_000)"))
    assert main(["--name", NAME]) == 0
    packed = unpack(f"{NAME}.zip")[f"{NAME}.ipynb"]
    assert len(packed) < 300_000
    assert "characters left out here" in packed.decode()


def test_display_that_a_later_cell_updates(project: Path) -> None:
    save(
        code(
            "from IPython.display import Markdown, display\n"
            "print('bar', end='\\r   \\r')\n"
            "handle = display(Markdown('first'), display_id=True)"
        ),
        code("handle.update(Markdown('**final** words'))"),
    )
    assert main(["--name", NAME]) == 0
    shown = text(PdfReader(f"{NAME}.pdf"))
    assert "\nfinal words" in shown and "\nfirst" not in shown


def test_kernel_spec_of_another_installation_is_ignored(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = project.parent / "share" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        '{"argv": ["/nowhere/python", "-f", "{connection_file}"],'
        ' "display_name": "Python 3", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(spec.parent.parent))
    save(code(f"import sys\nassert sys.executable == {sys.executable!r}"))
    assert main(["--name", NAME]) == 0


def test_module_of_the_same_name_elsewhere_is_not_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module in the ZIP is the one that gave the results."""
    elsewhere, useful = project.parent / "other", project.parent / "useful"
    for folder, name in ((elsewhere, "helper"), (useful, "useful")):
        folder.mkdir()
        (folder / f"{name}.py").write_text("def answer(): return -1")
    path = os.pathsep.join([str(elsewhere), str(useful)])
    monkeypatch.setenv("PYTHONPATH", path, prepend=os.pathsep)
    save(
        code("from helper import answer\nassert answer() == 42"),
        code("import importlib.util as u\nassert u.find_spec('useful')"),
    )
    assert main(["--name", NAME]) == 0


def test_output_folder_not_writable(project: Path, capsys: Capture) -> None:
    # /proc refuses new files even to an administrator.
    assert main(["--name", NAME, "--output-dir", "/proc"]) == 1
    error = capsys.readouterr().err
    assert "/proc" in error and "Traceback" not in error


@pytest.mark.parametrize("limit", [10_000, 20_000, 60_000])
def test_disk_full(project: Path, limit: int) -> None:
    """No file may grow beyond the limit: a figure, the PDF, the ZIP."""
    figure = (
        "import os, sys\nopen('figures/noise.bin', 'wb')"
        ".write(os.urandom(15_000))"
    )
    for i in range(6):
        figure += f"\nopen('figures/{i}', 'wb').write(os.urandom(12_000))"
    save(markdown("# A"), code(figure))
    Path(f"{NAME}.zip").write_bytes(b"earlier")
    before = snapshot(project)
    done = subprocess.run(
        [sys.executable, "-m", "submission", "--name", NAME],
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (limit, limit)
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "too large" in done.stderr
    after = snapshot(project)
    after.pop(f"{NAME}-FAILED.ipynb", None)
    assert after == before


def alive(mark: str, command: str = "") -> list[int]:
    """Living processes that have the mark in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if (
                mark.encode() in (entry / "environ").read_bytes()
                and command.encode() in (entry / "cmdline").read_bytes()
            ):
                found += [int(entry.name)] * (state != "Z")
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
@pytest.mark.parametrize("phase", ["start", "cell"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle(
    project: Path, number: signal.Signals, phase: str
) -> None:
    save(
        markdown("## Long part"),
        code(
            "import subprocess, time\n"
            "open('figures/a.txt', 'w').write('half')\n"
            "child = subprocess.Popen(['sleep', '300'])\n"
            "print('running', flush=True)\ntime.sleep(300)"
        ),
    )
    Path(f"{NAME}.zip").write_bytes(b"earlier")
    before = snapshot(project)
    scratch = project.parent / "scratch"
    scratch.mkdir()
    mark = f"SUBMISSION_TEST={project}-{number}"
    process = subprocess.Popen(
        [sys.executable, "-m", "submission", "--name", NAME],
        env=os.environ
        | {"TMPDIR": str(scratch)}
        | dict([mark.split("=", 1)]),
        stderr=subprocess.PIPE,
        text=True,
    )
    if phase == "cell":
        assert "cell 1/1" in process.stderr.readline()
        time.sleep(2)
    else:
        while not alive(mark, "ipykernel_launcher"):
            time.sleep(0.02)
        time.sleep(0.3)
    assert alive(mark, "ipykernel_launcher")
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "Stopped" in error and "Traceback" not in error
    assert snapshot(project) == before
    assert not list(scratch.iterdir())
    deadline = time.monotonic() + 0.5
    while alive(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(mark)


# What is being done when the signal comes, and for which time.
PHASES = [
    (build, "find_notebook", 1),
    (build, "read_notebook", 1),
    (build, "proofread", 1),
    (exporter.markdown, "write", 2),
    (exporter, "typeset", 2),
    (build, "put_name", 1),
    (archive, "pack", 1),
    (archive, "check_code", 1),
    (archive, "check_pdf", 1),
    (os, "fsync", 2),
    *((os, "replace", count) for count in range(1, 6)),
]


@pytest.mark.parametrize(("module", "function", "count"), PHASES)
def test_stopped_in_any_phase(
    project: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    function: str,
    count: int,
) -> None:
    """The real signal, sent by the process to itself at that moment."""
    save(markdown("# A"), code("open('figures/a.txt', 'w').write('new')"))
    Path(f"{NAME}.zip").write_bytes(b"earlier")
    before = snapshot(project)
    scratch = project.parent / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    original, calls = getattr(module, function), []

    def interrupted(*args: object, **options: object) -> object:
        calls.append(args)
        try:
            return original(*args, **options)
        finally:
            if len(calls) == count:
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(module, function, interrupted)
        with pytest.raises(SystemExit) as stopped:
            main(["--name", NAME])
    assert stopped.value.code == 130
    assert "Stopped; nothing was changed." in capsys.readouterr().err
    assert snapshot(project) == before
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("suffix", ["pdf", "zip"])
def test_result_that_cannot_be_replaced(
    project: Path, capsys: Capture, suffix: str
) -> None:
    Path(f"{NAME}.{suffix}").mkdir()
    other = Path(f"{NAME}.{'zip' if suffix == 'pdf' else 'pdf'}")
    other.write_bytes(b"earlier")
    before = snapshot(project)
    assert main(["--name", NAME]) == 1
    error = capsys.readouterr().err
    assert f"{NAME}.{suffix}" in error and "Traceback" not in error
    after = snapshot(project)
    assert b"loss 2" in after.pop(f"{NAME}-FAILED.ipynb")
    assert after == before


@pytest.mark.parametrize("blocked", range(4))
def test_file_held_open_by_another_program(
    project: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    blocked: int,
) -> None:
    """Windows refuses to replace it, after others have been replaced."""
    for name in ("pdf", "zip"):
        Path(f"{NAME}.{name}").write_bytes(b"earlier")
    before = snapshot(project)
    replace, calls = os.replace, []

    def refuse(source: str, target: str) -> None:
        calls.append(source)
        if len(calls) == blocked + 3:
            raise PermissionError(13, "In use by another program", target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    assert main(["--name", NAME]) == 1
    assert "In use by another program" in capsys.readouterr().err
    after = snapshot(project)
    assert b"loss 2" in after.pop(f"{NAME}-FAILED.ipynb")
    assert after == before


def test_two_runs_at_once(project: Path) -> None:
    command = [sys.executable, "-m", "submission", "--name", NAME]
    runs = [
        subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=-1)
        for _ in range(2)
    ]
    for process in runs:
        assert b"ready to upload" in process.communicate()[0]
    members = unpack(f"{NAME}.zip")
    assert members[f"{NAME}.pdf"] == Path(f"{NAME}.pdf").read_bytes()
    assert not list(project.glob(".*"))


def test_unpacked_zip_stands_alone(project: Path, tmp_path: Path) -> None:
    """A grader without this package runs the notebook's definitions."""
    assert main(["--name", NAME]) == 0
    shutil.unpack_archive(f"{NAME}.zip", tmp_path / "grader")
    done = subprocess.run(
        [sys.executable, "-c", "import helper; print(helper.__file__)"],
        cwd=tmp_path / "grader",
        capture_output=True,
        text=True,
    )
    assert str(tmp_path / "grader") in done.stdout


def test_command_line_help_and_contradictions() -> None:
    for options in (["--demo", "--no-execute"], ["--timeout", "0"]):
        with pytest.raises(SystemExit) as caught:
            main(options)
        assert caught.value.code == 2


def test_more_than_moodle_takes(project: Path, capsys: Capture) -> None:
    noise = "open('figures/noise', 'wb').write(__import__('os').urandom"
    save(code(f"{noise}(21_000_000))"))
    assert main(["--name", NAME]) == 0
    assert "20 MB" in capsys.readouterr().out


def test_fault_of_the_text_after_the_run_keeps_the_results(
    project: Path, capsys: Capture
) -> None:
    save(
        markdown("# A\n\n![](figures/missing.png)"),
        code("print('hours of work')"),
    )
    before = snapshot(project)
    assert main(["--name", NAME]) == 1
    assert "missing.png" in capsys.readouterr().err
    after = snapshot(project)
    assert b"hours of work" in after.pop(f"{NAME}-FAILED.ipynb")
    assert after == before


def test_help_does_not_wait_for_the_libraries() -> None:
    script = (
        "import sys; from submission.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: assert 'nbconvert' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_workers_of_a_cell_end_with_the_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBMISSION_TEST", str(project))
    save(code("import subprocess\np = subprocess.Popen(['sleep', '300'])"))
    assert main(["--name", NAME]) == 0
    assert not alive(f"SUBMISSION_TEST={project}")
