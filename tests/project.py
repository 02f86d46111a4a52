"""The project as a student has it."""

import re
import shutil
from pathlib import Path

import nbformat

from benchmarks.report import ROOT, find_notebook

NAME = "Muster-12345678"


def copy_project(folder: Path, epochs: int = 3) -> Path:
    """The project as a student renames it, with little training, not run."""
    folder.mkdir()
    for name in ("network.py", "mnist.py", "plots.py", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    nb = nbformat.read(find_notebook(), as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            # Less would be too short for the learning rate's schedule.
            cell.source, count = re.subn(
                r"(?m)^(EPOCHS\w*) = \d+", rf"\1 = {epochs}", cell.source
            )
            assert count == 3
    nbformat.write(nb, folder / f"{NAME}.ipynb")
    return folder
