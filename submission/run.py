"""Run a notebook in a fresh kernel, whatever the machine is set to."""

import contextlib
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ipykernel.kernelspec import make_ipkernel_cmd
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import (
    CellExecutionError,
    CellTimeoutError,
    DeadKernelError,
)
from nbformat import NotebookNode
from tqdm import tqdm

from submission import SubmissionError
from submission.notebook import ANSI, describe, is_code, section, shorten

# What one cell may print; the rest is left out with a notice.
MAX_TEXT = 100_000


class CellFailed(SubmissionError):
    """A cell could not be run to its end; the notebook holds the rest.

    Attributes:
        kind: the exception that the cell raised, or ''.
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class ThisInterpreter(KernelSpecManager):
    """The running Python's own kernel.

    A kernel spec "python3" left by another installation would run the
    notebook without the packages of this one.
    """

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The only kernel there is."""
        return KernelSpec(
            argv=make_ipkernel_cmd(),
            display_name="Python 3",
            language="python",
        )


class Client(NotebookClient):
    """nbclient that shows the last line printed, and stops a flood."""

    bar: tqdm
    printed = 0

    def output(
        self,
        outs: list[NotebookNode],
        msg: dict[str, Any],
        *where: str | int | None,
    ) -> NotebookNode | None:
        """Take in one output of the running cell."""
        text = msg["content"].get("text", "")
        lines = ANSI.sub("", text[-2000:]).split()
        if lines:
            self.bar.set_postfix_str(" ".join(lines)[-60:])
        room = max(MAX_TEXT - self.printed, 0)
        self.printed += len(text)
        if text and not room:
            return None
        if len(text) > room:
            msg["content"]["text"] = text[:room] + "\n[… more left out]\n"
        return super().output(outs, msg, *where)


def environment(folder: Path, data: Path, demo: bool) -> dict[str, str]:
    """The kernel's environment: that of a machine without settings.

    Args:
        folder: where the notebook runs.
        data: the datasets' folder, for ``DATA_DIR``.
        demo: whether to ask for stand-ins, by ``DEMO=1``.
    """
    # PYTHONPATH and its like would run other code than is handed in.
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    # Threads that wait asleep: with another program on one of two cores,
    # spinning ones make training several times slower.
    return (
        {"OMP_WAIT_POLICY": "passive"}
        | env
        | {
            "DATA_DIR": os.path.abspath(os.environ.get("DATA_DIR") or data),
            "DEMO": str(int(demo)),
            # Without it a kernel under LC_ALL=C reads and writes ASCII.
            "PYTHONUTF8": "1",
            # No start-up files, profile or matplotlibrc; figures are shown.
            "IPYTHONDIR": str(folder / ".ipython"),
            "MATPLOTLIBRC": str(folder / ".matplotlibrc"),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }
    )


def run(
    nb: NotebookNode,
    folder: Path,
    env: dict[str, str],
    timeout: int | None,
) -> None:
    """Run all code cells in place; on an error the notebook holds the rest.

    Args:
        nb: the notebook; its outputs are replaced.
        folder: the kernel's working directory.
        env: the kernel's environment.
        timeout: seconds that one cell may take.

    Raises:
        CellFailed: a cell failed, ran too long, or the kernel died.
        SubmissionError: the kernel does not start.
    """
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nb.metadata.pop("widgets", None)
    (folder / ".matplotlibrc").touch()
    log = logging.getLogger("submission.kernel")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    manager = AsyncKernelManager(
        kernel_spec_manager=ThisInterpreter(),
        kernel_name="python3",
        connection_file=str(folder / ".kernel.json"),
        log=log,
    )
    client = Client(
        nb,
        km=manager,
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        iopub_timeout=60,
        log=log,
    )
    steps = [i for i, cell in enumerate(nb.cells) if is_code(cell)]
    bar = "{desc} [{elapsed}] {postfix}"
    with (
        kernel(client, folder, env),
        tqdm(steps, disable=None, leave=False, bar_format=bar) as progress,
    ):
        client.bar = progress
        for number, index in enumerate(progress, 1):
            client.printed = 0
            progress.set_description_str(
                f"cell {number}/{len(steps)}  {section(nb, index)}"
            )
            run_cell(client, index, number)


@contextlib.contextmanager
def kernel(
    client: Client, folder: Path, env: dict[str, str]
) -> Iterator[None]:
    """A kernel that does not outlive the block, however that ends."""
    manager = client.km  # nbclient forgets it when it ends
    # The kernel's own messages are of use only if it does not start.
    with tempfile.TemporaryFile("w+", errors="replace") as messages:
        start = {"stdout": messages, "stderr": messages, "env": env}
        try:
            with client.setup_kernel(
                cleanup_kc=True, cwd=str(folder), **start
            ):
                try:
                    yield
                except BaseException:
                    client.shutdown_kernel = "immediate"
                    raise
        except RuntimeError as error:
            messages.seek(0)
            tail = messages.read()[-500:].strip()
            raise SubmissionError(
                f"The Python kernel did not start: {tail or error}"
            ) from error
        finally:
            # Stopped while the kernel starts, nbclient leaves it running;
            # and workers that a cell started are in the kernel's group.
            pid = getattr(manager.provisioner, "pid", None)
            if pid and hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)


def run_cell(client: Client, index: int, number: int) -> None:
    """Run one cell; say in the student's words how it failed."""
    cell, kind = client.nb.cells[index], ""
    try:
        client.execute_cell(cell, index, execution_count=number)
        return
    except CellExecutionError as error:
        kind = error.ename
        what = f"failed: {kind}: {shorten(error.evalue.strip(), 600)}"
        if kind in ("ModuleNotFoundError", "FileNotFoundError"):
            what += (
                "\nThe notebook ran in a copy of its folder, with only the "
                "files that the ZIP will hold."
            )
    except CellTimeoutError:
        what = f"ran longer than --timeout {client.timeout} seconds."
    except DeadKernelError:
        what = (
            "ended with its Python process killed, perhaps for want of "
            "memory.\nTry smaller batches, or close other programs."
        )
    raise CellFailed(f"{describe(client.nb, index)} {what}", kind)


def check_executed(nb: NotebookNode) -> list[str]:
    """Look whether Jupyter ran the whole notebook, from top to bottom.

    Returns:
        What the student should look at.

    Raises:
        SubmissionError: a cell was not run, or ended with an error.
    """
    counts = []
    for index, cell in enumerate(nb.cells):
        if not is_code(cell):
            continue
        counts.append(cell.execution_count)
        failed = any(out.output_type == "error" for out in cell.outputs)
        if cell.execution_count is None or failed:
            raise SubmissionError(
                f"{describe(nb, index)} "
                f"{'ended with an error' if failed else 'has not been run'}."
                "\nIn Jupyter, choose Run → Restart Kernel and Run All "
                "Cells, save, and try again."
            )
    if counts != list(range(1, len(counts) + 1)):
        return ["the cells were not run once each, from top to bottom"]
    return []
