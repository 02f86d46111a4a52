"""Which files belong to a notebook, and the ZIP that holds them."""

import contextlib
import io
import os
import re
import shlex
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from importlib.util import find_spec
from os.path import isfile
from pathlib import Path
from urllib.parse import unquote

from nbformat import NotebookNode

from submission import SubmissionError
from submission.notebook import Files, outputs, read_notebook

IMPORT = r"(?m)(?:^|[;:])\s*(?:import|from(?=.* import\b))\s+([^\n;#]+)"
RUN = r"(?m)^\s*(?:%run|!\s*(?:python3?|\{sys\.executable\}))\s+(?:-\S+\s+)*"
RUN += r"(\"[^\"\n]+|'[^'\n]+|[^\s;]+)"
# A line that saves something, like open("points.csv", "w").
SAVES = r".*(?:(?:save|dump|write|to_(?:csv|json|excel|pickle))\w*\("
SAVES += r"|%%writefile|open\(.*[ ,=]['\"][wax]b?['\"]).*"
PICTURE = re.compile(r"(?i)\.(png|jpe?g|svg|gif|webp|pdf)$")
JUNK = re.compile(r"(?i)(\..*|__pycache__|thumbs\.db|desktop\.ini)$")


def source_code(nb: NotebookNode) -> str:
    """All code of a notebook."""
    return "\n".join(c.source for c in nb.cells if c.cell_type == "code")


def imports(code: str) -> Iterator[str]:
    """The first names of the modules and packages that code imports."""
    for line in re.findall(IMPORT, code.replace("\\\n", " ")):
        for module in line.split(" import")[0].split(","):
            yield from re.findall(r"\A\s*([^\W\d]\w*)", module)


def not_found(nb: NotebookNode, root: Path, folder: Path) -> list[str]:
    """Notes on imports and files that the code names, but will not find."""
    code = source_code(nb)
    words = re.findall(r"[^\s'\"]+", " ".join(re.findall(SAVES, code)))
    made = {root / word for word in words} | {*visible(root / "figures")}
    known = {"__main__", *(p.stem for p in (*folder.rglob("*"), *made))}
    names = sorted(n for n in {*imports(code)} - known if not find_spec(n))
    said = "imported, but neither beside the notebook nor installed here"
    notes = [f"{', '.join(names)}: {said}"] if names else []
    code += "".join(f"\nNo module named '{name}'" for name in names)
    lost = missing(code, root, folder, lambda f: isfile(f) and f not in made)
    said = f"named in the code, but not packed without {lost}"
    return notes + [said] * bool(lost)


def named(code: str, *folders: Path) -> Iterator[Path]:
    """What its imports and ``%run`` may stand for in these folders."""
    for folder in folders:
        for file in re.findall(RUN, code):
            for kind in ("", ".py", ".ipynb"):
                yield folder / (file.strip("\"'") + kind)
        for name in imports(code):
            module, package = folder / f"{name}.py", folder / name
            yield module
            # Beside data.py, a folder data/ with data is not the package.
            if not module.is_file() or (package / "__init__.py").is_file():
                yield from (package, folder / f"{name}.ipynb")


def code_in(file: Path) -> str:
    """The code of a module or of another notebook."""
    if file.suffix == ".ipynb":
        with contextlib.suppress(SubmissionError):
            return source_code(read_notebook(file, "")[0])
    return file.read_bytes().decode("utf-8-sig", errors="replace")


def pictures(nb: NotebookNode, root: Path) -> list[Path]:
    """The pictures whose names stand in Markdown, or in outputs as HTML."""
    texts = [c.source for c in nb.cells if c.cell_type == "markdown"]
    texts += [str(o.get("data", {}).get("text/html")) for o in outputs(nb)]
    text = unquote("\n".join(texts))
    files = [file for file in visible(root) if PICTURE.search(file.name)]
    return [f for f in files if f.relative_to(root).as_posix() in text]


def matching(root: Path, patterns: list[str]) -> list[Path]:
    """The files and folders that ``--include`` names."""
    patterns = ["*" if p == "." else p for p in patterns]
    # "points[1].csv" is a name first.
    found = [root / p for p in patterns if os.path.lexists(root / p)]
    for file in visible(root):
        name = file.relative_to(root).as_posix()
        found += [file] * any(fnmatchcase(name, p) for p in patterns)
    return found


def visible(folder: Path) -> Iterator[Path]:
    """All files below a folder but for hidden ones and litter."""
    for place, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not JUNK.match(f)]
        yield from (Path(place, f) for f in files if not JUNK.match(f))


def find_files(
    nb: NotebookNode, path: Path, name: str, include: list[str]
) -> tuple[Files, list[str]]:
    """The files to hand in, by the README's rule; what is not packed."""
    root = path.parent
    results = tuple(f"{name}{kind}." for kind in ("", "-DEMO", "-FAILED"))
    files, outside, seen = {}, {}, {str(root), str(path)}
    waiting = [root / "requirements.txt", root / "constraints.txt"]
    waiting += [*matching(root, include), *named(source_code(nb), root)]
    waiting += pictures(nb, root)
    while waiting:
        file = Path(os.path.normpath(waiting.pop()))
        real = os.path.exists(file) and os.path.realpath(file)
        if not real or real in seen:
            continue
        # A notebook from elsewhere must not reach for private files.
        if not (file.is_relative_to(root) and root in Path(real).parents):
            outside[f"{file.name} leads to {real}: not packed"] = None
        elif os.path.isdir(file):
            seen.add(real)
            waiting += [f for f in file.iterdir() if not JUNK.match(f.name)]
        elif isfile(file) and not file.name.startswith(results):
            member = file.relative_to(root).as_posix()
            if member not in files and file.suffix in (".py", ".ipynb"):
                waiting += named(code_in(file), root, file.parent)
            files[member] = file
    return files, list(outside)


def missing(text: str, root: Path, copy: Path, exists: Callable) -> str:
    """The option that brings what a text names and only the project has."""
    text = text.replace(f"{copy}{os.sep}", "")
    names = re.findall(r"['\"]([^'\"\n]+)['\"]", text)
    names += re.findall(r"\S+[./]\S+|(?<=%cd )\S+", text)
    for module in re.findall(r"No module named '(\w+)", text):
        found = matching(root, [f"{module}.py", f"*/{module}.py"])
        names += [os.path.relpath(path, root) for path in found]
    lost = []
    for name in dict.fromkeys(map(os.path.normpath, names)):
        if exists(root / name) and not os.path.exists(copy / name):
            lost += [name] * (root in (root / name).resolve().parents)
    return f"--include {shlex.join(lost)}" if lost else ""


def left_over(folder: Path, files: Files) -> list[str]:
    """Notes on what a run left in its folder that is not packed."""
    left = set(visible(folder)) - set(files.values())
    size = sum(file.lstat().st_size for file in left) / 1e6
    tops = sorted({file.relative_to(folder).parts[0] for file in left})
    said = f"the run left {', '.join(tops)} ({size:.1f} MB): not packed; "
    return [f"{said}--include {shlex.join(tops)}"] if tops else []


def pack(members: dict[str, bytes]) -> bytes:
    """A ZIP of these files, dated now or ``SOURCE_DATE_EPOCH``."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    date = time.gmtime(int(given)) if given else time.localtime()
    date = max(date[:6], (1980, 1, 1, 0, 0, 0))  # a ZIP knows no earlier one
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(members.items()):
            name = name.encode(errors="replace").decode()  # only text
            info = zipfile.ZipInfo(name, date)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def publish(folder: Path, files: dict[str, bytes]) -> None:
    """Put all files in a folder, or none of them; the ZIP last."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        for name, data in files.items():
            try:
                Path(scratch, name).write_bytes(data)
                if (folder / name).is_file():
                    shutil.copy2(folder / name, Path(scratch, f"{name}-old"))
            except OSError as error:
                error.filename = str(folder / name)
                raise
            Path(scratch, name).chmod(0o644)  # no secret, whatever the umask
        try:
            for name in files:
                os.replace(Path(scratch, name), folder / name)
        except BaseException:  # a signal, too
            for name in files:
                with contextlib.suppress(OSError):
                    (folder / name).unlink()
                    os.replace(Path(scratch, f"{name}-old"), folder / name)
            raise
