"""Run a notebook in a fresh kernel, whatever the machine is set to."""

import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient, exceptions
from nbformat import NotebookNode
from tqdm import tqdm

from submission import SubmissionError
from submission.notebook import DEMO_LINE, cut, is_code
from submission.pack import missing_files
from typstpdf.cells import describe

# For libraries whose errors reach the student in other words.
SILENT = logging.Logger("silent", level=logging.CRITICAL + 1)
# A bar made of widgets would be printed as it began: 0 %.
PLAIN_BARS = "import sys, tqdm; sys.modules['tqdm.notebook'] = tqdm"
ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class Client(NotebookClient):
    """nbclient that shows the last line printed, and survives a flood."""

    bar: tqdm
    demo = False

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], *where: object
    ) -> NotebookNode | None:
        """Take in one output; join at once what nbclient joins in the end."""
        content = msg["content"]
        if plain := content.get("data", {}).get("text/plain"):
            content["data"]["text/plain"] = cut(str(plain))
        if msg["msg_type"] != "stream":
            return super().output(outs, msg, *where)
        text = content["text"]
        words = ANSI.sub("", text[-2000:]).split()
        self.bar.set_postfix_str(" ".join(words)[-60:])
        if line := DEMO_LINE.search(text):
            self.demo = True
            self.bar.write(line[0], sys.stderr)
        widget = self.output_hook_stack[msg["parent_header"].get("msg_id")]
        if not (widget or self.clear_before_next_output):
            for out in outs:
                if out.get("name") == content["name"]:
                    out.text = cut(terminal(out.text, text))
                    return out
        content["text"] = cut(terminal("", text))
        return super().output(outs, msg, *where)


def terminal(shown: str, text: str) -> str:
    r"""What a terminal shows after more text: "\r" begins its line anew."""
    start = shown.rfind("\n") + 1
    lines = (shown[start:] + text).split("\n")
    ended = [line.rstrip("\r") for line in lines]
    # What the last line will be overwritten with is still to come.
    again = lines[-1][len(ended[-1]) :]
    lines = [line.rpartition("\r")[2] for line in ended]
    return shown[:start] + "\n".join(lines) + again


def environment(folder: Path, data: Path, demo: bool) -> dict[str, str]:
    """The kernel's environment: that of a machine without settings.

    Stand-ins are wanted (``DEMO=1``) or allowed if need be (``DEMO=auto``).
    """
    # PYTHONPATH and its like would run other code than is handed in.
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    env["DATA_DIR"] = os.path.abspath(os.environ.get("DATA_DIR") or data)
    env["DEMO"] = "1" if demo else os.environ.get("DEMO") or "auto"
    # Text files are UTF-8 in every locale, and on Windows.
    env["PYTHONUTF8"] = "1"
    # No start-up files, profile or matplotlibrc; figures are shown.
    env["IPYTHONDIR"] = str(folder / ".ipython")
    env["MATPLOTLIBRC"] = str(folder / ".matplotlibrc")
    env["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    return env


def run(
    nb: NotebookNode, copy: Path, root: Path, demo: bool, timeout: int | None
) -> bool:
    """Run all code cells in place, in a copy of the folder ``root``.

    Returns:
        Whether stand-ins were used: asked for, or a cell says so.

    Raises:
        SubmissionError: a cell failed or ran longer than ``timeout`` seconds,
            the kernel died or did not start. The notebook holds what ran.
    """
    steps = [i for i, cell in enumerate(nb.cells) if is_code(cell)]
    if not steps:
        raise SubmissionError("The notebook has no code to run.")
    for index in steps:
        nb.cells[index].outputs = []
        nb.cells[index].execution_count = None
    nb.metadata.pop("widgets", None)
    # It speaks of tasks that end with the kernel.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    (copy / ".matplotlibrc").touch()
    startup = copy / ".ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "plain_bars.py").write_text(PLAIN_BARS)
    # Only this Python's own kernel: one that another installation left would
    # lack the packages of this one.
    specs = KernelSpecManager(kernel_dirs=[])
    link = str(copy / ".kernel.json")
    manager = AsyncKernelManager(
        kernel_spec_manager=specs, connection_file=link, log=SILENT
    )
    client = Client(nb, km=manager, timeout=timeout, log=SILENT)
    client.iopub_timeout = 60
    client.record_timing = client.coalesce_streams = False
    client.store_widget_state = False
    demo = demo or os.environ.get("DEMO", "") not in ("", "0", "auto")
    env = environment(copy, root / "data", demo)
    bar = "{desc} [{elapsed}] {postfix}"
    with (
        kernel(client, copy, env),
        tqdm(steps, disable=None, leave=False, bar_format=bar) as client.bar,
    ):
        for number, index in enumerate(client.bar, 1):
            where = f"{number}/{len(steps)}  {describe(nb, index)}"
            client.bar.set_description_str(where)
            run_cell(client, index, number, copy, root)
    return demo or client.demo


@contextlib.contextmanager
def kernel(client: Client, copy: Path, env: dict[str, str]) -> Iterator[None]:
    """A kernel that does not outlive the block, however that ends."""
    manager = client.km  # nbclient forgets it when it ends
    # The kernel's own messages are of use only if it does not start.
    log = copy / ".kernel.log"
    try:
        with log.open("w") as out:
            start = {"stdout": out, "stderr": out, "env": env}
            client.start_new_kernel(cwd=str(copy), **start)
        try:
            client.start_new_kernel_client()
        except RuntimeError as error:
            tail = log.read_text(errors="replace")[-500:].strip()
            raise SubmissionError(
                f"The Python kernel did not start: {tail or error}"
            ) from error
        with client.setup_kernel(cleanup_kc=True):
            yield
    finally:
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
    # Only a kernel that has run everything ends in its own good time.
    client.shutdown_kernel = "immediate"
    cell = client.nb.cells[index]
    try:
        client.execute_cell(cell, index, number)
        # A progress bar that has gone leaves blanks.
        cell.outputs = [o for o in cell.outputs if o.get("text", "x").strip()]
        client.shutdown_kernel = "graceful"
        return
    except exceptions.CellExecutionError as error:
        text = f"{error.ename}: {' '.join(error.evalue.split())}"
        what = f"failed: {text[:600]}\nThe notebook ran in a copy of its "
        what += "folder, with only the files that the ZIP will hold."
        what += missing_files(f"{text}\n{cell.source}", root, copy)
    except exceptions.CellTimeoutError:
        what = f"ran longer than --timeout {client.timeout} seconds."
    except exceptions.DeadKernelError:
        what = "ended with its Python process killed, perhaps for want of "
        what += "memory.\nTry smaller batches, or close other programs."
    raise SubmissionError(f"{describe(client.nb, index)} {what}")
