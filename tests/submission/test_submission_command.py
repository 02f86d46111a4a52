"""The whole command: what is made, what is refused, what is kept."""

import contextlib
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
from collections.abc import Iterator
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
    pictures,
    save,
    snapshot,
    stdout,
    text,
)

from submission import flow, html, pdf
from submission.__main__ import main

Capture = pytest.CaptureFixture[str]
COMMAND = [sys.executable, "-m", "submission", "--name", NAME]
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
# An administrator may read and write everything, unless without that right.
AS_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] * ROOT
needs_user = pytest.mark.skipif(
    ROOT and not shutil.which("setpriv"), reason="root may do everything"
)
needs_proc = pytest.mark.skipif(
    not Path("/proc").exists(), reason="needs /proc"
)


def last_line(capsys: Capture) -> str:
    return capsys.readouterr().out.strip().splitlines()[-1]


def unpack(path: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def submit(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AS_USER, *COMMAND, *options],
        env=os.environ | env,
        capture_output=True,
        text=True,
    )


def check_refusal(error: str, *words: str, lines: int = 3) -> None:
    """One clear message: no traceback."""
    assert error.startswith("Error: ") and "Traceback" not in error
    assert len(error.strip().splitlines()) <= lines, error
    for word in words:
        assert word in error


def test_run_makes_a_checked_zip(project: Path, capsys: Capture) -> None:
    source = Path("report.ipynb").read_bytes()
    assert main(["--name", NAME]) == 0
    assert last_line(capsys).startswith("ready to upload")
    members = unpack(f"{NAME}.zip")
    assert list(members) == [
        f"{NAME}.ipynb",
        f"{NAME}.pdf",
        "deeper.py",
        "figures/a.txt",
        "helper.py",
        "package/__init__.py",
        "package/inner.py",
        "package/sibling.py",
        "requirements.txt",
        "shown.png",
    ]
    assert members["figures/a.txt"] == b"new"
    assert members[f"{NAME}.pdf"] == Path(f"{NAME}.pdf").read_bytes()
    reader = PdfReader(io.BytesIO(members[f"{NAME}.pdf"]))
    shown = text(reader)
    assert f"loss 2 {project / 'data'}" in shown.replace("\n", "")
    assert reader.metadata.title == "Sheet 7"
    assert headings(reader) == [(1, "Task 1: Train"), (1, "Task 2: Draw")]
    nb = nbformat.reads(members[f"{NAME}.ipynb"].decode(), as_version=4)
    counts = [c.execution_count for c in nb.cells if c.cell_type == "code"]
    assert counts == [1, 2, 3, 4]
    assert NAME in nb.cells[0].source
    assert Path("report.ipynb").read_bytes() == source
    assert Path("figures/a.txt").read_text() == "new"
    assert not list(project.glob(".*"))

    # The executed notebook, packed again and again, gives the same bytes.
    Path(f"{NAME}.ipynb").write_bytes(members[f"{NAME}.ipynb"])
    first = Path(f"{NAME}.zip").read_bytes()
    Path(f"{NAME}.zip").unlink()
    for _ in range(2):
        assert main([f"{NAME}.ipynb", "--no-execute"]) == 0
        assert "Look at" not in capsys.readouterr().out
        assert Path(f"{NAME}.zip").read_bytes() == first

    # A module that came later, cells in another order: they are named.
    os.utime("helper.py", (4e9, 4e9))
    nb.cells[2].execution_count = 7
    nbformat.write(nb, f"{NAME}.ipynb")
    assert main([f"{NAME}.ipynb", "--no-execute"]) == 0
    shown = capsys.readouterr().out
    assert "Look at: the cells were not run once each" in shown
    assert "Look at: helper.py is newer" in shown


def test_what_is_shown_differently_is_listed(
    project: Path, capsys: Capture
) -> None:
    missing = "![](https://example.org/a.png) $\\foo$"
    save(
        markdown(f"## Part\n\n{missing}"), code("open('figures/b.png', 'w')")
    )
    assert main(["--name", NAME]) == 0
    *_, first, second, third, last = capsys.readouterr().out.splitlines()
    assert "ready to upload" in last
    assert "cells show 0" in first
    assert 'cell 1 (section "Part"' in second and "example.org" in second
    assert "\\foo" in third


def test_name_from_the_notebook(project: Path, capsys: Capture) -> None:
    save(markdown("# A"), code("1"), name="Müller-Lüdenscheidt-77.ipynb")
    assert main(["Müller-Lüdenscheidt-77.ipynb", "--output-dir", "out"]) == 0
    assert Path("out/Müller-Lüdenscheidt-77.zip").exists()
    assert not Path("Müller-Lüdenscheidt-77.zip").exists()
    Path("Müller-Lüdenscheidt-77.ipynb").unlink()
    Path("report.ipynb").rename("Surname-MatriculationNumber.ipynb")
    assert main([]) == 0
    assert "ready" not in (line := last_line(capsys)) and "--name" in line
    assert Path("Surname-MatriculationNumber.zip").exists()


NO_DATA = """
import os
class DataUnavailable(Exception): pass
if os.environ['DEMO'] != '1':
    raise DataUnavailable('MNIST is neither here nor there')
"""
SAYS_DEMO = "print('DEMO: stand-ins')"
WRITE = "open('figures/a.txt', 'w').write('demo')"


@pytest.mark.parametrize(
    ("source", "options", "env", "demo"),
    [
        (WRITE, ["--demo"], "", True),
        (WRITE, [], "1", True),
        (WRITE, [], "0", False),
        (NO_DATA + WRITE, [], "", True),
        (SAYS_DEMO, [], "", True),
        (SAYS_DEMO, ["--no-execute"], "", True),
        ("1", ["--no-execute"], "1", False),
    ],
)
def test_demo_cannot_be_mistaken_for_a_submission(
    project: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    options: list[str],
    env: str,
    demo: bool,
) -> None:
    monkeypatch.setenv("DEMO", env)
    said = stdout("DEMO: stand-ins\n")
    nb = notebook(
        markdown("# A"), code(source, *[said] * ("DEMO:" in source))
    )
    nbformat.write(nb, "report.ipynb")
    assert main(["--name", NAME, *options]) == 0
    output = capsys.readouterr()
    assert ("not a submission" in output.out.splitlines()[-1]) == demo
    assert ("neither here" in output.err) == ("neither here" in source)
    name = f"{NAME}-DEMO" if demo else NAME
    assert [path.name for path in project.glob("*.zip")] == [f"{name}.zip"]
    assert {f"{name}.pdf", f"{name}.ipynb"} <= set(unpack(f"{name}.zip"))
    page = PdfReader(f"{name}.pdf").pages[0].extract_text()
    assert page.count("DEMO: computed") == 2 * demo
    if demo:
        assert Path("figures/a.txt").read_text() == "old"


REFUSED = [
    ([], "not a surname"),
    (["--name", "../Muster-1", "report.ipynb"], "not a surname"),
    (["--name", NAME, "gone.ipynb"], "no notebook"),
    (["--name", NAME, "broken.ipynb"], "not a valid notebook"),
    (["--name", NAME, "old.ipynb"], "not a valid notebook"),
    (["--name", NAME, "list.ipynb"], "not a valid notebook"),
    (["--name", NAME, "prose.ipynb"], "no code cells"),
    (["--name", NAME, "report.ipynb", "--no-execute"], "has not been run"),
    (["--name", NAME, "failed.ipynb", "--no-execute"], "with an error"),
    (["--name", NAME, "report.ipynb", "--output-dir", "helper.py"], "exists"),
    (["--name", NAME, "report.ipynb", "--output-dir", "/proc"], "/proc"),
    (["--name", NAME, "link.ipynb"], "leads out"),
    (["--name", NAME], "failed.ipynb, link.ipynb"),
]


@pytest.mark.parametrize(("options", "reason"), REFUSED)
def test_refused_before_any_work(
    project: Path, capsys: Capture, options: list[str], reason: str
) -> None:
    if options:
        Path("broken.ipynb").write_text('{"cells": [')
        Path("list.ipynb").write_text("[1, 2]")
        Path("old.ipynb").write_text('{"nbformat": 99, "cells": []}')
        save(markdown("# Only prose"), name="prose.ipynb")
        save(code("import linked"), name="link.ipynb")
        error = new_output("error", ename="E", evalue="", traceback=[])
        nbformat.write(notebook(code("a", error)), "failed.ipynb")
        outside = project.parent / "outside.py"
        outside.write_text("")
        Path("linked.py").symlink_to(outside)
    Path(f"{NAME}.zip").write_bytes(b"earlier")
    before = snapshot(project)
    started = time.monotonic()
    assert main(options) == 1
    check_refusal(capsys.readouterr().err, reason)
    assert snapshot(project) == before
    assert time.monotonic() - started < 5


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
    check_refusal(error, 'cell 3 (section "Faulty part"', reason, lines=4)
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


def test_output_as_it_ends(project: Path) -> None:
    save(
        code(
            "import subprocess\nfrom IPython.display import Markdown, display"
            "\nprint('bar  10%\\rbar 100%')\n"
            "handle = display(Markdown('first'), display_id=True)\n"
            "worker = subprocess.Popen(['sleep', '300'])"
        ),
        code("handle.update(Markdown('**final** words'))"),
        code("for _ in range(100):\n    print('0123456789' * 100_000)"),
    )
    os.environ["SUBMISSION_TEST"] = str(project)
    assert main(["--name", NAME]) == 0
    assert not alive(f"SUBMISSION_TEST={os.environ.pop('SUBMISSION_TEST')}")
    shown = text(PdfReader(f"{NAME}.pdf"))
    assert "\nfinal words" in shown and "\nfirst" not in shown
    assert "\nbar 100%" in shown and "\nbar  10%" not in shown
    packed = unpack(f"{NAME}.zip")[f"{NAME}.ipynb"]
    assert len(packed) < 300_000 and "left out" in packed.decode()


FIGURE = """
import os, sys
import matplotlib.pyplot as plt
assert sys.executable == {python!r} and __debug__
from helper import answer
assert answer() == 42, "a module of the same name elsewhere"
plt.plot([1, 2])
plt.title("Übung 5 %")
plt.show()
"""
RC = "text.usetex: True\nsavefig.bbox: tight\nfigure.dpi: 10\n"
STARTUP = "raise SystemExit('start-up file')"
MOODS = {
    "clean": {},
    "backend": {"MPLBACKEND": "Agg"},
    "matplotlibrc": {"MATPLOTLIBRC": "home/.config/matplotlib"},
    "home": {"HOME": "home", "XDG_CONFIG_HOME": "home/.config"},
    "profile": {"IPYTHONDIR": "home/.ipython"},
    "locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "python": {"PYTHONOPTIMIZE": "2", "PYTHONPATH": "home"},
    "kernel": {"JUPYTER_PATH": "home/jupyter"},
}


@pytest.fixture
def moody(tmp_path: Path) -> Path:
    """A home directory whose settings would all spoil the run."""
    home = tmp_path / "home"
    for name, content in {
        ".config/matplotlib/matplotlibrc": RC,
        ".ipython/profile_default/startup/a.py": STARTUP,
        "helper.py": "def answer(): return -1",
        "jupyter/kernels/python3/kernel.json": '{"argv": ["/nowhere"], '
        '"display_name": "Python 3", "language": "python"}',
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize("mood", MOODS)
def test_run_does_not_depend_on_the_machine(
    project: Path, moody: Path, mood: str
) -> None:
    save(markdown("# Ü"), code(FIGURE.format(python=sys.executable)))
    env = {
        key: str(moody / value) if value.startswith("home") else value
        for key, value in MOODS[mood].items()
    }
    mask = os.umask(0o077)
    done = submit(**env)
    os.umask(mask)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("ready to upload")
    assert sum(pictures(PdfReader(f"{NAME}.pdf"))) == 1
    assert Path(f"{NAME}.zip").stat().st_mode & 0o777 == 0o644


def alive(mark: str, command: str = "") -> list[int]:
    """Living processes that have the mark in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if (
                mark.encode() in (entry / "environ").read_bytes()
                and command.encode() in (entry / "cmdline").read_bytes()
                and int(entry.name) != os.getpid()
            ):
                found += [int(entry.name)] * (state != "Z")
        except OSError:
            continue
    return found


@needs_proc
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
            "child = subprocess.Popen(['sleep', '300'])\ntime.sleep(300)"
        ),
    )
    Path(f"{NAME}.zip").write_bytes(b"earlier")
    before = snapshot(project)
    scratch = project.parent / "scratch"
    scratch.mkdir()
    mark = f"SUBMISSION_TEST={project}-{number}"
    process = subprocess.Popen(
        COMMAND,
        env=os.environ
        | {"TMPDIR": str(scratch)}
        | dict([mark.split("=", 1)]),
        stderr=subprocess.PIPE,
        text=True,
    )
    awaited = {"start": "ipykernel_launcher", "cell": "sleep"}[phase]
    while not alive(mark, awaited):
        time.sleep(0.02)
    time.sleep(0.3)
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
    (flow, "read_notebook", 1),
    (html, "pandoc", 1),
    (pdf, "compile_page", 1),
    (flow, "pack", 1),
    (flow, "check_code", 1),
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


@pytest.mark.parametrize("blocked", ["folder", 0, 1, 2, 3])
def test_result_that_cannot_be_replaced(
    project: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    blocked: str | int,
) -> None:
    """A folder of that name; a viewer on Windows, for each of the files."""
    replace, calls = os.replace, []

    def refuse(source: str, target: str) -> None:
        calls.append(source)
        if len(calls) == blocked + 3:
            raise PermissionError(13, "In use by another program", target)
        replace(source, target)

    Path(f"{NAME}.pdf").write_bytes(b"earlier")
    if blocked == "folder":
        Path(f"{NAME}.zip").mkdir()
    else:
        Path(f"{NAME}.zip").write_bytes(b"earlier")
        monkeypatch.setattr(os, "replace", refuse)
    before = snapshot(project)
    assert main(["--name", NAME]) == 1
    reason = "s a folder" if blocked == "folder" else "another program"
    check_refusal(capsys.readouterr().err, reason)
    after = snapshot(project)
    assert b"loss 2" in after.pop(f"{NAME}-FAILED.ipynb")
    assert after == before


def test_two_runs_at_once(project: Path) -> None:
    runs = [
        subprocess.Popen(COMMAND, stderr=subprocess.DEVNULL, stdout=-1)
        for _ in range(2)
    ]
    for process in runs:
        assert b"ready to upload" in process.communicate()[0]
    members = unpack(f"{NAME}.zip")
    assert members[f"{NAME}.pdf"] == Path(f"{NAME}.pdf").read_bytes()
    assert not list(project.glob(".*"))


def test_command_line(project: Path, capsys: Capture) -> None:
    for options in (["--demo", "--no-execute"], ["--timeout", "0"]):
        with pytest.raises(SystemExit) as caught:
            main(options)
        assert caught.value.code == 2
    # Help does not wait for the libraries, and works without them.
    folder = Path(flow.__file__).parents[1]
    bare = [sys.executable, "-S", "-m", "submission"]
    done = subprocess.run([*bare, "--help"], cwd=folder, capture_output=True)
    assert b"--no-execute" in done.stdout
    done = subprocess.run(bare, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1
    check_refusal(done.stderr, "not installed", sys.executable, ".venv")


def test_more_than_moodle_takes(project: Path, capsys: Capture) -> None:
    noise = "open('figures/noise', 'wb').write(__import__('os').urandom"
    save(code(f"{noise}(21_000_000))"))
    assert main(["--name", NAME]) == 0
    assert "20 MB" in capsys.readouterr().out


@needs_user
@pytest.mark.parametrize("elsewhere", [True, False])
def test_project_that_may_only_be_read(
    project: Path, elsewhere: bool
) -> None:
    before = snapshot(project)
    paths = [project, *project.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    out = project.parent / "out"
    done = submit(*["--output-dir", str(out)] * elsewhere)
    for path in paths:
        path.chmod(0o755)
    if elsewhere:
        assert done.stdout.splitlines()[-1].startswith("ready to upload")
        assert (out / f"{NAME}.zip").is_file()
    else:
        check_refusal(done.stderr, "Permission denied", str(project))
    assert snapshot(project) == before


@needs_user
@pytest.mark.parametrize(
    "name", ["report.ipynb", "deeper.py", "requirements.txt", "figures"]
)
def test_file_that_may_not_be_read(project: Path, name: str) -> None:
    Path(f"{NAME}.zip").write_bytes(b"earlier")
    before = snapshot(project)
    mode = Path(name).stat().st_mode
    Path(name).chmod(0)
    done = submit("report.ipynb")
    Path(name).chmod(mode)
    check_refusal(done.stderr, "Permission denied", name)
    after = snapshot(project)
    # That figures cannot be written comes out when they are drawn.
    assert bool(after.pop(f"{NAME}-FAILED.ipynb", b"")) == (name == "figures")
    assert after == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    try:
        subprocess.run(["mount", *options], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only an administrator can make a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


NOISE = "import os\nopen('figures/noise.png', 'wb').write(os.urandom({}))"


@pytest.mark.parametrize("room", [60_000, 0])
def test_disk_with_the_results_is_full(
    project: Path, small_disk: Path, room: int
) -> None:
    save(markdown("# A"), code(NOISE.format(150_000)))
    (small_disk / f"{NAME}.zip").write_bytes(b"earlier")
    (small_disk / "filler").write_bytes(bytes(120_000 - room))
    if not room:
        with (
            contextlib.suppress(OSError),
            open(small_disk / "rest", "wb") as f,
        ):
            f.write(bytes(20_000))
    before = snapshot(project) | snapshot(small_disk)
    done = submit("--output-dir", str(small_disk))
    check_refusal(done.stderr, "No space left", str(small_disk))
    # The run is kept where there is room for it.
    kept = (small_disk if room else project) / f"{NAME}-FAILED.ipynb"
    assert f"as far as it ran: {kept}" in done.stderr
    assert "urandom(" in kept.read_text()
    kept.unlink()
    assert snapshot(project) | snapshot(small_disk) == before


@pytest.mark.parametrize(("filler", "kept"), [(0, True), (126_000, False)])
def test_disk_that_the_notebook_runs_on_is_full(
    project: Path, small_disk: Path, filler: int, kept: bool
) -> None:
    """In a cell that draws a figure, or before the kernel has started."""
    save(markdown("# A"), code(NOISE.format(300_000)))
    (small_disk / "filler").write_bytes(bytes(filler))
    Path(f"{NAME}.zip").write_bytes(b"earlier")
    before = snapshot(project) | snapshot(small_disk)
    done = submit(TMPDIR=str(small_disk))
    check_refusal(done.stderr, "No space left")
    after = snapshot(project) | snapshot(small_disk)
    assert (f"{NAME}-FAILED.ipynb" in after) == kept
    after.pop(f"{NAME}-FAILED.ipynb", None)
    assert after == before


@pytest.mark.parametrize("limit", [10_000, 20_000, 60_000])
def test_file_size_limit(project: Path, limit: int) -> None:
    """No file may grow beyond the limit: a figure, the PDF, the ZIP."""
    source = NOISE.format(15_000)
    for i in range(6):
        source += f"\nopen('figures/{i}', 'wb').write(os.urandom(12_000))"
    save(markdown("# A"), code(source))
    Path(f"{NAME}.zip").write_bytes(b"earlier")
    before = snapshot(project)
    done = subprocess.run(
        COMMAND,
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (limit, limit)
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    check_refusal(done.stderr, "too large", lines=4)
    after = snapshot(project)
    after.pop(f"{NAME}-FAILED.ipynb", None)
    assert after == before
