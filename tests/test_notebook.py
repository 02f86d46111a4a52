"""The notebook as a whole: on the stand-ins, and as it is committed."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from project import NAME, ROOT
from pypdf import PdfReader

from benchmarks.report import cells, definitions, find_notebook, parameters

FIGURES = {path.stem for path in (ROOT / "figures").glob("*.svg")}


def code_cells(nb: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def text_of(nb: nbformat.NotebookNode) -> str:
    """All text outputs, as a reader sees them."""
    outputs = [output for cell in code_cells(nb) for output in cell.outputs]
    return "\n".join(
        output.get("text") or output.get("data", {}).get("text/markdown", "")
        for output in outputs
    )


@pytest.fixture(scope="module")
def unpacked(handed_in: Path) -> Path:
    """The ZIP of the run, unpacked at the grader's."""
    folder = handed_in.parent / "grader"
    shutil.unpack_archive(handed_in / f"{NAME}-DEMO.zip", folder)
    return folder


@pytest.fixture(scope="module")
def executed(unpacked: Path) -> nbformat.NotebookNode:
    return nbformat.read(unpacked / f"{NAME}-DEMO.ipynb", as_version=4)


def test_run_draws_every_figure(
    executed: nbformat.NotebookNode, unpacked: Path
) -> None:
    drawn = {path.stem for path in (unpacked / "figures").iterdir()}
    assert drawn == FIGURES
    captions = re.findall(
        r'<img src="data:image/svg\+xml;base64,[^"]+" alt="[\w ]+" '
        r'width="\d+"><figcaption>Figure (\d+): ',
        "".join(map(str, executed.cells)).replace("\\", ""),
    )
    # Figure 1 is drawn last and stands first
    assert captions == [str(i + 1) for i in range(len(FIGURES))]
    assert not list((unpacked.parent / "project" / "figures").glob("*"))


def test_run_says_that_it_is_a_demo(
    executed: nbformat.NotebookNode, unpacked: Path
) -> None:
    assert "\nDEMO:" in text_of(executed)
    reader = PdfReader(unpacked / f"{NAME}-DEMO.pdf")
    page = reader.pages[0].extract_text()
    assert "DEMO: computed from stand-in data" in page
    assert "Key results" in page and "after a full run" not in page
    words = "".join(page.extract_text() for page in reader.pages)
    assert len(set(re.findall(r"Figure\s\d+:", words))) == len(FIGURES)


def test_run_leaves_no_litter(executed: nbformat.NotebookNode) -> None:
    for cell in code_cells(executed):
        for output in cell.outputs:
            assert output.get("name") != "stderr"
            assert "\r" not in output.get("text", "")
            assert "%|" not in output.get("text", ""), "a progress bar"
            assert "widget" not in str(list(output.get("data", {})))
            if list(output.get("data", {})) == ["text/plain"]:
                assert not output.data["text/plain"].startswith("<")


def test_unpacked_zip_gives_the_same_results_whatever_is_run_again(
    executed: nbformat.NotebookNode, unpacked: Path
) -> None:
    """Stock nbconvert, without the project: all cells, then each again."""
    figures = {
        path: path.read_bytes() for path in (unpacked / "figures").iterdir()
    }
    startup = unpacked.parent / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "gone.py").write_text(
        "import sys; sys.modules['submission'] = None"
    )
    twice = executed.copy()
    twice.cells = executed.cells + code_cells(executed)
    for i, cell in enumerate(twice.cells):
        twice.cells[i] = cell = cell.copy()
        cell.id = f"cell-{i}"
    nbformat.write(twice, unpacked / "twice.ipynb")
    env = os.environ | {"DEMO": "1", "IPYTHONDIR": str(startup.parents[1])}
    options = ["--to", "notebook", "--execute", "twice.ipynb"]
    done = subprocess.run(
        [sys.executable, "-m", "nbconvert", *options],
        cwd=unpacked,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    again = code_cells(nbformat.read(unpacked / "twice.nbconvert.ipynb", 4))
    before = code_cells(executed)
    assert len(again) == 2 * len(before)
    for cell, other in zip(before * 2, again, strict=True):
        assert results(cell) == results(other), cell.source
    for path, content in figures.items():
        assert path.read_bytes() == content


def results(cell: nbformat.NotebookNode) -> tuple[str, list[dict]]:
    """What a cell printed and what it showed."""
    printed = "".join(out.get("text", "") for out in cell.outputs)
    printed = re.sub(r"[^\n]*\r", "", printed)  # a progress bar
    return printed, [out.data for out in cell.outputs if "data" in out]


def test_no_name_is_set_by_two_cells() -> None:
    """Else a cell run again would change what a later one shows."""
    owners: dict[str, str] = {}
    for cell in code_cells(nbformat.read(find_notebook(), as_version=4)):
        for name in names_set(ast.parse(cell.source)) - {"_"}:
            assert owners.setdefault(name, cell.id) == cell.id, name


def names_set(tree: ast.AST) -> set[str]:
    """Names that a cell sets in the notebook's own scope."""
    own = (ast.FunctionDef, ast.ClassDef)
    scopes = (*own, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp)
    names, todo = set(), [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, own):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if not isinstance(node, (*scopes, ast.GeneratorExp)):
            todo.extend(ast.iter_child_nodes(node))
    return names


def test_at_most_a_third_of_the_code_is_hidden() -> None:
    nb = nbformat.read(find_notebook(), as_version=4)
    lines = {True: 0, False: 0}
    for cell in code_cells(nb):
        hidden = "remove_input" in cell.metadata.get("tags", [])
        lines[hidden] += len(cell.source.splitlines())
    assert lines[True] <= sum(lines.values()) / 3


def test_the_network_shown_is_the_one_that_runs() -> None:
    nb = nbformat.read(find_notebook(), as_version=4)
    (shown,) = re.findall(r"(?s)```python\n(.*?)```", text_of(nb))
    code = (ROOT / "network.py").read_text("utf-8")
    for line in shown.strip().splitlines():
        assert line in code


def test_committed_notebook_is_a_complete_run() -> None:
    nb = nbformat.read(find_notebook(), as_version=4)
    code = code_cells(nb)
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1))
    kinds = {o.output_type for cell in code for o in cell.outputs}
    assert "error" not in kinds
    streams = {o.get("name") for cell in code for o in cell.outputs}
    assert "stderr" not in streams
    text = text_of(nb)
    assert "60,000 training and 10,000 test images" in text
    assert "DEMO" not in text


def test_names_that_other_things_rely_on() -> None:
    report = definitions()
    assert callable(report.CVAE) and callable(report.train)
    assert parameters().LATENT_DIM > 2
    source = "\n".join(
        cell.source for cell in code_cells(nbformat.read(find_notebook(), 4))
    )
    for name in ("cvae = CVAE(", "ablations = {"):
        assert name in source
    assert len(cells("parameters")) == 1


def test_no_function_reads_another_cells_globals() -> None:
    """Definitions use their arguments, each other and imports only."""
    source = "\n".join(cells("definitions"))
    command = [sys.executable, "-m", "ruff", "check", "--isolated"]
    done = subprocess.run(
        [*command, "--select", "F821", "-"],
        input=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_every_row_of_the_table_of_faults_has_its_test() -> None:
    folder = Path(__file__).parent
    table = (folder / "README.md").read_text("utf-8")
    tests = "".join(file.read_text() for file in folder.rglob("test_*.py"))
    for name in set(re.findall(r"`(test_\w+)`", table)):
        assert f"def {name}(" in tests, name
    for name in set(re.findall(r"(?:\w+/)?test_\w+\.py", table)):
        assert list(folder.rglob(name)), name
