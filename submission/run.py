"""Run a notebook in a fresh kernel, whatever the machine is set to."""

import contextlib
import os
import signal
from itertools import takewhile
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient, exceptions
from nbconvert.filters import strip_ansi
from nbformat import NotebookNode
from tqdm import tqdm

from submission import SubmissionError
from submission.notebook import cut, is_code
from submission.pack import missing
from typstpdf.cells import describe


class Client(NotebookClient):
    """nbclient that shows the last line printed, and survives a flood."""

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], *where: object
    ) -> NotebookNode | None:
        """Take in one output; join at once what is printed in a row."""
        out = super().output(outs, msg, *where)
        if not out or out.output_type != "stream":
            return out
        words = strip_ansi(out.text[-2000:]).split()
        self.bar.set_postfix_str(" ".join(words)[-60:])
        streams = takewhile(lambda o: o.output_type == "stream", outs[::-1])
        *_, first = (o for o in streams if o.name == out.name)
        if first is not out:
            first.text += outs.pop().text
        first.text = cut(first.text)
        return first


def environment(folder: Path, data: Path, demo: bool) -> dict[str, str]:
    """The kernel's environment: that of a machine without settings."""
    # PYTHONPATH and its like would run other code than is handed in.
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    place = os.path.expanduser(os.environ.get("DATA_DIR") or data)
    env["DATA_DIR"] = os.path.abspath(place)
    # Stand-ins are wanted, or allowed if need be.
    env["DEMO"] = "1" if demo else os.environ.get("DEMO") or "auto"
    env["PYTHONUTF8"] = "1"  # for files, in every locale and on Windows
    # No start-up files, profile or matplotlibrc; figures are shown.
    env["IPYTHONDIR"] = str(folder / ".ipython")
    env["MATPLOTLIBRC"] = os.devnull
    env["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    return env


def run(
    nb: NotebookNode, copy: Path, root: Path, demo: bool, timeout: int | None
) -> None:
    """Run all code cells in place, in a copy of the folder ``root``."""
    steps = [i for i, cell in enumerate(nb.cells) if is_code(cell)]
    for index in steps:
        nb.cells[index].update(outputs=[], execution_count=None)
    nb.metadata.pop("widgets", None)
    kernel = nb.metadata.get("kernelspec", {}).get("language") or "python"
    if not steps or not kernel.lower().startswith("python"):
        raise SubmissionError("There is no code in Python; see --no-execute")
    # Another installation's kernel would lack the packages of this one.
    specs = KernelSpecManager(kernel_dirs=[])
    manager = AsyncKernelManager(kernel_spec_manager=specs)
    manager.connection_file = str(copy / ".kernel.json")
    client = Client(nb, km=manager, timeout=timeout, record_timing=False)
    client.shutdown_kernel, client.iopub_timeout = "immediate", 60
    start = {"cwd": str(copy), "stdout": DEVNULL, "stderr": DEVNULL}
    start["env"] = environment(copy, root / "data", demo)
    bar = "{desc} [{elapsed}] {postfix}"
    client.bar = tqdm(steps, disable=None, leave=False, bar_format=bar)
    try:
        with client.setup_kernel(cleanup_kc=True, **start), client.bar:
            for number, index in enumerate(client.bar, 1):
                where = f"{number}/{len(steps)}  {describe(nb, index)}"
                client.bar.set_description_str(where)
                run_cell(client, index, number, copy, root)
            client.shutdown_kernel = "graceful"  # it may close its files
    finally:
        client.set_widgets_metadata()
        # Stopped while the kernel starts, nbclient leaves it running; and
        # workers that a cell started are in the kernel's group.
        pid = getattr(manager.provisioner, "pid", None)
        if pid and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


def run_cell(
    client: Client, index: int, number: int, copy: Path, root: Path
) -> None:
    """Run one cell; say in the student's words how it failed."""
    cell = client.nb.cells[index]
    try:
        client.execute_cell(cell, index, number)
        for out in cell.outputs:
            if out.output_type == "stream":
                out.text = cut(out.text, 0)
        # A progress bar that has gone leaves blanks.
        cell.outputs = [o for o in cell.outputs if o.get("text", "x").strip()]
        return
    except exceptions.CellTimeoutError:
        what = f"ran longer than --timeout {client.timeout} seconds."
    except exceptions.DeadKernelError:
        what = "ended: its Python was killed, perhaps for want of memory."
    except exceptions.CellExecutionError as error:
        # IPython answers "NoneType" if a result cannot be shown.
        error = next((o for o in cell.outputs if "ename" in o), error)
        text = f"{error.ename}: {' '.join(error.evalue.split())}"
        what = f"failed: {text[:600]}\nThe notebook ran in a copy of its "
        what += "folder, with only the files that the ZIP will hold."
        lost = missing(f"{text} {cell.source}", root, copy, os.path.exists)
        what += f" Not among them, but beside it: {lost}" * bool(lost)
    raise SubmissionError(f"{describe(client.nb, index)} {what}")
