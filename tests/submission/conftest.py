"""A small project folder like a student's."""

import base64
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from zoo import code, figure, markdown, save

from submission.__main__ import SIGNALS

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
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    (folder / "shown.png").write_bytes(base64.b64decode(figure()))
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)
