"""The whole command: what is made, what is refused, what is kept."""

import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
import zipfile
from pathlib import Path

import psutil
import pytest
import zoo
from nbformat.v4 import new_output, reads
from pypdf import PdfReader
from zoo import NAME, code, display, markdown, notebook, save, stdout

from submission import SubmissionError, run
from submission.__main__ import SIGNALS, main
from submission.notebook import PLACEHOLDER, VIEW, WIDGETS, check_name

AS_NAME = ["--name", NAME]
COMMAND = [sys.executable, "-m", "submission", *AS_NAME]
PDF, ZIP, FAILED = f"{NAME}.pdf", f"{NAME}.zip", f"{NAME}-FAILED.ipynb"
FILES = {
    "figures/deep/a.txt": "old",
    "helper.py": "def answer():\n    import package.inner\n    return 42",
    "package/__init__.py": "",
    "package/inner.py": "from . import other\n",
    "package/other.py": "",
    "requirements.txt": "numpy",
    "shown.svg": zoo.figure("svg"),
}
# Files and variables that would each spoil the run.
HOME = {
    "../home/.config/matplotlib/matplotlibrc": "text.usetex: True",
    "../home/.ipython/profile_default/startup/a.py": "raise SystemExit('no')",
    "../home/helper.py": "def answer(): return -1",
    "../home/jupyter/kernels/python3/kernel.json": '{"argv": ["/nowhere"]}',
}
MOOD = """
HOME={} XDG_CONFIG_HOME={}/.config MPLBACKEND=Agg LC_ALL=C PYTHONUTF8=0
MATPLOTLIBRC={}/.config/matplotlib IPYTHONDIR={}/.ipython
JUPYTER_PATH={}/jupyter PYTHONCOERCECLOCALE=0 PYTHONOPTIMIZE=2
"""
FIGURE = f"""
import os, subprocess, sys
import matplotlib.pyplot as plt
from helper import answer
# No assertions: one of the settings would switch them off.
if (sys.executable, __debug__, answer()) != ({sys.executable!r}, True, 42):
    raise RuntimeError("another Python, or another module of that name")
plt.plot([1, 2])
plt.title("Übung 5 %")
plt.show()
os.mkdir("figures/deep")
open("figures/deep/a.txt", "w").write("new")
worker = subprocess.Popen(["sleep", "300"])
%matplotlib inline
from IPython.display import Markdown, display
from tqdm import tqdm
from tqdm.notebook import trange
for _ in trange(5): pass
for _ in tqdm(range(4)):
    for _ in tqdm(range(9), leave=False): pass
handle = display(Markdown('first'), display_id=True)
"""
FLOOD = """
handle.update(Markdown('**final** words'))
for i in range(3000):
    print('\\rbar', i, '#' * 50, end='', flush=True)
print('\\nRESULT 0.97', os.environ['DATA_DIR'])
"""
SHOWN = ["final words", "5/5", "4/4", "bar 2999", "RESULT 0.97", "the end"]
ODD = f"""## Part
![](data:image/png;base64,{zoo.figure()}) ![](https://example.org/a.png)
![](a%00.png) ![]({"long" * 99}.png) ![](../outside.png) $\\foo$
<object data="a.svg"><img src="shown.svg"></object> ![](figures/a.png)"""
# Two pictures side by side count as two, one in Markdown as shown.
DRAWS = f"""
from IPython.display import display
pair = {{"text/html": '<img src="data:image/png;base64,{zoo.figure()}">' * 2}}
display(pair, raw=True, metadata={{"image/png": {{"width": 9}}}})
os.makedirs("figures/deep")
for name in ("figures/a", "figures/b", "figures/deep/c", "figures/d", "data"):
    open(f"{{name}}.png", "wb").write(os.urandom(6_000_000))
"""
LYING_THERE = {
    "utils/plot.py": "import below",
    "utils/below.txt": "",
    "utils/loop.py/deep": "import utils",
    "below.py": "\ufeffimport marked  # \udcff",
    "marked.py": "",
    "tool.py": "",
    "tool2.py": "",
    "other.ipynb": "no notebook",
    "my script.py": "import helper",
    "points.csv": "1, 2",
}
STOPS = """
import os, subprocess
open('figures/a.txt', 'w').write('half')
worker = subprocess.Popen(['sleep', '300'])
os.kill(os.getppid(), {})
worker.wait()
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A report to run, here; afterwards no process or file is left."""
    (folder := tmp_path / "Übung 7").mkdir()
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setenv("DEMO", "0")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    save(code("import helper\nprint(open('figures/a.txt', 'w').write('x'))"))
    write(FILES | {"data/big.bin": "data", "lib/unused.py": "1 / 0"})
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # A shell has its jobs in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert not list(scratch.iterdir())
    for process in psutil.process_iter(["cmdline", "environ"]):
        mark = (process.info["environ"] or {}).get("TMPDIR")
        assert mark != str(scratch), process.info["cmdline"]


def write(files: dict[str, str]) -> None:
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content, "utf-8", "surrogateescape")


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files of a folder and what they hold, hidden ones too."""
    files = filter(Path.is_file, folder.rglob("*"))
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def refused(capfd, options, *words, kept=False, status=1, by=main):
    """One clear message; all is as it was, beside it the run if any."""
    if not Path(ZIP).exists():
        Path(ZIP).write_bytes(b"earlier")
    before = snapshot(root := Path.cwd().parent)
    assert by(options) == status
    after, error = snapshot(root), capfd.readouterr().err
    assert error.startswith(("Error: ", "\nStopped; "))
    assert len(error.strip().splitlines()) <= 4, error
    assert all(word in error for word in words), error
    assert "Traceback" not in error
    failed = [name for name in after if name.endswith(FAILED)]
    assert len(failed) == kept
    for name in failed:
        assert f"Kept as far as it ran: {root / name}" in error
        assert b'"output_type"' in after.pop(name)
    assert after == before


def look_at(capfd: pytest.CaptureFixture, *options: str) -> str:
    """The notes of a hand-in that is ready to be uploaded."""
    assert main([*AS_NAME, *options]) == 0
    *lines, last = capfd.readouterr().out.splitlines()
    assert last == f"ready to upload: {Path.cwd() / ZIP}"
    return "\n".join(line for line in lines if line.startswith("Look at: "))


def test_run_does_not_depend_on_the_machine(project, capfd, monkeypatch):
    """What a run makes: two at once, with everything set to spoil them."""
    write(HOME)
    for setting in MOOD.replace("{}", str(Path("../home").resolve())).split():
        monkeypatch.setenv(*setting.split("="))
    monkeypatch.setenv("PYTHONPATH", os.environ["HOME"], prepend=os.pathsep)
    save(
        markdown(f"# Sheet 7\n\n**{PLACEHOLDER}**\n\n![](shown.svg)"),
        code(FIGURE),
        code("1 / 0", tags=("skip-execution",)),
        code("1 / 0", tags=("raises-exception",)),
        code(FLOOD),
        code("print('0123456789\\n' * 100_000 + 'the end')"),
    )
    before = snapshot(project)
    runs = [subprocess.Popen(COMMAND, umask=0o077) for _ in range(2)]
    assert [process.wait() for process in runs] == [0, 0]
    output = capfd.readouterr().out
    assert output.count("\nready to upload") == 2
    assert output.count("Look at") == output.count("out here: cell 6") == 2
    first, packed = Path(ZIP).read_bytes(), zipfile.ZipFile(ZIP)
    assert packed.namelist() == [f"{NAME}.ipynb", PDF, *FILES]
    figure = "figures/deep/a.txt"
    results = {PDF: packed.read(PDF), ZIP: first, figure: b"new"}
    assert snapshot(project) == before | results
    assert packed.read(figure) == b"new"
    assert Path(ZIP).stat().st_mode & 0o777 == 0o644
    assert sum(zoo.pictures(PdfReader(PDF))) == 1
    shown = zoo.text(PdfReader(PDF))
    assert f"0.97 {project / 'data'}" in shown.replace("\n", "")
    assert PLACEHOLDER not in shown
    for words in (*SHOWN, NAME):
        assert f"\n{words}" in shown or f"| {words}" in shown
    assert not any(word in shown for word in ("\nfirst", "  0%|", "bar 2998"))
    content = packed.read(f"{NAME}.ipynb")
    counts = [cell.execution_count for cell in reads(content).cells[1:]]
    assert counts == [1, None, 2, 3, 4] and len(content) < 300_000

    # What is in the ZIP, packed again, gives the same bytes.
    packed.extractall()
    os.utime("helper.py", (4e9, 4e9))
    notes = look_at(capfd, f"{NAME}.ipynb", "--no-execute")
    assert "helper.py is newer than" in notes and notes.count("Look at") == 2
    assert Path(ZIP).read_bytes() == first


BAR = {"text/plain": "  0%|   | 0/5 [00:00<?]", VIEW: {"model_id": "bar"}}
FINISHED = {"outputs": [display(**BAR)]}
LOST = {"outputs": [display(**BAR | {VIEW: {"model_id": "lost"}})]}
MODELS = {
    "bar": {"state": {"children": ["IPY_MODEL_left", "IPY_MODEL_bar2"]}},
    "left": {"state": {"value": "100%"}},
    "bar2": {"state": {"value": 5.0, "max": 5.0}},
}
ERROR = new_output("error", ename="E", evalue="", traceback=[])
RAN_WITH = display() | {"metadata": {"ran_with": {"helper.py": "0" * 64}}}
LONG_AGO = {"execution": {"start": "2020-01-01T10:00:00.5Z"}}
SKIPPED = {"outputs": [], "execution_count": None}
ODD_OUTPUTS = [{"output_type": "x"}, {"output_type": "stream", "text": "1"}]
SAVED = [
    ("", {"source": "from __future__ import annotations"}),
    ("", {"source": "# nothing but words"} | SKIPPED),
    ("", {"metadata": {"tags": ["raises-exception"]}, "outputs": [ERROR]}),
    ("", {"metadata": {"tags": ["skip-execution"]}} | SKIPPED),
    ("nowhere_at_all: imported, but", {"source": "import nowhere_at_all"}),
    ("ended with an error: cell 2", {"outputs": [ERROR]}),
    ("not run: cell 2", SKIPPED),
    ("", {"source": "%%capture\nprint(1)", "outputs": []}),
    ("its output is lost: cell 2", {"source": "print(1)", "outputs": []}),
    ("not run once each, from top to bottom", {"execution_count": 7}),
    ("", FINISHED),
    ("", FINISHED | {"notebook": {"widgets": {WIDGETS: MODELS}}}),  # Colab
    ("progress bar ended was not saved: cell 2", LOST),
    ("without --include points.csv", {"source": "open('points.csv')"}),
    ("without --include lib/unused.py", {"source": "import unused"}),
    ("", {"source": "open('points.csv', 'w')"}),
    ("", {"source": "%%writefile new.py\nimport new"}),
    ("helper.py is newer", {"metadata": LONG_AGO}),
    ("helper.py is newer", {"outputs": [RAN_WITH]}),
    ("keep to the notebook format", {"metadata": {"tags": None}}),
    ("keep to the notebook format", {"metadata": {"execution": {"x": None}}}),
    ("keep to the notebook format", {"outputs": ODD_OUTPUTS}),
    ("keep to the notebook format", {"notebook": {"kernelspec": {}}}),
]


@pytest.mark.parametrize(("note", "change"), SAVED)
def test_saved_notebook_is_handed_in(project, capfd, note, change):
    nb = notebook(code("0", stdout("0")), code("import helper", stdout("1")))
    nb.metadata["widgets"] = {WIDGETS: {"state": MODELS}}
    nb.cells[1].update(change)
    nb.metadata.update(nb.cells[1].pop("notebook", {}))
    del nb.cells[1]["id"]
    write({"report.ipynb": json.dumps(nb), "points.csv": ""})
    notes = look_at(capfd, "--no-execute")
    assert note in notes and bool(notes) == bool(note)
    first, shown = Path(ZIP).read_bytes(), zoo.text(PdfReader(PDF))
    assert " 0%" not in shown
    assert ("100%|██████████|" in shown) == (change | FINISHED == change)
    assert look_at(capfd, "--no-execute") == notes
    assert Path(ZIP).read_bytes() == first


def test_files_that_are_handed_in(project, capfd, monkeypatch):
    """By the README's rule, whatever else lies there or is named."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    write(LYING_THERE | {"utils/Thumbs.db": "", "utils/.hidden": ""})
    Path("utils/again").symlink_to(".")
    Path("linked.py").symlink_to(__file__)
    save(
        markdown(ODD),
        code("if True: import utils.plot as p, os\n%run 'my script'"),
        code("import sys\n! {sys.executable} tool2.py"),
        code("from __future__ import annotations\nopen('points.csv')"),
        code("try: import linked, below\nexcept: pass\n!python tool.py"),
        code(DRAWS),
    )
    include = ["--include", "points*", "*.ipynb", "gone.csv"]
    notes = look_at(capfd, "report.ipynb", *include)
    for words in (
        "linked.py leads to",
        "the run left data.png (6.0 MB)",
        "figures/ holds 3 pictures, the cells 2",
        "20 MB",
        'cell 1 (section "Part", "## Part"): a link stands for the picture',
        "picture ../outside.png",
        "\\foo",
    ):
        assert words in notes
    gone = ["gone.csv: no such file" in n for n in notes.split("linked.py")]
    assert gone == [False, True, False]  # before the run, and only there
    drawn = {f"figures/{name}.png" for name in ("a", "b", "deep/c", "d")}
    members = {*FILES, *LYING_THERE, *drawn, f"{NAME}.ipynb", PDF}
    packed = zipfile.ZipFile(ZIP)
    assert set(packed.namelist()) == members - {"figures/deep/a.txt"}
    dates = {member.date_time[0] for member in packed.infolist()}
    assert dates == {time.localtime()[0]}


SAYS = "import os\nif os.environ['DEMO'] == 'auto': print('DEMO: no data')"
NAMELESS = f"--no-execute --include . --name {PLACEHOLDER}"
DEMO, ONLY = f"{NAME}-DEMO", "DEMO only, not a submission: "
VERDICTS = [
    ("1", "--demo", "", DEMO, ONLY),
    ("1", "", "1", DEMO, ONLY),
    (SAYS, "", "", DEMO, ONLY),
    (SAYS, "--no-execute", "", DEMO, ONLY),
    ("1", "--no-execute", "1", NAME, "ready to upload: "),
    ("1", NAMELESS, "0", PLACEHOLDER, "be uploaded: run again, --name "),
]


@pytest.mark.parametrize("case", VERDICTS)
def test_what_is_no_submission_says_so(project, capfd, monkeypatch, case):
    source, options, env, name, last = case
    monkeypatch.setenv("DEMO", env)
    said = [stdout("DEMO: no data\n")] * (source == SAYS)
    save(markdown("# A"), code(source, *said), executed=True)
    assert main([*AS_NAME, *options.split()]) == 0
    output, error = capfd.readouterr()
    assert last in output.splitlines()[-1]
    assert ("stripped?" in output) == ("--no-execute" in options and not said)
    assert ("no data" in error) == bool(said)
    assert [path.name for path in project.glob("*.zip")] == [f"{name}.zip"]
    packed = zipfile.ZipFile(f"{name}.zip").namelist()
    assert {f"{name}.pdf", f"{name}.ipynb"} <= set(packed)
    assert ("data/big.bin" in packed) == (name == PLACEHOLDER)
    page = PdfReader(f"{name}.pdf").pages[0].extract_text()
    assert page.count("DEMO: computed") == 2 * (name == DEMO)


KEPT = ["Müller-Lüdenscheidt-1", "O'Neill-12", "d’Arcy-12", "Łukasz-4"]
KEPT += ["van der Berg-3", "李-5", "देवनागरी-7", PLACEHOLDER]
BROKEN = ["", "-1", "Muster", "Muster-", "Muster 1", "Muster_1", "Muster-١"]
BROKEN += ["Muster-12a", "-Muster-1", "Mus--ter-1", " Muster-1", "Muster -1"]
BROKEN += ["Mus.ter-1", "../Muster-1", "a\\b-1", "a\x00b-1", "Muster-1\n"]
BROKEN += ["M4x-1", "x" * 300 + "-1", "\u0301a-1"]
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
FAULTS = [
    ("1 / 0", "ZeroDivisionError: division by zero"),
    ("import time\ntime.sleep(60)", "--timeout 1"),
    ("import os\nos.kill(os.getpid(), 9)", "killed"),
    ("import broken", "SyntaxError"),
    ("import nowhere_at_all", "No module named"),
    ("import unused", "--include lib/unused.py"),
    ("open('points.csv')", "--include points.csv"),
    ("%cd lib\nopen('points.txt')", "--include lib"),
    ("MNIST = 'data'\nraise RuntimeError(MNIST)", "in a copy"),
    ("open('figures/x', 'w').write('x')\ninput()", "Stdin"),
]
PHASES = ["notebook.read_notebook", "pack.find_files", "notebook.look_at"]
PHASES += ["pack.pack", "pack.os.replace"]


@pytest.mark.parametrize("name", KEPT)
def test_names_of_any_language(name):
    decomposed = unicodedata.normalize("NFD", name)
    assert check_name(name) == check_name(decomposed) == name


@pytest.mark.parametrize("name", BROKEN)
def test_other_names_are_refused_with_an_example(name):
    with pytest.raises(SubmissionError, match="Muster-12345678"):
        check_name(name)


@pytest.mark.parametrize(("options", "reason"), REFUSED)
def test_refused_before_any_work(project, capfd, options, reason):
    write({"broken.ipynb": '{"cells": [', "list.ipynb": "[1, 2]"})
    write({"old.ipynb": '{"nbformat": 99, "cells": []}'})
    save(markdown("# Only prose"), name="prose.ipynb")
    nb = notebook(code("using Plots"))
    julia = {"name": "j", "display_name": "Julia", "language": "julia"}
    nb.metadata["kernelspec"] = julia
    Path("julia.ipynb").write_text(json.dumps(nb), "utf-16")
    refused(capfd, options.split(), reason)


@pytest.mark.parametrize(("source", "reason"), FAULTS)
def test_failing_cell(project, capfd, source, reason):
    write({"broken.py": "def (", "points.csv": "1, 2"})
    save(code("print('before')"), markdown("## Faulty part"), code(source))
    options = AS_NAME + ["--timeout", "1"] * ("--timeout" in reason)
    where = 'cell 3 (section "Faulty part"'
    refused(capfd, options, where, reason, kept=True)


@pytest.mark.parametrize("words", ["TypeError: 'NoneType'", ZIP])
def test_fault_of_our_own_or_at_the_end(project, capfd, monkeypatch, words):
    """A folder of the ZIP's name: the PDF, which went first, is put back."""
    if words == ZIP:
        Path(PDF).write_bytes(b"earlier")
        Path(ZIP).mkdir()
    else:
        monkeypatch.setattr(run, "cut", None)
    refused(capfd, AS_NAME, words, kept=True)


@pytest.mark.parametrize("module", ["ipykernel_launcher", "busy"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_in_the_middle(project, capfd, module, number):
    """While the kernel starts, and in a cell; each has a worker."""
    write({f"{module}.py": STOPS.format(int(number))})
    save(code("print(1)"), code(f"import {module}"))
    how = {"status": 128 + number, "by": subprocess.call}
    refused(capfd, COMMAND, "Stopped;", kept=module == "busy", **how)
    time.sleep(0.3)  # for its worker to go


@pytest.mark.parametrize("phase", PHASES)
def test_stopped_in_any_phase(project, capfd, monkeypatch, phase):
    """The real signal, sent by the process to itself at that moment."""
    save(markdown("# A"), code("1"), executed=True)
    original = pkgutil.resolve_name(f"submission.{phase}")

    def interrupted(*args: object, **options: object) -> object:
        patch.undo()
        result = original(*args, **options)
        os.kill(os.getpid(), signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(f"submission.{phase}", interrupted)
        refused(capfd, [*AS_NAME, "--no-execute"], "Stopped;", status=130)


def test_command_line(project, capfd, monkeypatch):
    # Help does not wait for the libraries, and works without them.
    monkeypatch.setenv("PYTHONPATH", str(Path(run.__file__).parents[1]))
    cmd = [sys.executable, "-S", "-m", "submission"]
    assert b"--no-execute" in subprocess.check_output([*cmd, "--help"])
    refused(capfd, cmd, "not installed", cmd[0], ".venv", by=subprocess.call)
    with pytest.raises(SystemExit, match="2"):
        main(["--demo", "--no-execute"])


@pytest.mark.parametrize(
    "name", ["report.ipynb", "helper.py", "figures", "."]
)
def test_without_permission(project, capfd, name):
    """A file that may not be read, a folder that may not be written."""
    command = [*COMMAND, *["--no-execute"] * name.startswith("figures")]
    # An administrator may do everything, unless without that right.
    if psutil.Process().username() == "root":
        if not shutil.which("setpriv"):
            pytest.skip("root may do everything")
        right = "--bounding-set=-dac_override,-dac_read_search"
        command = ["setpriv", right, *command]

    def locked(command: list[str]) -> int:
        change = "a-w" if name == "." else "a-rwx"
        subprocess.run(["chmod", "-R", change, name], check=True)
        status = subprocess.call(command)
        subprocess.run(["chmod", "-R", "u+rwX", name], check=True)
        return status

    denied = ["Permission denied", Path(project, name).name, "Earlier result"]
    refused(capfd, command, *denied, by=locked)
    if name == ".":
        assert locked([*command, "--output-dir", "../out"]) == 0


@pytest.mark.parametrize("size", ["64k", "4k"])
@pytest.mark.parametrize("holds", ["results", "run"])
def test_disk_that_is_full(project, capfd, monkeypatch, request, holds, size):
    """That of the results; that of the run, in a cell or before it."""
    (disk := project.parent / "disk").mkdir()
    if os.system(f"mount -t tmpfs -o size={size} tmpfs {disk}"):
        pytest.skip("only an administrator can make a small disk")
    request.addfinalizer(lambda: os.system(f"umount --lazy {disk}"))
    (disk / ZIP).write_bytes(b"earlier")
    save(code("import os\nopen('figures/x', 'wb').write(os.urandom(99_999))"))
    options = [*AS_NAME, *["--output-dir", str(disk)] * (holds == "results")]
    if holds == "run":
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
    kept = holds == "results" or os.statvfs(disk).f_blocks > 1
    refused(capfd, options, "No space left", *options[3:], kept=kept)
