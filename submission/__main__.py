"""The command line."""

import argparse
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType

from submission import SubmissionError

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
SIGNALS = [number for number in signal.Signals if number.name in NAMES]


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m submission",
        description="Run a notebook, turn it into a PDF, and pack both with "
        "all that belongs to them into the ZIP to upload.",
    )
    add = parser.add_argument
    add("notebook", nargs="?", type=Path, help="default: the only one here")
    add("--name", help="Muster-12345678; default: the notebook's name")
    help_text = "take the results that Jupyter saved instead of running"
    add("--no-execute", action="store_true", help=help_text)
    help_text = "run on small stand-in data (DEMO=1); not for handing in"
    add("--demo", action="store_true", help=help_text)
    help_text = "give up when one cell takes longer; default: never"
    add("--timeout", type=int, metavar="SECONDS", help=help_text)
    help_text = "where PDF and ZIP go; default: the notebook's folder"
    add("--output-dir", type=Path, metavar="DIR", help=help_text)
    help_text = "files of the notebook's folder to add, like 'data/*.csv'"
    several = {"nargs": "+", "action": "extend", "default": []}
    add("--include", **several, metavar="PATTERN", help=help_text)
    args = parser.parse_args(argv)
    if args.demo and args.no_execute:
        parser.error("--demo runs the notebook; leave out --no-execute")
    if args.timeout is not None and args.timeout <= 0:
        parser.error("--timeout takes a positive number of seconds")
    return args


def find_notebook() -> Path:
    """The only notebook in this folder."""
    found = sorted(Path().glob("[!.]*.ipynb"))
    found = [path for path in found if not path.stem.endswith("-FAILED")]
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found) or "none"
    raise SubmissionError(
        f"Which notebook? In this folder there are: {names}.\n"
        "Give its file name: python -m submission NOTEBOOK.ipynb"
    )


def stop(number: int, frame: FrameType | None) -> None:
    """Leave in good order, once: the kernel and temporary files go too."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        # It may not know every letter of a heading.
        stream.reconfigure(errors="backslashreplace")
    warnings.simplefilter("ignore")  # of libraries, to their callers
    args = vars(arguments(argv))
    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        # Takes a second: it can be stopped in good order already.
        from submission.flow import hand_in

        path, name = args.pop("notebook"), args.pop("name")
        execute = not args.pop("no_execute")
        print(hand_in(path or find_notebook(), name, execute=execute, **args))
        return 0
    except (Exception, SystemExit) as error:
        notes = getattr(error, "__notes__", [])
        print(explain(error), *notes, sep="\n", file=sys.stderr)
        if isinstance(error, SystemExit):
            raise
        return 1


def explain(error: BaseException) -> str:
    """What is wrong, for a person."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, SystemExit):
        return "\nStopped; an earlier ZIP is as it was."
    if isinstance(error, SubmissionError):
        what = str(error)
    elif isinstance(error, ModuleNotFoundError):
        what = f"{error.name} is not installed for {sys.executable}.\nRun "
        what += "this with the Python of .venv, as the README says."
    elif isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        what = f"{error.strerror or error}{where}\nEarlier results were not "
        what += "changed. Make room, or choose another --output-dir."
    return f"Error: {what}"


if __name__ == "__main__":
    sys.exit(main())
