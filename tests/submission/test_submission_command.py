"""The whole command: what is made, what is refused, what is kept."""

import base64
import contextlib
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_output
from pypdf import PdfReader
from zoo import (
    NAME,
    code,
    figure,
    markdown,
    notebook,
    pictures,
    save,
    stdout,
    text,
)

from submission import flow, run
from submission.__main__ import SIGNALS, main
from submission.notebook import PLACEHOLDER

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
COMMAND = [sys.executable, "-m", "submission", "--name", NAME]
PDF, ZIP, FAILED = f"{NAME}.pdf", f"{NAME}.zip", f"{NAME}-FAILED.ipynb"
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
# An administrator may read and write everything, unless without that right.
AS_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] * ROOT
needs_user = pytest.mark.skipif(
    ROOT and not shutil.which("setpriv"), reason="root may do everything"
)
FILES = {
    "helper.py": "from deeper import twice\n\ndef answer():\n"
    "    import package.inner\n    return 42\n",
    "deeper.py": "twice = 2\n",
    "unused.py": "1 / 0\n",
    "package/__init__.py": "",
    "package/inner.py": "from . import sibling\n",
    "package/sibling.py": "",
    "package/other.py": "",
    "requirements.txt": "numpy\n",
    "README.md": "Hello\n",
    "data/big.bin": "data",
    "figures/a.txt": "old",
}
HANDED_IN = ["deeper.py", "figures/a.txt", "helper.py", "package/__init__.py"]
HANDED_IN += ["package/inner.py", "package/other.py", "package/sibling.py"]
HANDED_IN += ["requirements.txt", "shown.png"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: Patch) -> Iterator[Path]:
    """The current folder holds an unexecuted report with its modules."""
    folder = tmp_path / "Übung 7"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.delenv("DEMO", raising=False)
    save(
        markdown(
            "# Sheet 7\n\n**Surname-MatriculationNumber**\n\n"
            '<img src="shown.png">'
        ),
        code("%matplotlib inline\nimport os\nfrom helper import answer"),
        code(
            "def loss(x: int) -> int:\n    return answer() - x",
            tags=("definitions",),
        ),
        code("%%time\nprint('loss', loss(40), os.environ['DATA_DIR'])"),
        code(
            "with open('figures/a.txt', 'w') as file:\n    file.write('new')"
        ),
    )
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    (folder / "shown.png").write_bytes(base64.b64decode(figure()))
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)


def submit(
    *options: str, setup: Callable[[], None] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user."""
    return subprocess.run(
        [*AS_USER, *COMMAND, *options],
        env=os.environ | env,
        preexec_fn=setup,
        capture_output=True,
        text=True,
    )


def unpack(path: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files of a folder and what they hold, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def check_refusal(error: str, *words: str) -> None:
    """One clear message: no traceback."""
    assert error.startswith("Error: ") and "Traceback" not in error
    assert len(error.strip().splitlines()) <= 4, error
    for word in words:
        assert word in error


@contextlib.contextmanager
def nothing_lost(*folders: Path, kept: bool = False) -> Iterator[None]:
    """Afterwards all is as it was; beside it the failed run, if any."""
    Path(ZIP).write_bytes(b"earlier")
    before = [snapshot(folder) for folder in folders]
    yield
    after = [snapshot(folder) for folder in folders]
    failed = [files.pop(FAILED) for files in after if FAILED in files]
    assert after == before
    assert len(failed) == kept
    for content in failed:
        nb = nbformat.reads(content.decode(), as_version=4)
        assert any(cell.get("outputs") for cell in nb.cells)


def test_run_makes_a_checked_zip(
    project: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("DEMO", "0")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    before = snapshot(project)
    assert main(["--name", NAME]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"ready to upload: {project / ZIP}"
    members = unpack(ZIP)
    assert list(members) == [f"{NAME}.ipynb", PDF, *HANDED_IN]
    new = {"figures/a.txt": b"new", PDF: members[PDF]}
    first = Path(ZIP).read_bytes()
    assert snapshot(project) == before | new | {ZIP: first}
    assert members["figures/a.txt"] == b"new"
    shown = text(PdfReader(PDF)).replace("\n", "")
    assert f"loss 2 {project / 'data'}" in shown and NAME in shown
    nb = nbformat.reads(members[f"{NAME}.ipynb"].decode(), as_version=4)
    assert [cell.execution_count for cell in nb.cells[1:]] == [1, 2, 3, 4]
    assert NAME in nb.cells[0].source

    # The executed notebook, packed again, gives the same bytes.
    Path(f"{NAME}.ipynb").write_bytes(members[f"{NAME}.ipynb"])
    Path(ZIP).unlink()
    assert main([f"{NAME}.ipynb", "--no-execute"]) == 0
    assert "Look at" not in capsys.readouterr().out
    assert Path(ZIP).read_bytes() == first


def look_at(capsys: Capture) -> str:
    """The notes of a hand-in that is ready to be uploaded."""
    *_, last = lines = capsys.readouterr().out.splitlines()
    assert last.startswith("ready to upload"), last
    return "\n".join(line for line in lines if line.startswith("Look at: "))


def test_what_to_look_at_is_listed(project: Path, capsys: Capture) -> None:
    Path("figures/b.png").write_bytes(os.urandom(21_000_000))
    nb = notebook(
        markdown("## Part\n\n![](https://example.org/a.png) $\\foo$"),
        code("import helper"),
    )
    nb.cells[1].execution_count = 7
    nbformat.write(nb, "report.ipynb")
    os.utime("helper.py", (4e9, 4e9))
    assert main(["--name", NAME, "--no-execute"]) == 0
    notes = look_at(capsys)
    for words in (
        "not run once each, from top to bottom",
        "helper.py is newer",
        "figures/ holds 1 pictures, the cells 0",
        'cell 1 (section "Part", "## Part"): a link stands for the picture',
        "\\foo",
        "20 MB",
    ):
        assert words in notes


def test_pictures_side_by_side_are_all_counted(
    project: Path, capsys: Capture
) -> None:
    shown = ""
    for name in "bc":
        picture = figure()
        Path(f"figures/{name}.png").write_bytes(base64.b64decode(picture))
        shown += f'<img src="data:image/png;base64,{picture}">'
    row = new_output("display_data", data={"text/html": shown})
    nbformat.write(notebook(code("1", row)), "report.ipynb")
    assert main(["--name", NAME, "--no-execute"]) == 0
    assert not look_at(capsys)


ERROR = new_output("error", ename="E", evalue="", traceback=[])
SAVED = [
    ("import nowhere_at_all", [stdout("1")], "nowhere_at_all: imported"),
    ("raise E", [ERROR], "ended with an error: cell 2"),
    ("print(1)", [], "its output is lost: cell 2"),
    ("from __future__ import annotations", [stdout("1")], ""),
    ("# nothing but words", [], ""),
]


@pytest.mark.parametrize(("source", "found", "note"), SAVED)
def test_saved_notebook_is_handed_in(
    project: Path, capsys: Capture, source: str, found: list, note: str
) -> None:
    cells = [code("print(0)", stdout("0")), code(source, *found), code("2")]
    nb = notebook(*cells, code("raise E", ERROR, tags=["raises-exception"]))
    if source.startswith("#"):  # Jupyter counts comments only when run
        nb.cells[1].execution_count = None
        nb.cells[2].execution_count, nb.cells[3].execution_count = 2, 3
    nbformat.write(nb, "report.ipynb")
    assert main(["--name", NAME, "--no-execute"]) == 0
    notes = look_at(capsys)
    assert note in notes and bool(notes) == bool(note)


def test_outputs_that_were_stripped(project: Path, capsys: Capture) -> None:
    save(code("import os"), code("os.sep"), code("3"), executed=True)
    assert main(["--name", NAME, "--no-execute"]) == 0
    assert "no cell shows an output" in look_at(capsys)


@pytest.mark.parametrize("how", ["ran_with", "times"])
def test_module_edited_while_the_kernel_held_the_old_one(
    project: Path, capsys: Capture, how: str
) -> None:
    cell = code("import helper", stdout("1"))
    if how == "times":
        start = "2020-01-01T10:00:00.5Z"
        cell.metadata["execution"] = {"iopub.execute_input": start}
    else:
        shown = new_output("display_data", {}, metadata={})
        shown.metadata["ran_with"] = {"helper.py": "0" * 64}
        cell.outputs.append(shown)
    save(cell, executed=True)
    assert main(["--name", NAME, "--no-execute"]) == 0
    assert "helper.py is newer" in look_at(capsys)


ODD = f"""![](data:image/png;base64,{figure()})
![](a%00.png) ![]({"long" * 99}.png) ![](../outside.png)"""
FUTURE = "from __future__ import annotations"


def test_files_that_are_handed_in(project: Path, capsys: Capture) -> None:
    """By the README's rule, whatever else lies there or is named."""
    for name, content in {
        "utils/plot.py": "import below",
        "utils/below.txt": "",
        "utils/Thumbs.db": "",
        "utils/.hidden": "",
        "utils/loop.py/deep": "import utils",
        "below.py": "# \udcff",
        "other.ipynb": "no notebook",
        "my script.py": "import deeper",
        "points.csv": "1, 2",
    }.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content, "utf-8", "surrogateescape")
    Path("utils/again").symlink_to(".")
    (project.parent / "outside.py").touch()
    (project.parent / "outside.png").touch()
    Path("linked.py").symlink_to(project.parent / "outside.py")
    save(
        markdown(ODD),
        code("if True: import utils.plot as p, os\n%run 'my script'"),
        code(FUTURE + "\nprint(open('points.csv').read())"),
        code("try: import linked, below\nexcept ImportError: pass"),
        code(
            "import os; os.makedirs('data/MNIST')\n"
            "open('data/MNIST/raw', 'w').write('0' * 2_000_000)"
        ),
    )
    include = ["--include", "points*", "*.ipynb"]
    assert main(["report.ipynb", "--name", NAME, *include]) == 0
    notes = look_at(capsys)
    assert "the run left data (1 files, 2.0 MB)" in notes
    assert "linked.py leads to" in notes and "outside.png leads to" in notes
    own = {f"{NAME}.ipynb", PDF, "requirements.txt", "shown.png"}
    assert set(unpack(ZIP)) | {"shown.png"} == own | {
        "below.py",
        "deeper.py",
        "my script.py",
        "other.ipynb",
        "points.csv",
        "utils/below.txt",
        "utils/loop.py/deep",
        "utils/plot.py",
    }


def test_dates_in_the_zip(project: Path, monkeypatch: Patch) -> None:
    save(code("1"), executed=True)
    for given, year in (("", time.localtime()[0]), ("0", 1980)):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
        assert main(["--name", NAME, "--no-execute"]) == 0
        with zipfile.ZipFile(ZIP) as archive:
            dates = {info.date_time[0] for info in archive.infolist()}
        assert dates == {year}


def test_fault_of_our_own_is_named(
    project: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    """The run is kept, whatever happens after it or to it."""

    def fail(*args: object) -> None:
        raise RuntimeError("what happened")

    monkeypatch.setattr(run, "terminal", fail)
    save(code("1"), code("print(1)"))
    with nothing_lost(project, kept=True):
        assert main(["--name", NAME]) == 1
    check_refusal(capsys.readouterr().err, "RuntimeError: what happened")


def test_placeholder_is_not_to_be_uploaded(
    project: Path, capsys: Capture
) -> None:
    save(code("1"), executed=True)
    assert main(["--name", PLACEHOLDER, "--no-execute"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "ready" not in last and "--name" in last


NO_DATA = """
import os
if os.environ['DEMO'] == 'auto':
    print('DEMO: MNIST is neither here nor there')
"""
WRITE = "open('figures/a.txt', 'w').write('demo')"


@pytest.mark.parametrize(
    ("source", "options", "env", "demo"),
    [
        (WRITE, ["--demo"], "", True),
        (WRITE, [], "1", True),
        (NO_DATA + WRITE, [], "", True),
        ("print('DEMO: stand-ins')", ["--no-execute"], "", True),
        ("1", ["--no-execute"], "1", False),
    ],
)
def test_demo_cannot_be_mistaken_for_a_submission(
    project: Path,
    capsys: Capture,
    monkeypatch: Patch,
    source: str,
    options: list[str],
    env: str,
    demo: bool,
) -> None:
    monkeypatch.setenv("DEMO", env)
    said = [stdout("DEMO: stand-ins\n")] * ("DEMO:" in source)
    save(markdown("# A"), code(source, *said), executed=True)
    assert main(["--name", NAME, *options]) == 0
    output = capsys.readouterr()
    assert ("not a submission" in output.out.splitlines()[-1]) == demo
    assert ("neither here" in output.err) == ("neither here" in source)
    name = f"{NAME}-DEMO" if demo else NAME
    assert [path.name for path in project.glob("*.zip")] == [f"{name}.zip"]
    assert {f"{name}.pdf", f"{name}.ipynb"} <= set(unpack(f"{name}.zip"))
    page = PdfReader(f"{name}.pdf").pages[0].extract_text()
    assert page.count("DEMO: computed") == 2 * demo
    assert Path("figures/a.txt").read_text() == "old"


REFUSED = [
    ("report.ipynb", "not a surname"),
    ("--name ../Muster-1 report.ipynb", "not a surname"),
    (f"--name {NAME} gone.ipynb", "no notebook"),
    (f"--name {NAME} broken.ipynb", "not a valid notebook"),
    (f"--name {NAME} old.ipynb", "not a valid notebook"),
    (f"--name {NAME} list.ipynb", "not a valid notebook"),
    (f"--name {NAME} prose.ipynb", "no code"),
    (f"--name {NAME} report.ipynb --no-execute", "No cell"),
    (f"--name {NAME} report.ipynb --output-dir helper.py", "exists"),
    (f"--name {NAME} report.ipynb --output-dir /proc", "/proc"),
    (f"--name {NAME}", "list.ipynb, old.ipynb"),
]


@pytest.mark.parametrize(("options", "reason"), REFUSED)
def test_refused_before_any_work(
    project: Path, capsys: Capture, options: str, reason: str
) -> None:
    Path("broken.ipynb").write_text('{"cells": [')
    Path("list.ipynb").write_text("[1, 2]")
    Path("old.ipynb").write_text('{"nbformat": 99, "cells": []}')
    save(markdown("# Only prose"), name="prose.ipynb")
    with nothing_lost(project):
        assert main(options.split()) == 1
    check_refusal(capsys.readouterr().err, *reason.split("|"))


FAULTS = [
    ("1 / 0", [], "ZeroDivisionError: division by zero"),
    ("import time\ntime.sleep(60)", ["--timeout", "1"], "--timeout 1"),
    ("import os\nos.kill(os.getpid(), 9)", [], "killed"),
    ("import broken", [], "SyntaxError"),
    ("import nowhere_at_all", [], "No module named"),
    ("import deep", [], "lib/deep.py is not among"),
    ("open('points.csv')", [], "--include points.csv"),
    ("MNIST = 'data'\nraise RuntimeError(MNIST)", [], "in a copy"),
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
    Path("points.csv").write_text("1, 2\n")
    Path("lib").mkdir()
    Path("lib/deep.py").touch()
    save(code("print('before')"), markdown("## Faulty part"), code(source))
    with nothing_lost(project, kept=True):
        assert main(["--name", NAME, *options]) == 1
    error = capsys.readouterr().err
    check_refusal(error, 'cell 3 (section "Faulty part"', reason, FAILED)


def test_output_as_it_ends(project: Path, monkeypatch: Patch) -> None:
    save(
        code(
            "import subprocess\nfrom IPython.display import Markdown, display"
            "\nfrom tqdm.notebook import trange"
            "\nhandle = display(Markdown('first'), display_id=True)\n"
            "for _ in trange(5): pass\n"
            "worker = subprocess.Popen(['sleep', '300'])"
        ),
        code("handle.update(Markdown('**final** words'))"),
        code(
            "for i in range(3000):\n    print('\\rbar', i, '#' * 50, end='', "
            "flush=True)\nprint('\\nRESULT 0.97')"
        ),
        code("print('0123456789\\n' * 100_000 + 'the end')"),
    )
    monkeypatch.setenv("MARK", str(project))
    assert main(["--name", NAME]) == 0
    assert not alive(project)
    shown = text(PdfReader(PDF))
    for words in ("final words", "5/5", "bar 2999", "RESULT 0.97", "the end"):
        assert f"\n{words}" in shown or f"| {words}" in shown
    assert "\nfirst" not in shown and "  0%|" not in shown
    assert "bar 2998" not in shown
    packed = unpack(ZIP)[f"{NAME}.ipynb"]
    assert len(packed) < 300_000 and "left out" in packed.decode()


def alive(project: Path) -> list[str]:
    """Commands of the living processes that have the mark."""
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline", "environ"])
        if (process.info["environ"] or {}).get("MARK") == str(project)
    ]


FIGURE = """
import sys
import matplotlib.pyplot as plt
from helper import answer
# No assertions: one of the settings would switch them off.
if (sys.executable, __debug__, answer()) != ({python!r}, True, 42):
    raise RuntimeError("another Python, or another module of that name")
plt.plot([1, 2])
plt.title("Übung 5 %")
plt.show()
"""
# Files and variables that would each spoil the run.
HOME = {
    ".config/matplotlib/matplotlibrc": "text.usetex: True\n"
    "savefig.bbox: tight\nfigure.dpi: 10\n",
    ".ipython/profile_default/startup/a.py": "raise SystemExit('start-up')",
    "helper.py": "def answer(): return -1",
    "jupyter/kernels/python3/kernel.json": '{"argv": ["/nowhere"], '
    '"display_name": "Python 3", "language": "python"}',
}
MOOD = {
    "HOME": "{home}",
    "XDG_CONFIG_HOME": "{home}/.config",
    "MPLBACKEND": "Agg",
    "MATPLOTLIBRC": "{home}/.config/matplotlib",
    "IPYTHONDIR": "{home}/.ipython",
    "JUPYTER_PATH": "{home}/jupyter",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONOPTIMIZE": "2",
    "PYTHONPATH": "{home}",
}


def test_run_does_not_depend_on_the_machine(project: Path) -> None:
    home = project.parent / "home"
    for name, content in HOME.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(content)
    save(markdown("# Ü"), code(FIGURE.format(python=sys.executable)))
    env = {key: value.format(home=home) for key, value in MOOD.items()}
    done = submit(setup=lambda: os.umask(0o077), **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("ready to upload")
    assert sum(pictures(PdfReader(PDF))) == 1
    assert Path(ZIP).stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize(
    ("number", "awaited"),
    [(signal.SIGTERM, "ipykernel_launcher"), (signal.SIGINT, "sleep")],
)
def test_stopped_in_the_middle(
    project: Path, number: signal.Signals, awaited: str
) -> None:
    """While the kernel starts, and in a cell that has a worker."""
    save(
        code(
            "import subprocess, time\nprint('half')\n"
            "open('figures/a.txt', 'w').write('half')\n"
            "child = subprocess.Popen(['sleep', '300'])\ntime.sleep(300)"
        ),
    )
    scratch = project.parent / "scratch"
    scratch.mkdir()
    env = {"TMPDIR": str(scratch), "MARK": str(project)}
    with nothing_lost(project, kept=awaited == "sleep"):
        process = subprocess.Popen(
            COMMAND,
            env=os.environ | env,
            stderr=subprocess.PIPE,
            text=True,
        )
        while awaited not in " ".join(alive(project)):
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(number)
        _, error = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "Stopped" in error and "Traceback" not in error
    assert not list(scratch.iterdir())
    deadline = time.monotonic() + 0.5
    while alive(project) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(project)


PHASES = ["flow.export", "notebook.read_notebook", "pack.pack"]
PHASES += ["pack.find_files", "pack.stage", "pack.publish"]


@pytest.mark.parametrize("phase", PHASES)
def test_stopped_in_any_phase(
    project: Path, capsys: Capture, monkeypatch: Patch, phase: str
) -> None:
    """The real signal, sent by the process to itself at that moment."""
    save(markdown("# A"), code("1"), executed=True)
    scratch = project.parent / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    original = pkgutil.resolve_name(f"submission.{phase}")

    with monkeypatch.context() as patch, nothing_lost(project):

        def interrupted(*args: object, **options: object) -> object:
            patch.undo()
            os.kill(os.getpid(), signal.SIGINT)
            return original(*args, **options)

        patch.setattr(f"submission.{phase}", interrupted)
        with pytest.raises(SystemExit) as stopped:
            main(["--name", NAME, "--no-execute"])
    assert stopped.value.code == 130
    assert "Stopped;" in capsys.readouterr().err
    assert not list(scratch.iterdir())


def test_result_that_cannot_be_replaced(
    project: Path, capsys: Capture
) -> None:
    """A folder of that name."""
    Path(PDF).mkdir()
    with nothing_lost(project, kept=True):
        assert main(["--name", NAME]) == 1
    check_refusal(capsys.readouterr().err, PDF, FAILED)


def test_two_runs_at_once(project: Path) -> None:
    runs = [
        subprocess.Popen(COMMAND, stderr=subprocess.DEVNULL, stdout=-1)
        for _ in range(2)
    ]
    for process in runs:
        assert b"ready to upload" in process.communicate()[0]
    assert unpack(ZIP)[PDF] == Path(PDF).read_bytes()
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


@needs_user
@pytest.mark.parametrize("elsewhere", [True, False])
def test_project_that_may_only_be_read(
    project: Path, elsewhere: bool
) -> None:
    out = project.parent / "out"
    with nothing_lost(project):
        paths = [project, *project.rglob("*")]
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = submit(*["--output-dir", str(out)] * elsewhere)
        for path in paths:
            path.chmod(0o755)
    if elsewhere:
        assert done.stdout.splitlines()[-1].startswith("ready to upload")
        assert (out / ZIP).is_file()
    else:
        check_refusal(done.stderr, "Permission denied", str(project))


@needs_user
@pytest.mark.parametrize(
    "name", ["report.ipynb", "deeper.py", "requirements.txt", "figures"]
)
def test_file_that_may_not_be_read(project: Path, name: str) -> None:
    with nothing_lost(project):
        mode = Path(name).stat().st_mode
        Path(name).chmod(0)
        done = submit("report.ipynb")
        Path(name).chmod(mode)
    check_refusal(done.stderr, "Permission denied", name)


@pytest.fixture
def small_disk(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """A file system of that size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", folder]
    try:
        subprocess.run(["mount", *options], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only an administrator can make a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


NOISE = "import os\nopen('figures/noise.png', 'wb').write(os.urandom({}))"


@pytest.mark.parametrize("small_disk", ["64k", "4k"], indirect=True)
def test_disk_with_the_results_is_full(
    project: Path, small_disk: Path
) -> None:
    save(markdown("# A"), code(NOISE.format(150_000)))
    (small_disk / ZIP).write_bytes(b"earlier")
    with nothing_lost(project, small_disk, kept=True):
        done = submit("--output-dir", str(small_disk))
        # The run is kept where there is room for it.
        kept, *_ = *small_disk.glob(FAILED), project / FAILED
    check_refusal(done.stderr, "No space left", str(small_disk))
    assert f"as far as it ran: {kept}" in done.stderr


@pytest.mark.parametrize(
    ("small_disk", "kept"),
    [("128k", True), ("4k", False)],
    indirect=["small_disk"],
)
def test_disk_that_the_notebook_runs_on_is_full(
    project: Path, small_disk: Path, kept: bool
) -> None:
    """In a cell that draws a figure, or before the kernel has started."""
    save(markdown("# A"), code(NOISE.format(300_000)))
    with nothing_lost(project, small_disk, kept=kept):
        done = submit(TMPDIR=str(small_disk))
    check_refusal(done.stderr, "No space left")
