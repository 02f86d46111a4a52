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
        "all that belongs to them into a checked ZIP.",
    )
    parser.add_argument(
        "notebook",
        nargs="?",
        type=Path,
        help="default: the only notebook in this folder",
    )
    parser.add_argument(
        "--name",
        help="your surname and matriculation number, like Muster-12345678; "
        "default: the notebook's file name",
    )
    parser.add_argument(
        "--no-execute",
        action="store_true",
        help="take the results that Jupyter saved instead of running",
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="run on small stand-in data (sets DEMO=1); not for handing in",
    )
    parser.add_argument(
        "--timeout",
        type=int,
        metavar="SECONDS",
        help="give up when one cell takes longer; default: never",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="where PDF and ZIP go; default: the notebook's folder",
    )
    args = parser.parse_args(argv)
    if args.demo and args.no_execute:
        parser.error("--demo runs the notebook; leave out --no-execute")
    if args.timeout is not None and args.timeout <= 0:
        parser.error("--timeout takes a positive number of seconds")
    return args


def stop(number: int, frame: FrameType | None) -> None:
    """Leave in good order, once: the kernel and temporary files go too."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = arguments(argv)
    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        # Takes a second: it can be stopped in good order already.
        from submission.flow import hand_in

        print(hand_in(args))
        return 0
    except SystemExit:
        print("\nStopped; nothing was changed.", file=sys.stderr)
        raise
    except ModuleNotFoundError as error:
        message = (
            f"{error.name} is not installed for {sys.executable}. Run this "
            "with the Python\nof the virtual environment into which the "
            "README installs everything (.venv)."
        )
    except (SubmissionError, OSError) as error:
        message = explain(error)
    print(f"Error: {message}", file=sys.stderr)
    return 1


def explain(error: SubmissionError | OSError) -> str:
    """What is wrong, for a person."""
    lines = [str(error)]
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        lines = [
            f"{error.strerror or error}{where}",
            "Earlier results were not changed. Make room, mend the "
            "permissions or choose another --output-dir.",
        ]
    return "\n".join(lines + getattr(error, "__notes__", []))


if __name__ == "__main__":
    sys.exit(main())
