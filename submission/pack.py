"""Which files belong to a notebook, and the ZIP that holds them."""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import nbformat
from nbconvert.filters import markdown2html
from nbformat import NotebookNode

from submission.notebook import outputs

EXTRAS = ("requirements.txt", "constraints.txt")
IMPORT = re.compile(
    r"(?m)(?:^|[;:])[ \t]*"
    r"(?:from[ \t]+([\w.]+)[ \t]+import\b|import[ \t]+([^\n;#]+))"
)
RUN = re.compile(
    r"(?m)^[ \t]*%run(?:[ \t]+-\S+)*[ \t]+"
    r"(\"[^\"\n]+\"|'[^'\n]+'|[^\s;]+)"
)
PICTURE = re.compile(
    r"(?i)<img\b[^>]*?\bsrc\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s>]+)"
)
LITTER = re.compile(r"(?i)\..*|__pycache__|thumbs\.db|desktop\.ini")


def source_code(nb: NotebookNode) -> str:
    """All code of a notebook."""
    return "\n".join(c.source for c in nb.cells if c.cell_type == "code")


def imports(code: str) -> Iterator[str]:
    """The first names of the modules and packages that code imports."""
    for package, modules in IMPORT.findall(code.replace("\\\n", " ")):
        for module in [package] if package else modules.split(","):
            yield from re.findall(r"\A\s*([^\W\d]\w*)", module)


def not_found(nb: NotebookNode, files: Iterable[str]) -> list[str]:
    """A note about imports neither among the files nor installed, if any."""
    names = set(imports(source_code(nb)))
    names -= {re.split("[/.]", file)[0] for file in files}
    for name in list(names):
        with contextlib.suppress(ImportError, ValueError):
            names -= {name} if importlib.util.find_spec(name) else set()
    said = "imported, but neither beside the notebook nor installed here"
    return [f"{', '.join(sorted(names))}: {said}"] * bool(names)


def named(code: str, folder: Path) -> Iterator[Path]:
    """What its imports and ``%run`` may stand for in a folder."""
    for file in RUN.findall(code):
        for kind in ("", ".py", ".ipynb"):
            yield folder / (file.strip("\"'") + kind)
    for name in imports(code):
        module, package = folder / f"{name}.py", folder / name
        yield module
        # Beside data.py, a folder data/ with data is not the package.
        if not module.is_file() or (package / "__init__.py").is_file():
            yield package


def named_in(file: Path, root: Path) -> list[Path]:
    """The same for the code in a module or another notebook."""
    code = file.read_bytes().decode(errors="replace")
    if file.suffix == ".ipynb":
        with contextlib.suppress(Exception):  # nbformat lets many through
            code = source_code(nbformat.reads(code, as_version=4))
    return [*named(code, root), *named(code, file.parent)]


def pictures(nb: NotebookNode) -> list[str]:
    """The addresses of pictures in Markdown, and in outputs as HTML."""
    prose = (c.source for c in nb.cells if c.cell_type == "markdown")
    html = [markdown2html(source) for source in prose]
    html += [str(o.get("data", {}).get("text/html")) for o in outputs(nb)]
    found = PICTURE.findall("\n".join(html))
    addresses = [unquote(unescape(src.strip("\"'"))) for src in found]
    return [a for a in addresses if not re.match("[a-zA-Z]{2,}:|//", a)]


def matching(root: Path, patterns: Sequence[str]) -> list[Path]:
    """The files and folders that ``--include`` names."""
    # "points[1].csv" is a name first.
    found = [root / p for p in patterns if os.path.lexists(root / p)]
    for place, folders, files in os.walk(root):
        folders[:] = [f for f in folders if not LITTER.fullmatch(f)]
        paths = [Path(place, f) for f in files if not LITTER.fullmatch(f)]
        for path in paths:
            name = path.relative_to(root).as_posix()
            found += [path] * any(fnmatchcase(name, p) for p in patterns)
    return found


def find_files(
    nb: NotebookNode, path: Path, name: str, include: Sequence[str]
) -> tuple[dict[str, Path], list[str]]:
    """The files to hand in with a notebook, by the README's rule.

    Returns:
        The files by their names in the ZIP, without earlier results under
        the student's name; and what leads out of the notebook's folder.
    """
    root = path.parent
    result = re.compile(rf"{name}(-DEMO|-FAILED)?\.(ipynb|pdf|zip)")
    files: dict[str, Path] = {}
    outside, seen = {}, {str(root), str(path)}
    waiting = [root / each for each in (*EXTRAS, *pictures(nb))]
    waiting += [*matching(root, include), *named(source_code(nb), root)]
    while waiting:
        file = Path(os.path.normpath(waiting.pop()))
        if not os.path.exists(file):  # nor if it is too long or odd
            continue
        real = os.path.realpath(file)
        if real in seen:
            continue
        # A notebook from elsewhere must not reach for private files.
        if not (file.is_relative_to(root) and root in Path(real).parents):
            outside[f"{file.name} leads to {real}: not packed"] = None
        elif os.path.isdir(file):
            seen.add(real)
            inside = file.iterdir()
            waiting += [f for f in inside if not LITTER.fullmatch(f.name)]
        elif os.path.isfile(file) and not result.fullmatch(file.name):
            member = file.relative_to(root).as_posix()
            # A ZIP holds only names that are text.
            member = member.encode(errors="replace").decode()
            if member not in files and file.suffix in (".py", ".ipynb"):
                waiting += named_in(file, root)
            files[member] = file
    return files, list(outside)


def stage(files: dict[str, Path], folder: Path) -> None:
    """Copy these files to a folder; make ``figures/`` there."""
    (folder / "figures").mkdir()
    for member, file in files.items():
        (folder / member).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, folder / member)


def collect(
    folder: Path, files: dict[str, Path], include: Sequence[str]
) -> tuple[dict[str, bytes], list[str]]:
    """What to pack of the folder with ``files``, and what else a run left."""
    chosen = {folder / "figures", *matching(folder, include)}
    # A run may have deleted its input.
    members = {member: file.read_bytes() for member, file in files.items()}
    others: dict[str, list[int]] = {}
    for file in filter(Path.is_file, folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if any(map(LITTER.fullmatch, parts)):
            continue
        member = "/".join(parts).encode(errors="replace").decode()
        if member in files or not chosen.isdisjoint([file, *file.parents]):
            members[member] = file.read_bytes()
        else:
            others.setdefault(parts[0], []).append(file.stat().st_size)
    notes = [
        f"the run left {top} ({len(sizes)} files, {sum(sizes) / 1e6:.1f} MB):"
        f" not packed; if it belongs to it, --include {shlex.quote(top)}"
        for top, sizes in sorted(others.items())
    ]
    for pattern in include:
        if not matching(folder, [pattern]):
            notes.append(f"--include {shlex.quote(pattern)}: no such file")
    return members, notes


def missing_files(text: str, project: Path, folder: Path) -> str:
    """How to bring what an error names and only the project has."""
    text = text.replace(f"{folder}{os.sep}", "")
    names = re.findall(r"['\"]([^'\"\n]+)['\"]", text) + text.split()
    for module in re.findall(r"No module named '(\w+)", text):
        found = matching(project, [f"*/{module}.py"])
        names += [os.path.relpath(path, project) for path in found]
    hint = ""
    for name in dict.fromkeys(map(os.path.normpath, names)):
        here = os.path.exists(project / name) and name[0] not in "./~"
        if here and not os.path.exists(folder / name):
            option = shlex.quote(name)
            hint += f" {name} is not among them: --include {option}"
    return hint


def zip_date() -> tuple[int, ...]:
    """The date of the files in the ZIP: now, or ``SOURCE_DATE_EPOCH``."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    date = time.gmtime(int(given)) if given else time.localtime()
    return min(max(date[:6], (1980, 1, 1, 0, 0, 0)), (2107, 12, 31, 0, 0, 0))


def pack(members: dict[str, bytes], date: tuple[int, ...]) -> bytes:
    """A ZIP of these files; the same files and date give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(members.items()):
            info = zipfile.ZipInfo(name, date)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def publish(files: dict[Path, bytes]) -> None:
    """Write all files, then put them in their places, the ZIP last."""
    ready = {}
    with contextlib.ExitStack() as stack:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(
                dir=path.parent, prefix=".submission-"
            )
            ready[path] = Path(stack.enter_context(scratch), path.name)
            try:
                ready[path].write_bytes(data)
            except OSError as error:
                error.filename = str(path)
                raise
            # A submission is no secret, whatever the umask.
            ready[path].chmod(0o644)
        for path, new in ready.items():
            os.replace(new, path)
