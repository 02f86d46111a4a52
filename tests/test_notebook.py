"""The notebook as a whole: on demo data, and as it is committed."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from report import ROOT, cells, definitions, find_notebook, parameters

NOTEBOOK = find_notebook()
FIGURES = {
    "kl_weight",
    "samples_per_epoch",
    "training_curve",
    "latent_reconstruction_only",
    "latent_kl_only",
    "latent_full_loss",
    "latent_samples",
    "manifold",
    "reconstructions_mnist",
    "reconstructions_fashionmnist",
    "anomaly_histogram",
}


def code_cells(nb: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def text_of(nb: nbformat.NotebookNode) -> str:
    """All text outputs, as a reader sees them."""
    parts = []
    for cell in code_cells(nb):
        for output in cell.outputs:
            data = output.get("data", {})
            parts.append(
                output.get("text")
                or data.get("text/markdown")
                or data.get("text/plain", "")
            )
    return "\n".join(parts)


@pytest.fixture(scope="module")
def executed(
    demo_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[nbformat.NotebookNode, Path]:
    """The notebook run from start to end on the demo data."""
    folder = tmp_path_factory.mktemp("project")
    for name in (NOTEBOOK.name, "network.py", "mnist.py"):
        shutil.copy(ROOT / name, folder)
    nb = nbformat.read(folder / NOTEBOOK.name, as_version=4)
    for cell in code_cells(nb):
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        nb,
        timeout=300,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    env = os.environ | {"DEMO": "1", "DATA_DIR": str(folder / "data")}
    start = time.monotonic()
    client.execute(env=env)
    print(f"the notebook took {time.monotonic() - start:.0f} s on demo data")
    return nb, folder


def test_demo_run_draws_every_figure(executed: tuple) -> None:
    nb, folder = executed
    written = {file.stem for file in (folder / "figures").glob("*.png")}
    assert written == FIGURES
    pictures = sum(
        "image/png" in output.get("data", {})
        for cell in code_cells(nb)
        for output in cell.outputs
    )
    assert pictures == len(FIGURES)


def test_demo_run_says_that_it_is_one(executed: tuple) -> None:
    assert "DEMO" in text_of(executed[0])


def test_demo_run_leaves_no_litter(executed: tuple) -> None:
    for cell in code_cells(executed[0]):
        for output in cell.outputs:
            assert output.get("name") != "stderr"
            assert "\r" not in output.get("text", "")
            assert "widget" not in str(list(output.get("data", {})))
            if list(output.get("data", {})) == ["text/plain"]:
                assert not output.data["text/plain"].startswith("<")


def test_demo_run_fills_in_the_key_figures(executed: tuple) -> None:
    first_page = text_of(executed[0])[:600]
    assert "Key figures" in first_page
    assert "after a full run" not in first_page


def test_fingerprint_names_what_ran(executed: tuple) -> None:
    nb, folder = executed
    mime = "application/vnd.submission.fingerprint+json"
    *ran, last = [cell for cell in code_cells(nb) if cell.source.strip()]
    (fingerprint,) = [o.data[mime] for o in last.outputs if mime in o.data]
    assert fingerprint["cells"] == {
        str(cell.execution_count): hashlib.sha256(
            cell.source.strip().encode()
        ).hexdigest()
        for cell in ran
    }
    files = ["mnist.py", "network.py", *(f"figures/{f}.png" for f in FIGURES)]
    assert fingerprint["files"] == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in files
    }


def test_committed_notebook_is_a_complete_run() -> None:
    nb = nbformat.read(NOTEBOOK, as_version=4)
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
    for name in FIGURES:
        assert (ROOT / "figures" / f"{name}.png").is_file()


def test_committed_outputs_belong_to_the_committed_code() -> None:
    nb = nbformat.read(NOTEBOOK, as_version=4)
    mime = "application/vnd.submission.fingerprint+json"
    *ran, last = code_cells(nb)
    (fingerprint,) = [o.data[mime] for o in last.outputs if mime in o.data]
    for cell in ran:
        digest = hashlib.sha256(cell.source.strip().encode()).hexdigest()
        assert fingerprint["cells"][str(cell.execution_count)] == digest
    for name, digest in fingerprint["files"].items():
        content = (ROOT / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest


def test_names_that_other_things_rely_on() -> None:
    report = definitions()
    assert callable(report.CVAE) and callable(report.train)
    assert parameters().LATENT_DIM > 2
    source = "\n".join(
        cell.source for cell in code_cells(nbformat.read(NOTEBOOK, 4))
    )
    for name in ("cvae = CVAE(", "ablations = {"):
        assert name in source
    assert len(cells("parameters")) == 1


def test_no_line_runs_over_the_margin() -> None:
    for cell in code_cells(nbformat.read(NOTEBOOK, as_version=4)):
        for line in cell.source.splitlines():
            assert len(line) <= 78, line
