"""What the tests share: the report, run once on the stand-ins."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

# The stand-ins are too small for two threads, which mostly wait for each
# other; set before torch is imported, and for the kernels too.
os.environ["OMP_NUM_THREADS"] = "1"

from project import copy_project

from benchmarks import report as report_module


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
