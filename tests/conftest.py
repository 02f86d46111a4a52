"""What the tests share: the report, run once on the stand-ins."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from benchmarks import report as report_module

ROOT = Path(__file__).resolve().parent.parent
NAME = "Muster-12345678"


@pytest.fixture(scope="session")
def report() -> SimpleNamespace:
    """The functions of the notebook's cells tagged ``definitions``."""
    return report_module.definitions()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads in tests go to loopback, never through a proxy."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def copy_project(folder: Path) -> Path:
    """The project as a student renames it, with little training, not run."""
    folder.mkdir()
    for name in ("network.py", "mnist.py", "requirements.txt"):
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
    nbformat.write(nb, folder / f"{NAME}.ipynb")
    return folder


@pytest.fixture(scope="session")
def handed_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what ``python -m submission --demo`` made."""
    project = copy_project(tmp_path_factory.mktemp("run") / "project")
    done = subprocess.run(
        [sys.executable, "-m", "submission", "--demo"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *_, note, last = done.stdout.splitlines()
    assert last.startswith("DEMO only") and "Look at" not in note, note
    return project
