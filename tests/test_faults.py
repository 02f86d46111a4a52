"""Faults in the middle of the report's own training, and at the grader's."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

NAME = "Muster-12345678"
pytestmark = pytest.mark.skipif(
    not Path("/proc").exists(), reason="needs /proc"
)


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files and what they hold, without the stand-ins."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "data" not in path.parts
    }


class Run:
    """The command on the stand-ins, while it runs."""

    def __init__(self, project: Path) -> None:
        self.scratch = project.parent / "scratch"
        self.scratch.mkdir()
        self.mark = f"SUBMISSION_TEST={project}"
        env = {"TMPDIR": str(self.scratch), "SUBMISSION_TEST": str(project)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "submission", "--demo"],
            cwd=project,
            env=os.environ | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, words: str) -> None:
        """Wait until the progress on the terminal says so."""
        for line in self.process.stderr:
            if words in line:
                return
        pytest.fail(f"it never came to {words}")

    def alive(self, command: str = "") -> list[int]:
        """Processes of this run."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                state = (entry / "stat").read_text().rpartition(")")[2]
                if (
                    self.mark.encode() in (entry / "environ").read_bytes()
                    and command.encode() in (entry / "cmdline").read_bytes()
                    and state.split()[0] != "Z"
                ):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def end(self) -> tuple[int, str]:
        """Exit status and the last words; nothing must be left behind."""
        _, error = self.process.communicate(timeout=120)
        deadline = time.monotonic() + 1
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not self.alive()
        assert not list(self.scratch.iterdir())
        assert "Traceback" not in error
        return self.process.returncode, error


@pytest.fixture
def start(short: Path) -> Iterator[Callable[[], Run]]:
    """Start the command, once the fault has been laid."""
    (short / f"{NAME}-DEMO.zip").write_bytes(b"earlier")
    runs = []

    def begin() -> Run:
        runs.append(Run(short))
        return runs[0]

    yield begin
    for pid in runs[0].alive():
        os.kill(pid, signal.SIGKILL)


def set_parameter(project: Path, name: str, value: str) -> None:
    path = project / f"{NAME}.ipynb"
    nb = nbformat.read(path, as_version=4)
    (cell,) = [
        cell
        for cell in nb.cells
        if "parameters" in cell.metadata.get("tags", [])
    ]
    cell.source, count = re.subn(
        rf"(?m)^{name} = \S+", f"{name} = {value}", cell.source
    )
    assert count == 1
    nbformat.write(nb, path)


TRAINING = "1.3 The weight"


def failed_in_training(project: Path, before: dict, error: str) -> str:
    """Look for what is kept; return the error's first line."""
    lines = error[error.index("Error: ") :].strip().splitlines()
    assert re.match(r"Error: cell \d+ \(section \"1\.3 ", lines[0])
    assert len(lines) <= 4
    after = snapshot(project)
    kept = after.pop(f"{NAME}-DEMO-FAILED.ipynb")
    assert b"both terms agree" in kept
    assert after == before
    return lines[0]


def test_kernel_killed_while_training(
    short: Path, start: Callable[[], Run]
) -> None:
    set_parameter(short, "EPOCHS_SWEEP", "10_000")
    before = snapshot(short)
    run = start()
    for _ in range(2):  # the definitions of this section, the training
        run.until(TRAINING)
    time.sleep(1)
    (kernel,) = run.alive("ipykernel_launcher")
    os.kill(kernel, signal.SIGKILL)
    status, error = run.end()
    assert status == 1
    assert "killed" in failed_in_training(short, before, error)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_training(
    short: Path, start: Callable[[], Run], number: signal.Signals
) -> None:
    set_parameter(short, "EPOCHS_SWEEP", "10_000")
    before = snapshot(short)
    run = start()
    for _ in range(2):
        run.until(TRAINING)
    time.sleep(1)
    run.process.send_signal(number)
    status, error = run.end()
    assert status == 128 + number and "Stopped" in error
    assert snapshot(short) == before


def test_loss_that_is_not_finite(
    short: Path, start: Callable[[], Run]
) -> None:
    set_parameter(short, "LEARNING_RATE", "1e9")
    before = snapshot(short)
    status, error = start().end()
    assert status == 1
    line = failed_in_training(short, before, error)
    assert "loss not finite in epoch 1" in line
    assert "try a smaller learning rate" in line


# A little above what is in use when the training starts.
LIMIT = """

def _limit(after: int = 20) -> None:
    import resource

    calls = 0

    def encode(self, *args, original=CVAE.encode):
        nonlocal calls
        calls += 1
        if calls == after:
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            limit = used + 2_000_000
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            self.hoard = torch.ones(10, 2048, 2048)
        return original(self, *args)

    CVAE.encode = encode


_limit()
"""


def test_out_of_memory_while_training(
    short: Path, start: Callable[[], Run]
) -> None:
    with (short / "network.py").open("a") as file:
        file.write(LIMIT)
    before = snapshot(short)
    status, error = start().end()
    assert status == 1
    line = failed_in_training(short, before, error)
    assert "memory" in line


def test_unpacked_zip_runs_at_the_graders(
    short: Path, tmp_path: Path
) -> None:
    """Stock nbconvert runs it again, without the project and its package."""
    options = ["--demo", "--output-dir", str(tmp_path)]
    subprocess.run(
        [sys.executable, "-m", "submission", *options],
        cwd=short,
        check=True,
        capture_output=True,
    )
    grader = tmp_path / "grader"
    shutil.unpack_archive(tmp_path / f"{NAME}-DEMO.zip", grader)
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "gone.py").write_text(
        "import sys; sys.modules['submission'] = None"
    )
    env = os.environ | {"DEMO": "1", "IPYTHONDIR": str(tmp_path / "ipython")}
    env.pop("PYTHONPATH", None)
    options = ["--to", "notebook", "--execute", f"{NAME}-DEMO.ipynb"]
    done = subprocess.run(
        [sys.executable, "-m", "nbconvert", *options],
        cwd=grader,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first = nbformat.read(grader / f"{NAME}-DEMO.ipynb", as_version=4)
    again = nbformat.read(grader / f"{NAME}-DEMO.nbconvert.ipynb", 4)
    compared = 0
    for cell, other in zip(first.cells, again.cells, strict=True):
        for out in cell.get("outputs", []):
            if "text/markdown" in out.get("data", {}):
                assert out.data in [o.get("data") for o in other.outputs]
                compared += 1
    assert compared > 5


def test_every_row_of_the_table_has_its_test() -> None:
    """The table of faults in README.md names tests that exist."""
    folder = Path(__file__).parent
    table = (folder / "README.md").read_text("utf-8")
    tests = "".join(file.read_text() for file in folder.rglob("test_*.py"))
    for name in set(re.findall(r"`(?:[\w/]+\.py::)?(test_\w+)`", table)):
        assert f"def {name}(" in tests, name
    for name in set(re.findall(r"(?:submission/)?test_\w+\.py", table)):
        assert list(folder.rglob(name)), name
