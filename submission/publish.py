"""Results in their places: all of them, or those from before."""

import contextlib
import os
import tempfile
from errno import EISDIR
from pathlib import Path

EARLIER = "-earlier"


def publish(files: dict[Path, bytes]) -> None:
    """Write all files, or leave what was there as it was.

    Raises:
        OSError: no space, no permission.
    """
    parts: dict[Path, str] = {}
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(EISDIR, "Is a folder", str(path))
            handle, parts[path] = tempfile.mkstemp(
                dir=path.parent, prefix=".submission-"
            )
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                error.filename = error.filename or str(path)
                raise
            # mkstemp lets nobody else read; a submission is no secret.
            os.chmod(parts[path], 0o644)
        exchange(parts)
    finally:
        for part in parts.values():
            Path(part).unlink(missing_ok=True)


def exchange(parts: dict[Path, str]) -> None:
    """Move files to their places, all of them or none.

    A viewer may hold the PDF open (Windows), or Ctrl-C may come between two
    files: a new PDF beside an old ZIP would be worse than neither.

    Args:
        parts: where each file belongs, and where it is.

    Raises:
        OSError: no permission.
    """
    earlier: dict[Path, str] = {}
    try:
        for path, part in parts.items():
            earlier[path] = part + EARLIER
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, earlier[path])
            os.replace(part, path)
    except BaseException:
        for path, kept in earlier.items():
            # One that cannot be put back keeps none of the others away.
            with contextlib.suppress(OSError):
                if os.path.exists(kept):
                    os.replace(kept, path)
                elif not os.path.exists(parts[path]):
                    path.unlink(missing_ok=True)
        raise
    for kept in earlier.values():
        Path(kept).unlink(missing_ok=True)
