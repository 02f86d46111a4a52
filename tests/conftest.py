"""What the tests share: the report's functions, demo data, no network."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

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
