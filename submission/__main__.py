"""The command line."""

import argparse
import logging
import signal
import sys
import warnings
from pathlib import Path

from submission import SubmissionError

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
SIGNALS = [number for number in signal.Signals if number.name in NAMES]


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m submission")
    add = parser.add_argument
    either = parser.add_mutually_exclusive_group().add_argument
    add("path", nargs="?", type=Path, metavar="notebook")
    add("--name", help="Muster-12345678; default: the notebook's name")
    text = "take the results that Jupyter saved instead of running"
    either("--no-execute", dest="execute", action="store_false", help=text)
    either("--demo", action="store_true", help="run on small stand-in data")
    add("--timeout", type=int, metavar="SECONDS", help="for each cell")
    add("--output-dir", type=Path, metavar="DIR", help="for PDF and ZIP")
    text = "files of the notebook's folder to add, like 'data/*.csv'"
    add("--include", nargs="+", action="extend", default=[], help=text)
    return parser.parse_args(argv)


def find_notebook() -> Path:
    """The only notebook in this folder."""
    found = [p for p in Path().glob("[!.]*.ipynb") if "-FAILED" not in p.name]
    if len(found) != 1:
        names = ", ".join(sorted(map(str, found))) or "none"
        raise SubmissionError(f"Which notebook? In this folder: {names}")
    return found[0]


def stop(number: int, frame: object) -> None:
    """Leave in good order, once: the kernel and temporary files go too."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # ASCII, maybe
        stream.reconfigure(errors="backslashreplace")
    warnings.simplefilter("ignore")  # of libraries, to their callers
    logging.disable()  # the same
    # A random.py beside the notebook is none of the libraries'.
    sys.path.sort(key=lambda place: place in ("", str(Path.cwd())))
    args = arguments(argv)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, stop)
    try:
        from submission.flow import hand_in  # can be stopped, too

        args.path = args.path or find_notebook()
        print(hand_in(args))
        return 0
    except (Exception, SystemExit) as error:
        notes = getattr(error, "__notes__", [])
        print(explain(error), *notes, sep="\n", file=sys.stderr)
        return getattr(error, "code", 1) or 1


def explain(error: BaseException) -> str:
    """What is wrong, for a person."""
    if isinstance(error, SystemExit):
        return "\nStopped; no result is half written."
    what = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, SubmissionError):
        what = str(error)
    elif isinstance(error, ModuleNotFoundError):
        what = f"{error.name} is not installed for {sys.executable}.\nRun "
        what += "this with the Python of .venv, as the README says."
    elif isinstance(error, OSError):
        what = f"{error.strerror or error}: {error.filename}\nEarlier results"
        what += " are as they were. Make room, or try another --output-dir."
    return f"Error: {what}"


if __name__ == "__main__":
    sys.exit(main())
