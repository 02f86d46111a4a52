"""A small project folder like a student's."""

import base64
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from zoo import code, figure, markdown, save

from submission.__main__ import SIGNALS

HELPER = """from deeper import twice


def answer() -> int:
    import package.inner

    return 42
"""


@pytest.fixture
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
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
        markdown("## Task 1: Train"),
        code("%matplotlib inline\nimport os\nfrom helper import answer"),
        code(
            "def loss(x: int) -> int:\n    return answer() - x",
            tags=("definitions",),
        ),
        code("%%time\nprint('loss', loss(40), os.environ['DATA_DIR'])"),
        markdown("## Task 2: Draw"),
        code(
            "with open('figures/a.txt', 'w') as file:\n    file.write('new')"
        ),
    )
    (folder / "helper.py").write_text(HELPER)
    (folder / "deeper.py").write_text("twice = 2\n")
    (folder / "unused.py").write_text("1 / 0\n")
    (folder / "requirements.txt").write_text("numpy\n")
    (folder / "README.md").write_text("Hello\n")
    (folder / "package").mkdir()
    for name in ("__init__", "inner", "sibling", "other"):
        (folder / "package" / f"{name}.py").touch()
    (folder / "package" / "inner.py").write_text("from . import sibling\n")
    (folder / "shown.png").write_bytes(base64.b64decode(figure()))
    for name in ("data", "figures"):
        (folder / name).mkdir()
    (folder / "data" / "big.bin").write_bytes(b"data")
    (folder / "figures" / "a.txt").write_text("old")
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)
