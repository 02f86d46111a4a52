"""The whole command: what is made, what is refused, what is kept."""

import base64
import contextlib
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
import zoo
from nbformat.v4 import new_output
from pypdf import PdfReader
from zoo import NAME, code, markdown, notebook, save, stdout

from submission import flow, run
from submission.__main__ import SIGNALS, main
from submission.notebook import PLACEHOLDER, VIEW, WIDGETS

Capture = pytest.CaptureFixture[str]
AS_NAME = ["--name", NAME]
COMMAND = [sys.executable, "-m", "submission", *AS_NAME]
PDF, ZIP, FAILED = f"{NAME}.pdf", f"{NAME}.zip", f"{NAME}-FAILED.ipynb"
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
# An administrator may read and write everything, unless without that right.
AS_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] * ROOT
needs_user = pytest.mark.skipif(
    ROOT and not shutil.which("setpriv"), reason="root may do everything"
)
FILES = {
    "figures/deep/a.txt": "old",
    "helper.py": "def answer():\n    import package.inner\n    return 42",
    "package/__init__.py": "",
    "package/inner.py": "from . import other\n",
    "package/other.py": "",
    "requirements.txt": "numpy",
}
DRAWS = (
    "os.mkdir('figures/deep')\nopen('figures/deep/a.txt', 'w').write('new')"
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A report to run, here; afterwards no process or file is left."""
    (folder := tmp_path / "Übung 7").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setenv("DEMO", "0")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setenv("MARK", str(folder))
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    save(
        markdown(f"# Sheet 7\n\n**{PLACEHOLDER}**\n\n![](shown.png)"),
        code("%matplotlib inline\nimport os\nfrom helper import answer"),
        code("print('loss', answer() - 40, os.environ['DATA_DIR'])"),
        code("1 / 0", tags=("skip-execution",)),
        code("1 / 0", tags=("raises-exception",)),
        code(DRAWS),
    )
    write(FILES | {"data/big.bin": "data", "unused.py": "1 / 0"})
    Path("shown.png").write_bytes(base64.b64decode(zoo.figure()))
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # A shell has its jobs in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert not list(scratch.iterdir())
    assert not alive(folder)


def write(files: dict[str, str], folder: str | Path = ".") -> None:
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8", "surrogateescape")


def alive(project: Path) -> list[str]:
    """Commands of the living processes that have the mark."""
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline", "environ"])
        if (process.info["environ"] or {}).get("MARK") == str(project)
    ]


def submit(*options: str, **settings: object) -> subprocess.CompletedProcess:
    """Run the command as a user."""
    command = [*AS_USER, *COMMAND, *options]
    return subprocess.run(command, capture_output=True, text=True, **settings)


def unpack(path: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def snapshot(folder: Path) -> dict[Path, bytes]:
    """All files of a folder and what they hold, hidden ones too."""
    files = filter(Path.is_file, folder.rglob("*"))
    return {path.relative_to(folder): path.read_bytes() for path in files}


def check_message(error: str, *words: str) -> None:
    """One clear message: no traceback."""
    assert error.startswith("Error: ") and "Traceback" not in error
    assert len(error.strip().splitlines()) <= 4, error
    assert all(word in error for word in words), error


@contextlib.contextmanager
def nothing_lost(*others: Path, kept: bool = False) -> Iterator[None]:
    """Afterwards all is as it was; beside it the failed run, if any."""
    folders = (Path.cwd(), *others)
    if not Path(ZIP).exists():
        Path(ZIP).write_bytes(b"earlier")
    before = [snapshot(folder) for folder in folders]
    yield
    after = [snapshot(folder) for folder in folders]
    failed = [f for files in after if (f := files.pop(Path(FAILED), None))]
    assert after == before
    assert len(failed) == kept
    assert all(b'"output_type"' in content for content in failed)


def check_refusal(
    capsys: Capture, options: list[str], *words: str, kept: bool = False
) -> None:
    with nothing_lost(kept=kept):
        assert main(options) == 1
    check_message(capsys.readouterr().err, *words)


def look_at(capsys: Capture, *options: str) -> str:
    """The notes of a hand-in that is ready to be uploaded."""
    assert main([*AS_NAME, *options]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"ready to upload: {Path.cwd() / ZIP}"
    return "\n".join(line for line in lines if line.startswith("Look at: "))


def test_run_makes_a_checked_zip(project, capsys):
    before = snapshot(project)
    assert not look_at(capsys)
    first, members = Path(ZIP).read_bytes(), unpack(ZIP)
    assert list(members) == [f"{NAME}.ipynb", PDF, *FILES, "shown.png"]
    assert snapshot(project) == before | {
        Path(PDF): members[PDF],
        Path(ZIP): first,
        Path("figures/deep/a.txt"): b"new",
    }
    assert members["figures/deep/a.txt"] == b"new"
    shown = zoo.text(PdfReader(PDF)).replace("\n", "")
    assert f"loss 2 {project / 'data'}" in shown and NAME in shown
    nb = nbformat.reads(members[f"{NAME}.ipynb"].decode(), as_version=4)
    counts = [cell.execution_count for cell in nb.cells[1:]]
    assert counts == [1, 2, None, 3, 4]

    # What is in the ZIP, packed again, gives the same bytes.
    shutil.unpack_archive(ZIP)
    assert not look_at(capsys, f"{NAME}.ipynb", "--no-execute")
    assert Path(ZIP).read_bytes() == first


ERROR = new_output("error", ename="E", evalue="", traceback=[])
BARS = [
    {"text/plain": "  0%|   | 0/5 [00:00<?]", VIEW: {"model_id": model}}
    for model in ("bar", "lost")
]
FINISHED, LOST = (new_output("display_data", bar) for bar in BARS)
MODELS = {
    "bar": {"state": {"children": ["IPY_MODEL_left", "IPY_MODEL_bar2"]}},
    "left": {"state": {"value": "100%"}},
    "bar2": {"state": {"value": 5.0, "max": 5.0}},
}
RAN_WITH = {"ran_with": {"helper.py": "0" * 64}}
RAN_WITH = new_output("display_data", {}, metadata=RAN_WITH)
NO_REPLY = {"execution": {"shell.execute_reply": None}}
LONG_AGO = {"execution": {"start": "2020-01-01T10:00:00.5Z"}}
ON_PURPOSE = {"tags": ["raises-exception"]}
SKIPPED = {"outputs": [], "execution_count": None}
STRANGE = {"output_type": "strange"}
NAMELESS = {"output_type": "stream", "text": "1"}
SAVED = [
    ("", {"source": "from __future__ import annotations"}),
    ("", {"source": "# nothing but words"} | SKIPPED),
    ("", {"metadata": ON_PURPOSE, "outputs": [ERROR]}),
    ("", {"metadata": {"tags": ["skip-execution"]}} | SKIPPED),
    ("nowhere_at_all: imported, but", {"source": "import nowhere_at_all"}),
    ("ended with an error: cell 2", {"outputs": [ERROR]}),
    ("not run: cell 2", SKIPPED),
    ("", {"source": "%%capture\nprint(1)", "outputs": []}),
    ("its output is lost: cell 2", {"source": "print(1)", "outputs": []}),
    ("not run once each, from top to bottom", {"execution_count": 7}),
    ("", {"outputs": [FINISHED]}),
    ("progress bar ended was not saved: cell 2", {"outputs": [LOST]}),
    ("without --include points.csv", {"source": "open('points.csv')"}),
    ("helper.py is newer", {"metadata": LONG_AGO}),
    ("helper.py is newer", {"outputs": [RAN_WITH]}),
    ("not keep to the notebook format", {"metadata": {"tags": None}}),
    ("not keep to the notebook format", {"metadata": NO_REPLY}),
    ("not keep to the notebook format", {"outputs": [STRANGE, NAMELESS]}),
]


@pytest.mark.parametrize(("note", "change"), SAVED)
def test_saved_notebook_is_handed_in(project, capsys, note, change):
    nb = notebook(code("0", stdout("0")), code("import helper", stdout("1")))
    nb.metadata["widgets"] = {WIDGETS: {"state": MODELS}}
    nb.cells[1].update(change)
    del nb.cells[1]["id"]
    write({"report.ipynb": json.dumps(nb), "points.csv": ""})
    notes = look_at(capsys, "--no-execute")
    assert note in notes and bool(notes) == bool(note)
    first, shown = Path(ZIP).read_bytes(), zoo.text(PdfReader(PDF))
    assert " 0%" not in shown
    if change == {"outputs": [FINISHED]}:
        assert "100%|██████████|" in shown
        assert look_at(capsys, "--no-execute") == notes
        assert Path(ZIP).read_bytes() == first


def test_what_to_look_at_is_listed(project, capsys):
    """Two pictures side by side count as two, one in Markdown as shown."""
    for name in ("in_markdown.png", "b.png", "deep/c.png", "d.png"):
        Path("figures", name).write_bytes(os.urandom(6_000_000))
    link = "## Part\n\n![](https://example.org/a.png) $\\foo$"
    link = markdown(f"{link} ![](figures/in_markdown.png)")
    picture = f'<img src="data:image/png;base64,{zoo.figure()}">'
    pair = new_output("display_data", {"text/html": picture * 2})
    pair.metadata["image/png"] = {"width": 9}  # which is no third one
    save(link, code("import helper", pair), executed=True)
    os.utime("helper.py", (4e9, 4e9))
    notes = look_at(capsys, "--no-execute", "--include", "gone.csv")
    for words in (
        "figures/ holds 3 pictures, the cells 2",
        'cell 1 (section "Part", "## Part"): a link stands for the picture',
        "\\foo",
        "20 MB",
        "gone.csv: no such file",
        "helper.py is newer",
    ):
        assert words in notes


ODD = f"""![](data:image/png;base64,{zoo.figure()})
![](a%00.png) ![]({"long" * 99}.png) ![](../outside.png)
<object data="a.svg"><img src="shown.png"></object>"""
LYING_THERE = {
    "utils/plot.py": "import below",
    "utils/below.txt": "",
    "utils/Thumbs.db": "",
    "utils/.hidden": "",
    "utils/loop.py/deep": "import utils",
    "below.py": "\ufeffimport marked  # \udcff",
    "marked.py": "",
    "tool.py": "",
    "other.ipynb": "no notebook",
    "my script.py": "import helper",
    "points.csv": "1, 2",
}


def test_files_that_are_handed_in(project, capsys):
    """By the README's rule, whatever else lies there or is named."""
    write(LYING_THERE)
    Path("utils/again").symlink_to(".")
    Path("linked.py").symlink_to("../outside.py")
    Path("../outside.py").touch()
    save(
        markdown(ODD),
        code("if True: import utils.plot as p, os\n%run 'my script'"),
        code("!python tool.py"),
        code("from __future__ import annotations\nopen('points.csv')"),
        code("try: import linked, below\nexcept ImportError: pass"),
        code("os.mkdir('data')\nopen('data/x', 'w').write('0' * 2_000_000)"),
    )
    include = ["--include", "points*", "*.ipynb"]
    notes = look_at(capsys, "report.ipynb", *include)
    assert "the run left data (2.0 MB)" in notes
    assert "linked.py leads to" in notes and "picture ../outside.png" in notes
    members = {*FILES, *LYING_THERE, f"{NAME}.ipynb", PDF, "shown.png"}
    members -= {"figures/deep/a.txt", "utils/Thumbs.db", "utils/.hidden"}
    assert set(unpack(ZIP)) == members


def test_dates_in_the_zip_and_a_name_that_is_none(
    project, capsys, monkeypatch
):
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    save(code("1"), executed=True)
    options = ["--name", PLACEHOLDER, "--no-execute", "--include", "."]
    assert main(options) == 0
    *_, note, last = capsys.readouterr().out.splitlines()
    assert note.endswith("no cell shows an output: were they stripped?")
    assert "ready" not in last and "--name" in last
    entries = zipfile.ZipFile(f"{PLACEHOLDER}.zip").infolist()
    assert {entry.date_time[0] for entry in entries} == {time.localtime()[0]}
    assert "data/big.bin" in [entry.filename for entry in entries]


def test_fault_of_our_own_is_named(project, capsys, monkeypatch):
    """The run is kept, whatever happens after it or to it."""
    monkeypatch.setattr(run, "cut", None)
    save(code("1"), code("print(1)"))
    check_refusal(capsys, AS_NAME, "TypeError: 'NoneType'", kept=True)


SAYS = "import os\nif os.environ['DEMO'] == 'auto': print('DEMO: no data')"
DEMO = [
    ("1", ["--demo"], "", True),
    ("1", [], "1", True),
    (SAYS, [], "", True),
    (SAYS, ["--no-execute"], "", True),
    ("1", ["--no-execute"], "1", False),
]


@pytest.mark.parametrize("case", DEMO)
def test_demo_cannot_be_mistaken_for_a_submission(
    project, capsys, monkeypatch, case
):
    source, options, env, demo = case
    monkeypatch.setenv("DEMO", env)
    said = [stdout("DEMO: no data\n")] * (source == SAYS)
    save(markdown("# A"), code(source, *said), executed=True)
    assert main([*AS_NAME, *options]) == 0
    output = capsys.readouterr()
    assert ("not a submission" in output.out.splitlines()[-1]) == demo
    assert ("no data" in output.err) == (source == SAYS)
    name = f"{NAME}-DEMO" if demo else NAME
    assert [path.name for path in project.glob("*.zip")] == [f"{name}.zip"]
    assert {f"{name}.pdf", f"{name}.ipynb"} <= set(unpack(f"{name}.zip"))
    page = PdfReader(f"{name}.pdf").pages[0].extract_text()
    assert page.count("DEMO: computed") == 2 * demo


REFUSED = [
    ("report.ipynb", "not a surname"),
    ("--name ../Muster-1 report.ipynb", "not a surname"),
    (f"--name {NAME} gone.ipynb", "no notebook"),
    (f"--name {NAME} broken.ipynb", "not a valid notebook"),
    (f"--name {NAME} old.ipynb", "not a valid notebook"),
    (f"--name {NAME} list.ipynb", "not a valid notebook"),
    (f"--name {NAME} prose.ipynb", "no code"),
    (f"--name {NAME} julia.ipynb", "in Python"),
    (f"--name {NAME} report.ipynb --no-execute", "No cell"),
    (f"--name {NAME} report.ipynb --output-dir helper.py", "exists"),
    (f"--name {NAME} report.ipynb --output-dir /proc", "/proc"),
    (f"--name {NAME}", "list.ipynb, old.ipynb"),
]


@pytest.mark.parametrize(("options", "reason"), REFUSED)
def test_refused_before_any_work(project, capsys, options, reason):
    write({"broken.ipynb": '{"cells": [', "list.ipynb": "[1, 2]"})
    write({"old.ipynb": '{"nbformat": 99, "cells": []}'})
    save(markdown("# Only prose"), name="prose.ipynb")
    nb = notebook(code("using Plots"))
    julia = {"name": "j", "display_name": "Julia", "language": "julia"}
    nb.metadata["kernelspec"] = julia
    write({"julia.ipynb": json.dumps(nb)})
    check_refusal(capsys, options.split(), reason)


FAULTS = [
    ("1 / 0", "ZeroDivisionError: division by zero"),
    ("import time\ntime.sleep(60)", "--timeout 1"),
    ("import os\nos.kill(os.getpid(), 9)", "killed"),
    ("import broken", "SyntaxError"),
    ("import nowhere_at_all", "No module named"),
    ("import deep", "--include lib/deep.py"),
    ("open('points.csv')", "--include points.csv"),
    ("MNIST = 'data'\nraise RuntimeError(MNIST)", "in a copy"),
    ("open('figures/x', 'w').write('x')\ninput()", "Stdin"),
]


@pytest.mark.parametrize(("source", "reason"), FAULTS)
def test_failing_cell(project, capsys, source, reason):
    write({"broken.py": "def (", "points.csv": "1, 2", "lib/deep.py": ""})
    save(code("print('before')"), markdown("## Faulty part"), code(source))
    options = AS_NAME + ["--timeout", "1"] * ("--timeout" in reason)
    where = 'cell 3 (section "Faulty part"'
    check_refusal(capsys, options, where, reason, FAILED, kept=True)


ENDS = """
import subprocess
from IPython.display import Markdown, display
from tqdm import tqdm
from tqdm.notebook import trange
for _ in trange(5): pass
for _ in tqdm(range(4)):
    for _ in tqdm(range(9), leave=False): pass
handle = display(Markdown('first'), display_id=True)
worker = subprocess.Popen(['sleep', '300'])
"""
REDRAWN = """
for i in range(3000):
    print('\\rbar', i, '#' * 50, end='', flush=True)
print('\\nRESULT 0.97')
"""


def test_output_as_it_ends(project):
    save(
        code(ENDS),
        code("handle.update(Markdown('**final** words'))"),
        code(REDRAWN),
        code("print('0123456789\\n' * 100_000 + 'the end')"),
    )
    assert main(AS_NAME) == 0
    shown = zoo.text(PdfReader(PDF))
    for words in (
        "final words",
        "5/5",
        "4/4",
        "bar 2999",
        "RESULT 0.97",
        "the end",
    ):
        assert f"\n{words}" in shown or f"| {words}" in shown
    assert not any(word in shown for word in ("\nfirst", "  0%|", "bar 2998"))
    packed = unpack(ZIP)[f"{NAME}.ipynb"]
    assert len(packed) < 300_000 and "left out" in packed.decode()


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
MOOD = """
HOME={} XDG_CONFIG_HOME={}/.config MPLBACKEND=Agg LC_ALL=C PYTHONUTF8=0
MATPLOTLIBRC={}/.config/matplotlib IPYTHONDIR={}/.ipython PYTHONPATH={}
JUPYTER_PATH={}/jupyter PYTHONCOERCECLOCALE=0 PYTHONOPTIMIZE=2
"""


def test_run_does_not_depend_on_the_machine(project, monkeypatch):
    """Two runs at once, where everything is set to spoil them."""
    write(HOME, home := project.parent / "home")
    save(markdown("# Ü"), code(FIGURE.format(python=sys.executable)))
    for setting in MOOD.replace("{}", str(home)).split():
        monkeypatch.setenv(*setting.split("="))
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    quiet["umask"] = 0o077
    for process in [subprocess.Popen(COMMAND, **quiet) for _ in range(2)]:
        assert b"ready to upload" in process.communicate()[0]
    assert unpack(ZIP)[PDF] == Path(PDF).read_bytes()
    assert not list(project.glob(".*"))
    assert sum(zoo.pictures(PdfReader(PDF))) == 1
    assert Path(ZIP).stat().st_mode & 0o777 == 0o644


WORKS = """
import subprocess
print(open('figures/a.txt', 'w').write('half'))
subprocess.run(['sleep', '300'])
"""


@pytest.mark.parametrize(
    ("number", "awaited"),
    [(signal.SIGTERM, "ipykernel_launcher"), (signal.SIGINT, "sleep")],
)
def test_stopped_in_the_middle(project, number, awaited):
    """While the kernel starts, and in a cell that has a worker."""
    save(code(WORKS))
    with nothing_lost(kept=awaited == "sleep"):
        process = subprocess.Popen(COMMAND, stderr=subprocess.PIPE, text=True)
        while awaited not in " ".join(alive(project)):
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(number)
        _, error = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "Stopped" in error and "Traceback" not in error
    time.sleep(0.3)  # for its worker to go


PHASES = ["notebook.read_notebook", "pack.find_files", "notebook.look_at"]
PHASES += ["pack.pack", "pack.os.replace"]


@pytest.mark.parametrize("phase", PHASES)
def test_stopped_in_any_phase(project, capsys, monkeypatch, phase):
    """The real signal, sent by the process to itself at that moment."""
    save(markdown("# A"), code("1"), executed=True)
    original = pkgutil.resolve_name(f"submission.{phase}")
    with monkeypatch.context() as patch, nothing_lost():

        def interrupted(*args: object, **options: object) -> object:
            patch.undo()
            result = original(*args, **options)
            os.kill(os.getpid(), signal.SIGINT)
            return result

        patch.setattr(f"submission.{phase}", interrupted)
        assert main([*AS_NAME, "--no-execute"]) == 130
    assert "Stopped;" in capsys.readouterr().err


def test_result_that_cannot_be_replaced(project, capsys):
    """A folder of the ZIP's name: the PDF, which went first, is put back."""
    Path(PDF).write_bytes(b"earlier")
    Path(ZIP).mkdir()
    check_refusal(capsys, AS_NAME, ZIP, FAILED, kept=True)


def test_command_line():
    with pytest.raises(SystemExit, match="2"):
        main(["--demo", "--no-execute"])
    # Help does not wait for the libraries, and works without them.
    where = {"cwd": Path(flow.__file__).parents[1], "text": True}
    bare = [sys.executable, "-S", "-m", "submission"]
    help_text = subprocess.check_output([*bare, "--help"], **where)
    assert "--no-execute" in help_text
    done = subprocess.run(bare, capture_output=True, **where)
    assert done.returncode == 1
    check_message(done.stderr, "not installed", sys.executable, ".venv")


@needs_user
@pytest.mark.parametrize(
    "name", ["report.ipynb", "helper.py", "figures", "."]
)
def test_without_permission(project, name):
    """A file that may not be read, a folder that may not be written."""
    path, out = project / name, project.parent / "out"
    change = ["chmod", "-R", "a-w" if name == "." else "a-rwx", name]
    with nothing_lost():
        subprocess.run(change, check=True)
        done = submit(*["--no-execute"] * name.startswith("figures"))
        if name == ".":
            assert "ready" in submit("--output-dir", str(out)).stdout
        subprocess.run(["chmod", "-R", "u+rwX", name], check=True)
    check_message(done.stderr, "Permission denied", path.name)
    assert (out / ZIP).exists() == (name == ".")


@pytest.fixture(params=["64k", "4k"])
def small_disk(tmp_path, request):
    """A file system of that size."""
    (folder := tmp_path / "disk").mkdir()
    options = ["-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", folder]
    try:
        subprocess.run(["mount", *options], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only an administrator can make a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


NOISE = "import os; open('figures/x.png', 'wb').write(os.urandom(150_000))"


@pytest.mark.parametrize("holds", ["results", "run"])
def test_disk_that_is_full(project, small_disk, monkeypatch, holds):
    """That of the results; that of the run, in a cell or before it."""
    save(markdown("# A"), code(NOISE))
    options = ["--output-dir", str(small_disk)] * (holds == "results")
    if holds == "run":
        monkeypatch.setenv("TMPDIR", str(small_disk))
    else:
        (small_disk / ZIP).write_bytes(b"earlier")
    space = os.statvfs(small_disk).f_blocks > 1
    with nothing_lost(small_disk, kept=space or holds == "results"):
        done = submit(*options)
        # The run is kept where there is room for it.
        kept = [*small_disk.glob(FAILED), *project.glob(FAILED)]
    check_message(done.stderr, "No space left", *options[1:])
    assert all(f"as far as it ran: {path}" in done.stderr for path in kept)
