"""The report gives the same numbers again, whatever is run again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

Notebook = nbformat.NotebookNode


def numbers(nb: Notebook, folder: Path) -> dict[str, object]:
    """All that a run found out: texts and figures, no clocks."""
    found: dict[str, object] = {
        file.name: file.read_bytes()
        for file in sorted((folder / "figures").iterdir())
    }
    for index, cell in enumerate(nb.cells):
        for number, out in enumerate(cell.get("outputs", [])):
            data = out.get("data") or out.get("text", "")
            # Progress bars tell the time; a fingerprint, what ran before.
            if "%|" not in str(data) and "fingerprint" not in str(data):
                found[f"cell {index}, output {number}"] = data
    return found


def run(folder: Path, then: Callable[[NotebookClient], None]) -> None:
    """Restart the kernel and run all cells, then something more."""
    nb = nbformat.read(folder / "Muster-12345678.ipynb", as_version=4)
    client = NotebookClient(nb, timeout=300, coalesce_streams=True)
    with client.setup_kernel(cwd=str(folder)):
        run_section(client, "# ")
        then(client)


def run_section(client: NotebookClient, heading: str) -> None:
    """Run the cells from a heading on to the next of its level."""
    inside = False
    level = heading.split()[0] + " "
    for index, cell in enumerate(client.nb.cells):
        if cell.cell_type == "markdown" and cell.source.startswith(level):
            inside = cell.source.startswith(heading)
        elif inside and cell.cell_type == "code":
            client.execute_cell(cell, index)


def test_every_run_gives_the_same_numbers(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMO", "1")
    monkeypatch.setenv("DATA_DIR", str(short / "data"))
    first: dict[str, object] = {}

    def again(client: NotebookClient) -> None:
        first.update(numbers(client.nb, short))
        assert len(first) > 25
        # Task 1 would notice if task 3 had touched its model or the seed.
        for heading in ("## Task 3", "## Task 1", "## Task 3"):
            run_section(client, heading)
            assert numbers(client.nb, short) == first, heading

    def compare(client: NotebookClient) -> None:
        assert numbers(client.nb, short) == first

    run(short, then=again)
    shutil.rmtree(short / "figures")
    run(short, then=compare)
