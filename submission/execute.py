"""Run a notebook in a fresh kernel, with live progress on the terminal."""

import contextlib
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

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

from submission import SubmissionError
from submission.notebook import ANSI, describe, is_code, section, shorten
from submission.screen import Screen


class DataUnavailable(Exception):
    """The notebook found no data; the message is the notebook's."""


class CellFailed(SubmissionError):
    """A cell could not be run to its end; the notebook holds the rest."""


class Status:
    """One live line on a terminal, or a plain line per cell elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self.place = self.news = ""
        self.start = time.monotonic()
        self.stopped = threading.Event()
        self.ticking = threading.Thread(target=self._tick, daemon=True)
        if self.live:
            self.ticking.start()

    def cell(self, number: int, total: int, heading: str) -> None:
        """A cell begins."""
        self.place, self.news = f"cell {number}/{total}  {heading}", ""
        if self.live:
            self._draw()
        else:
            print(f"[{self._clock()}] {self.place}", file=self.stream)
            self.stream.flush()

    def output(self, text: str) -> None:
        """The running cell printed something; keep its last line."""
        lines = re.split(r"[\r\n]+", ANSI.sub("", text[-2000:]))
        lines = [line.strip() for line in lines if line.strip()]
        self.news = lines[-1] if lines else self.news
        if self.live:
            self._draw()

    def close(self) -> None:
        """Wipe the live line."""
        self.stopped.set()
        if self.live:
            self.ticking.join()
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
        return f"{minutes}:{seconds:02}"

    def _tick(self) -> None:
        while not self.stopped.wait(1):
            self._draw()

    def _draw(self) -> None:
        line = f"[{self._clock()}] {self.place}"
        if self.news:
            line += f" | {self.news}"
        width = shutil.get_terminal_size().columns - 1
        self.stream.write(f"\r{line[:width]}\x1b[K")
        self.stream.flush()


class Client(NotebookClient):
    """nbclient with streams as a terminal shows them, and live news."""

    def __init__(self, *args: Any, status: Status, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.status = status
        self.screens: list[tuple[NotebookNode, Screen]] = []

    def output(
        self,
        outs: list[NotebookNode],
        msg: dict[str, Any],
        display_id: str | None,
        cell_index: int,
    ) -> NotebookNode | None:
        """Take in one output of the running cell."""
        text = msg["content"].get("text")
        if msg["msg_type"] == "stream" and text:
            self.status.output(text)
            for out, screen in self.screens:
                if out["name"] == msg["content"]["name"] and any(
                    out is kept for kept in outs
                ):
                    screen.feed(text)
                    return out
            msg["content"]["text"] = ""
        data = msg["content"].get("data", {})
        if "text/plain" in data:
            data["text/plain"] = shorten(data["text/plain"])
        out = super().output(outs, msg, display_id, cell_index)
        if out is not None and msg["msg_type"] == "stream" and text:
            self.screens.append((out, Screen()))
            self.screens[-1][1].feed(text)
        return out

    def settle(self) -> None:
        """Put the screens' text into the cell that just ended."""
        for out, screen in self.screens:
            out["text"] = screen.text()
        self.screens.clear()


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
        DataUnavailable: a cell raised an exception of that name.
        CellFailed: a cell failed, ran too long, or the kernel died.
    """
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nb.metadata.pop("widgets", None)
    log = logging.getLogger("submission.kernel")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    status = Status(sys.stderr)
    manager = AsyncKernelManager(
        kernel_spec_manager=ThisInterpreter(),
        kernel_name="python3",
        connection_file=str(folder / ".kernel.json"),
        log=log,
    )
    client = Client(
        nb,
        km=manager,
        status=status,
        timeout=timeout,
        record_timing=False,
        # Client joins the streams itself, as a terminal would.
        coalesce_streams=False,
        store_widget_state=False,
        iopub_timeout=60,
        log=log,
    )
    steps = [i for i, cell in enumerate(nb.cells) if is_code(cell)]
    try:
        with _kernel(client, folder, env):
            for number, index in enumerate(steps, 1):
                status.cell(number, len(steps), section(nb, index))
                _run_cell(client, index, number)
    finally:
        status.close()
        # Not before: a later cell may still update a display by its place.
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.outputs = [
                    out
                    for out in cell.outputs
                    if out.output_type != "stream" or out.text
                ]


@contextlib.contextmanager
def _kernel(
    client: Client, folder: Path, env: dict[str, str]
) -> Iterator[None]:
    """A kernel that does not outlive the block, however that ends."""
    # Its own messages are of use only if it does not start.
    with tempfile.TemporaryFile("w+", errors="replace") as messages:
        start = {"stdout": messages, "stderr": messages, "env": env}
        manager = client.km
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


def _run_cell(client: Client, index: int, number: int) -> None:
    """Run one cell; say in the student's words how it failed."""
    nb = client.nb
    cell = nb.cells[index]
    client.on_cell_executed = lambda **_: client.settle()
    try:
        client.execute_cell(cell, index, execution_count=number)
    except CellExecutionError as error:
        reason = error.evalue.strip()
        if error.ename == "DataUnavailable":
            raise DataUnavailable(reason) from error
        message = f"{error.ename}: {shorten(reason, 600)}"
        if error.ename in ("ModuleNotFoundError", "FileNotFoundError"):
            message += (
                "\nThe notebook ran in a copy of its folder, with only the "
                "files that the ZIP will hold."
            )
        raise _failed(nb, index, f"failed: {message}") from error
    except CellTimeoutError as error:
        raise _failed(
            nb, index, f"ran longer than --timeout {client.timeout} seconds."
        ) from error
    except DeadKernelError as error:
        raise _failed(
            nb,
            index,
            "ended with its Python process killed, perhaps for want of "
            "memory.\nTry smaller batches, or close other programs.",
        ) from error
    finally:
        client.settle()


def _failed(nb: NotebookNode, index: int, what: str) -> CellFailed:
    return CellFailed(f"{describe(nb, index)} {what}")
