"""As a person does it: JupyterLab in a browser, Run All Cells, hand in."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from project import NAME, copy_project
from pypdf import PdfReader
from test_notebook import FIGURES, code_cells

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium on this machine"
)

# A root's browser has no sandbox; the others keep it off the network.
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BAR = re.compile(r"(\d+)%\|.*\| \d+/(\d+) \[")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project as cloned and renamed, not yet run."""
    return copy_project(tmp_path / "Blatt 7 #1 für Übung 100%", epochs=20)


@pytest.fixture
def address(project: Path, tmp_path: Path) -> Iterator[str]:
    """JupyterLab on loopback, behind its token, with nobody's settings."""
    port, token = free_port(), secrets.token_hex(16)
    env = os.environ | {
        "DEMO": "1",
        "DATA_DIR": "data",
        "HOME": str(tmp_path),
        # Settings that would keep figures from the notebook, or stop it.
        "MPLBACKEND": "Agg",
        "MATPLOTLIBRC": str(tmp_path),
        "LC_ALL": "C",
        "JUPYTER_TOKEN": token,
        "JUPYTER_NO_CONFIG": "1",
    }
    options = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]
    settings = "text.usetex: True\nsavefig.bbox: tight\nfont.size: 30\n"
    (tmp_path / "matplotlibrc").write_text(settings)
    log = tmp_path / "server.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            cwd=project,
            env=env,
            stdout=file,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/lab/tree/{NAME}.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def page(address: str) -> Iterator["sync_api.Page"]:
    """The notebook on the screen, its kernel ready."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=OPTIONS
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1200})
        page.goto(address)
        # Cells that are run before the kernel is there are not run at all.
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(
            timeout=60_000
        )
        yield page
        browser.close()


def choose(page: "sync_api.Page", menu: str, *items: str) -> None:
    """Click through the menu bar."""
    page.locator(".lm-MenuBar-item", has_text=menu).click()
    for item in items:
        exactly = re.compile(f"^{re.escape(item)}$")
        page.locator(
            ".lm-Menu-item",
            has=page.locator(".lm-Menu-itemLabel", has_text=exactly),
        ).click()


# Looks at every change of the page, and not now and then from outside.
WATCH = r"""() => {
    window.bars = new Set();
    new MutationObserver(() => {
        for (const output of document.querySelectorAll(".jp-OutputArea pre"))
            for (const bar of output.textContent.match(/\d+%\|.*?\[/g) ?? [])
                window.bars.add(bar);
    }).observe(document.body, {childList: true, subtree: true,
                               characterData: true});
}"""


def run_all_cells(page: "sync_api.Page") -> set[tuple[str, str]]:
    """Do so; return how far which progress bars were seen."""
    page.evaluate(WATCH)
    choose(page, "Run", "Run All Cells")
    # The last cell fills them in; its own code is folded away.
    page.get_by_text("Key results").wait_for(timeout=240_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    bars = "\n".join(page.evaluate("[...window.bars]"))
    return set(BAR.findall(bars))


def test_run_all_cells_save_and_hand_in(
    page: "sync_api.Page", project: Path
) -> None:
    path = project / f"{NAME}.ipynb"
    total = len(code_cells(nbformat.read(path, as_version=4)))

    seen = run_all_cells(page)
    longest = max((total for _, total in seen), key=int)
    moving = {done for done, total in seen if total == longest} - {"100"}
    assert len(moving) >= 2, f"the progress bar did not move: {seen}"
    shown = page.locator(".jp-OutputArea-output img")
    assert shown.count() == len(FIGURES)
    broken = "every => every.filter(img => !img.naturalWidth).length"
    assert shown.evaluate_all(broken) == 0
    # Errors have a red background, formulas that went wrong a tag.
    assert not page.locator("[data-mime-type*=error]").count()
    assert not page.locator("[data-mime-type*=stderr]").count()
    assert page.locator("mjx-container").count() > 10
    assert not page.locator("mjx-merror").count()
    assert not page.locator(".jp-Dialog").count()

    def counts() -> list[int | None]:
        cells = code_cells(nbformat.read(path, as_version=4))
        return [cell.execution_count for cell in cells]

    page.keyboard.press("Control+s")
    deadline = time.monotonic() + 30
    while counts() != list(range(1, total + 1)):
        assert time.monotonic() < deadline, f"not saved: {counts()}"
        time.sleep(0.2)
    assert not page.locator(".jp-Dialog").count()

    downloads = []

    def note(where: "sync_api.Page") -> None:
        where.on("download", lambda download: downloads.append(download))

    note(page)
    page.context.on("page", note)
    choose(page, "File", "Save and Export Notebook As", "Typstpdf")
    deadline = time.monotonic() + 60
    while not downloads:
        assert time.monotonic() < deadline, "no PDF was downloaded"
        page.wait_for_timeout(200)
    assert downloads[0].suggested_filename == f"{NAME}.pdf"
    downloads[0].save_as(project / "menu.pdf")
    reader = PdfReader(project / "menu.pdf")
    assert "Variational Autoencoders" in reader.metadata.title

    options = [f"{NAME}.ipynb", "--no-execute", "--output-dir", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "submission", *options],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # The stand-ins' results are no submission, whoever ran them.
    assert "DEMO only" in done.stdout.splitlines()[-1]
    out = sorted(file.name for file in (project / "out").iterdir())
    assert out == [f"{NAME}-DEMO.pdf", f"{NAME}-DEMO.zip"]
    pages = PdfReader(project / "out" / f"{NAME}-DEMO.pdf").pages
    words = "".join(page.extract_text() for page in pages)
    assert "DEMO: computed from stand-in data" in words
    assert not BAR.search(words), "progress bars are no results"
