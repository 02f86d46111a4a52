"""The functions that live in the report's cells, for tests and benchmarks.

They are taken from the notebook as they stand there, so that what is tested
and measured is what is handed in.
"""

import ast
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import nbformat
import torch

ROOT = Path(__file__).resolve().parent.parent


def get_device() -> torch.device:
    """The accelerator if there is one."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


def find_notebook() -> Path:
    """The project's one notebook, whatever the student has named it."""
    (notebook,) = sorted(ROOT.glob("*.ipynb"))
    return notebook


def cells(tag: str) -> list[str]:
    """Sources of the notebook's cells that carry a tag."""
    nb = nbformat.read(find_notebook(), as_version=4)
    return [
        cell.source
        for cell in nb.cells
        if tag in cell.metadata.get("tags", [])
    ]


def definitions() -> SimpleNamespace:
    """Run the cells tagged ``definitions``; return what they define."""
    matplotlib.use("Agg")
    namespace: dict = {}
    for source in cells("definitions"):
        exec(source, namespace)
    return SimpleNamespace(**namespace)


def parameters() -> SimpleNamespace:
    """The literal values of the cell tagged ``parameters``."""
    (source,) = cells("parameters")
    return SimpleNamespace(
        **{
            node.targets[0].id: ast.literal_eval(node.value)
            for node in ast.parse(source).body
        }
    )
