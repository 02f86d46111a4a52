"""The command line."""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from submission import SubmissionError

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
]


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m submission",
        description="Run a notebook, turn it into a PDF, and pack both with "
        "all that belongs to them into the ZIP to upload.",
    )
    add = parser.add_argument
    about = "default: the only notebook in this folder"
    add("notebook", nargs="?", type=Path, help=about)
    about = "surname and number, like Muster-12345678; default: the file's"
    add("--name", help=about)
    about = "take the results that Jupyter saved instead of running"
    add("--no-execute", action="store_true", help=about)
    about = "run on small stand-in data (DEMO=1); not for handing in"
    add("--demo", action="store_true", help=about)
    about = "give up when one cell takes longer; default: never"
    add("--timeout", type=int, metavar="SECONDS", help=about)
    about = "where PDF and ZIP go; default: the notebook's folder"
    add("--output-dir", type=Path, metavar="DIR", help=about)
    about = "hand in these files of the notebook's folder, too: 'data/*.csv'"
    include = {"nargs": "+", "action": "extend", "default": []}
    add("--include", **include, metavar="PATTERN", help=about)
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
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SubmissionError(
            f"Which notebook? In this folder there are: {names}.\n"
            "Give its file name: python -m submission NOTEBOOK.ipynb"
        )
    return found[0]


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
    args = vars(arguments(argv))
    execute = not args.pop("no_execute")
    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        # Takes a second: it can be stopped in good order already.
        from submission.flow import hand_in

        path = args.pop("notebook") or find_notebook()
        print(hand_in(path, args.pop("name"), execute=execute, **args))
        return 0
    except (Exception, SystemExit) as error:
        notes = getattr(error, "__notes__", [])
        print(explain(error), *notes, sep="\n", file=sys.stderr)
        if isinstance(error, SystemExit):
            raise
        return 1


def explain(error: BaseException) -> str:
    """What is wrong, for a person."""
    if isinstance(error, SystemExit):
        return "\nStopped; an earlier ZIP is as it was."
    if isinstance(error, SubmissionError):
        return f"Error: {error}"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"Error: {error.name} is not installed for {sys.executable}. Run "
            "this with the Python\nof the virtual environment into which the "
            "README installs everything (.venv)."
        )
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return (
            f"Error: {error.strerror or error}{where}\nEarlier results were "
            "not changed. Make room, change the permissions or choose "
            "another --output-dir."
        )
    return f"Error: {type(error).__name__}: {' '.join(str(error).split())}"


if __name__ == "__main__":
    sys.exit(main())
