"""Run a notebook in a fresh kernel, whatever the machine is set to."""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import (
    CellExecutionError,
    CellTimeoutError,
    DeadKernelError,
)
from nbformat import NotebookNode
from tqdm import tqdm

from submission import SubmissionError
from submission.notebook import is_code
from typstpdf.cells import ANSI, describe, section, shorten

# What one cell may print; the rest is left out with a notice.
MAX_TEXT = 100_000
# For libraries whose errors reach the student in other words.
SILENT = logging.Logger("silent", level=logging.CRITICAL + 1)


class Client(NotebookClient):
    """nbclient that shows the last line printed, and stops a flood."""

    bar: tqdm
    room = MAX_TEXT

    def output(
        self,
        outs: list[NotebookNode],
        msg: dict[str, Any],
        *where: str | int | None,
    ) -> NotebookNode | None:
        """Take in one output of the running cell."""
        content = msg["content"]
        text = content.get("text", "")
        if text:
            words = ANSI.sub("", text[-2000:]).split()
            self.bar.set_postfix_str(" ".join(words)[-60:])
            if not self.room:
                return None
            if len(text) > self.room:
                content["text"] = text[: self.room] + "\n[… left out]\n"
            self.room = max(self.room - len(text), 0)
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
    # How often a waiting thread looks before it sleeps: as often as by
    # default, another program on one of two cores makes training several
    # times slower.
    return (
        {"GOMP_SPINCOUNT": "2000"}
        | env
        | {
            "DATA_DIR": os.path.abspath(os.environ.get("DATA_DIR") or data),
            "DEMO": str(int(demo)),
            # Text files are UTF-8 in every locale, and on Windows.
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
        SubmissionError: a cell failed or ran too long, the kernel died or
            did not start.
    """
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nb.metadata.pop("widgets", None)
    (folder / ".matplotlibrc").touch()
    manager = AsyncKernelManager(
        # Only this Python's own kernel: one that another installation left
        # would lack the packages of this one.
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        connection_file=str(folder / ".kernel.json"),
        log=SILENT,
    )
    client = Client(
        nb,
        km=manager,
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        iopub_timeout=60,
        log=SILENT,
    )
    steps = [i for i, cell in enumerate(nb.cells) if is_code(cell)]
    bar = "{desc} [{elapsed}] {postfix}"
    with (
        kernel(client, folder, env),
        tqdm(steps, disable=None, leave=False, bar_format=bar) as client.bar,
    ):
        for number, index in enumerate(client.bar, 1):
            client.room = MAX_TEXT
            client.bar.set_description_str(
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
    with open(folder / ".kernel.log", "w+", errors="replace") as messages:
        start = {"stdout": messages, "stderr": messages, "env": env}
        try:
            with client.setup_kernel(
                cleanup_kc=True, cwd=str(folder), **start
            ):
                yield
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
    # Only a kernel that has run everything ends in its own good time.
    client.shutdown_kernel = "immediate"
    try:
        client.execute_cell(client.nb.cells[index], index, number)
        client.shutdown_kernel = "graceful"
        return
    except CellExecutionError as error:
        evalue = shorten(error.evalue.strip(), 600)
        what = f"failed: {error.ename}: {evalue}"
        if error.ename in ("ModuleNotFoundError", "FileNotFoundError"):
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
    raise SubmissionError(f"{describe(client.nb, index)} {what}")
