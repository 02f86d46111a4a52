"""Results in their places: all of them, or those from before."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path


def publish(files: dict[Path, bytes]) -> None:
    """Write all files, or leave what was there as it was.

    A viewer may hold the PDF open (Windows), or Ctrl-C may come between two
    files: a new PDF beside an old ZIP would be worse than neither.

    Raises:
        OSError: no space, no permission.
    """
    with contextlib.ExitStack() as tidy, contextlib.ExitStack() as undo:
        folders = {}
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(
                dir=path.parent, prefix=".submission-"
            )
            folders[path] = Path(tidy.enter_context(scratch))
            try:
                prepare(folders[path], path, data)
            except OSError as error:
                error.filename = str(path)
                raise
        # Nothing but renaming is left to do.
        for path, folder in folders.items():
            undo.callback(restore, folder, path)
            os.replace(folder / "new", path)
        undo.pop_all()


def prepare(folder: Path, path: Path, data: bytes) -> None:
    """Write the new file, and a copy of the one that it will replace."""
    new = folder / "new"
    new.write_bytes(data)
    # A submission is no secret, whatever the umask.
    new.chmod(0o644)
    if path.exists():
        shutil.copy2(path, folder / "earlier")


def restore(folder: Path, path: Path) -> None:
    """Put back what was there."""
    if (folder / "earlier").exists():
        os.replace(folder / "earlier", path)
    else:
        path.unlink(missing_ok=True)
