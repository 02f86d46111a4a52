"""What the tests share: the report's functions, demo data, no network."""

import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import report as report_module  # noqa: E402

import mnist  # noqa: E402


@pytest.fixture(scope="session")
def report() -> SimpleNamespace:
    """The functions of the notebook's cells tagged ``definitions``."""
    return report_module.definitions()


@pytest.fixture(scope="session")
def demo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo data, written once."""
    folder = tmp_path_factory.mktemp("data")
    mnist.write_demo(folder)
    return folder


@pytest.fixture
def demo(demo_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``DATA_DIR`` names the demo data, as one dataset folder like others."""
    monkeypatch.setenv("DATA_DIR", str(demo_dir))
    monkeypatch.delenv("DEMO", raising=False)
    return demo_dir


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads in tests go to loopback, never through a proxy."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """The project in a folder of its own, with little training."""
    folder = tmp_path / "short"
    folder.mkdir()
    for name in ("network.py", "mnist.py", "requirements.txt", "README.md"):
        shutil.copy(ROOT / name, folder)
    nb = nbformat.read(report_module.find_notebook(), as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            # Less would be too short for the learning rate's schedule.
            cell.source, count = re.subn(
                r"(?m)^(EPOCHS\w*) = \d+", r"\1 = 3", cell.source
            )
            assert count == 3
    nbformat.write(nb, folder / "Muster-12345678.ipynb")
    return folder
