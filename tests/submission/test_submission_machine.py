"""Faults of the machine, for real: permissions and disks."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from zoo import NAME, code, markdown, save, snapshot

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
# An administrator may read and write everything, unless without that right.
AS_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
needs_user = pytest.mark.skipif(
    ROOT and not shutil.which("setpriv"), reason="root may do everything"
)


def submit(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "submission", "--name", NAME, *options]
    return subprocess.run(
        AS_USER * ROOT + command,
        env=os.environ | env,
        capture_output=True,
        text=True,
    )


def check_refusal(
    done: subprocess.CompletedProcess[str], *words: str, lines: int = 2
) -> None:
    """One clear message: no traceback, nothing else but the progress."""
    error = [x for x in done.stderr.splitlines() if not x.startswith("[0:")]
    assert done.returncode == 1
    assert len(error) <= lines and error[0].startswith("Error: "), error
    for word in words:
        assert word in done.stderr


def test_python_without_the_packages() -> None:
    folder = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-S", "-m", "submission"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    check_refusal(done, "not installed", sys.executable, ".venv")


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
        check_refusal(done, "Permission denied", str(project))
        assert "cell 1" not in done.stderr, "refused only after the run"
    assert snapshot(project) == before


@needs_user
@pytest.mark.parametrize(
    "name", ["report.ipynb", "deeper.py", "README.md", "figures"]
)
def test_file_that_may_not_be_read(project: Path, name: str) -> None:
    Path(f"{NAME}.zip").write_bytes(b"earlier")
    before = snapshot(project)
    mode = Path(name).stat().st_mode
    Path(name).chmod(0)
    done = submit("report.ipynb")
    Path(name).chmod(mode)
    check_refusal(done, "Permission denied", name, lines=3)
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


FIGURE = "open('figures/noise.png', 'wb').write(os.urandom({}))"


@pytest.mark.parametrize("room", [60_000, 0])
def test_disk_with_the_results_is_full(
    project: Path, small_disk: Path, room: int
) -> None:
    save(markdown("# A"), code(f"import os\n{FIGURE.format(150_000)}"))
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
    check_refusal(done, "No space left", str(small_disk), lines=3)
    # The run is kept where there is room for it.
    kept = (small_disk if room else project) / f"{NAME}-FAILED.ipynb"
    assert f"as far as it ran: {kept}" in done.stderr
    assert "urandom(" in kept.read_text()
    kept.unlink()
    assert snapshot(project) | snapshot(small_disk) == before


@pytest.mark.parametrize(("filler", "kept"), [(0, True), (118_000, False)])
def test_disk_that_the_notebook_runs_on_is_full(
    project: Path, small_disk: Path, filler: int, kept: bool
) -> None:
    """In a cell that draws a figure, or before the kernel has started."""
    save(markdown("# A"), code(f"import os\n{FIGURE.format(300_000)}"))
    (small_disk / "filler").write_bytes(bytes(filler))
    Path(f"{NAME}.zip").write_bytes(b"earlier")
    before = snapshot(project) | snapshot(small_disk)
    done = submit(TMPDIR=str(small_disk))
    check_refusal(done, "No space left", lines=3)
    after = snapshot(project) | snapshot(small_disk)
    assert (f"{NAME}-FAILED.ipynb" in after) == kept
    after.pop(f"{NAME}-FAILED.ipynb", None)
    assert after == before
