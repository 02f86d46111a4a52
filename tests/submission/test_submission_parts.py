"""The name rule, the imports, the ZIP, the screen: each on its own."""

import io
import os
import re
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_output
from zoo import code, markdown, notebook

from submission import SubmissionError, archive
from submission.execute import Screen, Status
from submission.notebook import PLACEHOLDER, check_name, describe


@pytest.mark.parametrize(
    "name",
    [
        "Muster-12345678",
        "Müller-Lüdenscheidt-1",
        "O'Neill-12",
        "d’Arcy-12",
        "van der Berg-3",
        "Łukasz-4",
        "李-5",
        "Иванов-6",
        "देवनागरी-7",
        PLACEHOLDER,
    ],
)
def test_names_of_any_language(name: str) -> None:
    assert check_name(name) == name
    decomposed = unicodedata.normalize("NFD", name)
    assert check_name(decomposed) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-1",
        "Muster",
        "Muster-",
        "Muster 12345678",
        "Muster_12345678",
        "Muster-١٢٣",
        "Muster-12a",
        "-Muster-1",
        "Mus--ter-1",
        " Muster-1",
        "Muster -1",
        "Mus.ter-1",
        "../Muster-1",
        "a/b-1",
        "a\\b-1",
        "Mus\x00ter-1",
        "Muster-1\n",
        "M4x-1",
        "x" * 300 + "-1",
        "\u0301a-1",
    ],
)
def test_other_names_are_refused_with_an_example(name: str) -> None:
    with pytest.raises(SubmissionError, match="Muster-12345678"):
        check_name(name)


@given(st.text(max_size=20), st.text(max_size=8))
def test_accepted_names_are_safe_file_names(before: str, after: str) -> None:
    name = f"{before}-{after}"
    try:
        accepted = check_name(name)
    except SubmissionError:
        return
    assert not re.search(r'[/\\:*?"<>|.\x00-\x1f]', accepted)
    assert accepted == accepted.strip()
    assert Path(accepted).name == accepted


LETTERS = st.characters(categories=["Lu", "Ll", "Lo"])


@given(
    st.lists(
        st.text(LETTERS, min_size=1, max_size=6), min_size=1, max_size=4
    ),
    st.sampled_from("-'’ "),
    st.integers(0, 10**9),
)
def test_every_surname_is_accepted(
    parts: list[str], joint: str, number: int
) -> None:
    name = unicodedata.normalize("NFC", f"{joint.join(parts)}-{number}")
    assert check_name(name) == name


def put(root: Path, **files: str) -> None:
    for name, source in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


def test_modules_are_found_through_every_kind_of_import(
    tmp_path: Path,
) -> None:
    put(
        tmp_path,
        plain="import torch, second",
        second="def f():\n    from third import x",
        third="import plain  # a circle",
        package__init="from .inner import y",
        package__inner="from . import sibling\nfrom ..fourth import z",
        package__sibling="import fifth",
        package__tool="",
        fifth="",
        lazily="",
        magic="",
        unused="import neither",
        neither="",
        submission="",
    )
    (tmp_path / "package/init.py").rename(tmp_path / "package/__init__.py")
    nb = notebook(
        code("%matplotlib inline\nimport plain as p\n!ls\n"),
        code("%%time\nimport magic"),
        code("if True:\n    from package.inner import y"),
        code("import importlib\nimportlib.import_module('lazily')"),
        code("import submission, numpy\nthis is no Python"),
        markdown("import unused"),
    )
    assert archive.local_modules(nb, tmp_path) == [
        "fifth.py",
        "lazily.py",
        "magic.py",
        "package/__init__.py",
        "package/inner.py",
        "package/sibling.py",
        "package/tool.py",
        "plain.py",
        "second.py",
        "third.py",
    ]


def test_nothing_outside_the_folder_is_packed(tmp_path: Path) -> None:
    root = tmp_path / "project"
    (root / "figures").mkdir(parents=True)
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (root / "figures" / "link.png").symlink_to(secret)
    with pytest.raises(SubmissionError, match=r"link\.png leads out"):
        archive.visible_files(root / "figures", root, "*")
    nb = notebook(markdown("![](../secret.png)"), code("1"))
    with pytest.raises(SubmissionError, match="leads out"):
        archive.belonging(nb, root)


def test_hidden_files_and_caches_are_not_packed(tmp_path: Path) -> None:
    for name in (".gitkeep", "__pycache__/a.pyc", ".x/b.png", "c.png"):
        path = tmp_path / "figures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    found = archive.visible_files(tmp_path / "figures", tmp_path, "*")
    assert [path.name for path in found] == ["c.png"]


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.from_regex(
            r"[A-Za-zäöüß0-9_ '-]{1,20}(/[a-z]{1,5})?", fullmatch=True
        ),
        st.binary(max_size=500),
        max_size=8,
    )
)
def test_zip_gives_back_what_went_in(members: dict[str, bytes]) -> None:
    packed = archive.pack(members)
    assert packed == archive.pack(dict(reversed(members.items())))
    with zipfile.ZipFile(io.BytesIO(packed)) as reader:
        assert reader.namelist() == sorted(members)
        assert {n: reader.read(n) for n in members} == members


def fingerprint(cells: dict[str, str], files: dict[str, str]) -> object:
    data = {archive.FINGERPRINT: {"cells": cells, "files": files}}
    return new_output("display_data", data=data)


def test_changes_since_the_run_are_named(tmp_path: Path) -> None:
    path = tmp_path / "report.ipynb"
    path.write_text("")
    put(tmp_path, helper="x = 1")
    known = {
        str(number): archive.digest(source.encode())
        for number, source in enumerate(["a = 1", "b = 2"], 1)
    }
    files = {"helper.py": archive.digest(b"x = 1")}
    nb = notebook(
        code("a = 1\n"),
        markdown("## Part"),
        code("b = 2"),
        code("print_fingerprint()", fingerprint(known, files)),
    )
    archive.edited_since(nb, path, ["helper.py"])
    nb.cells[1].source = "## Other words"
    # A copied project has new dates; the fingerprint knows better.
    os.utime(tmp_path / "helper.py", (4e9, 4e9))
    archive.edited_since(nb, path, ["helper.py"])
    nb.cells[2].source = "b = 3"
    with pytest.raises(SubmissionError, match=r"cell 3 \(.*was edited"):
        archive.edited_since(nb, path, ["helper.py"])
    nb.cells[2].source = "b = 2"
    put(tmp_path, helper="x = 2")
    with pytest.raises(SubmissionError, match=r"helper\.py changed"):
        archive.edited_since(nb, path, ["helper.py"])


def test_figures_that_the_fingerprint_names_are_checked(
    tmp_path: Path,
) -> None:
    path = tmp_path / "report.ipynb"
    drawn = {"figures/a.png": archive.digest(b"as drawn")}
    nb = notebook(code("draw()", fingerprint({}, drawn)))
    figure = tmp_path / "figures" / "a.png"
    figure.parent.mkdir()
    path.write_text("")
    figure.write_bytes(b"as drawn")
    archive.edited_since(nb, path, [])
    figure.write_bytes(b"by another run")
    with pytest.raises(SubmissionError, match=r"a\.png changed"):
        archive.edited_since(nb, path, [])
    figure.unlink()
    with pytest.raises(SubmissionError, match=r"a\.png changed"):
        archive.edited_since(nb, path, [])


def test_without_fingerprint_dates_decide(tmp_path: Path) -> None:
    path = tmp_path / "report.ipynb"
    path.write_text("")
    put(tmp_path, helper="")
    nb = notebook(code("import helper"))
    archive.edited_since(nb, path, ["helper.py"])
    os.utime(tmp_path / "helper.py", (4e9, 4e9))
    with pytest.raises(SubmissionError, match=r"helper\.py changed"):
        archive.edited_since(nb, path, ["helper.py"])


@pytest.mark.parametrize(
    ("counts", "reason"),
    [((1, None), "has not been run"), ((2, 1), "order"), ((1, 3), "order")],
)
def test_order_of_execution(
    tmp_path: Path, counts: tuple[int, int | None], reason: str
) -> None:
    path = tmp_path / "report.ipynb"
    path.write_text("")
    nb = notebook(code("a"), code("b"), code(""))
    for cell, count in zip(nb.cells, counts, strict=False):
        cell.execution_count = count
    with pytest.raises(SubmissionError, match=reason):
        archive.edited_since(nb, path, [])


def test_cell_with_an_error_is_not_handed_in(tmp_path: Path) -> None:
    path = tmp_path / "report.ipynb"
    path.write_text("")
    error = new_output("error", ename="E", evalue="", traceback=[])
    with pytest.raises(SubmissionError, match="ended with an error"):
        archive.edited_since(notebook(code("a", error)), path, [])


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("plain\nlines\n", "plain\nlines\n"),
        ("  0%\r 50%\r100%\n", "100%\n"),
        ("long line\rshort", "shortline"),
        ("epoch 1\r\x1b[Kdone\n", "done\n"),
        ("bar 10%\r       \r", ""),
        ("a\n\x1b[Ab\n", "b\n"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("ab\bc", "ac"),
        ("100%|██████| 5/5 [00:00<00:00, 9.1it/s]\n", ""),
        ("windows\r\nlines\r\n", "windows\nlines\n"),
    ],
)
def test_screen_keeps_what_a_terminal_shows(printed: str, shown: str) -> None:
    for size in (1, 3, 1000):
        screen = Screen()
        for start in range(0, len(printed), size):
            # The kernel sends escape sequences whole.
            if "\x1b" in printed:
                screen.feed(printed)
                break
            screen.feed(printed[start : start + size])
        assert screen.text() == shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_live_line_shows_section_cell_and_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    status = Status(stream)
    status.cell(3, 9, "Task 1")
    status.output("\r 10%|█ \r 20%|██  loss 99.5")
    status.output("\x1b[32m" + "x" * 200)
    status.close()
    shown = stream.getvalue()
    assert "cell 3/9  Task 1 | 20%|██  loss 99.5" in shown
    assert "\n" not in shown and shown.endswith("\r\x1b[K")
    assert max(map(len, re.split(r"\r|\x1b\[K", shown))) < 60


def test_no_live_line_in_a_log() -> None:
    stream = io.StringIO()
    status = Status(stream)
    status.cell(3, 9, "Task 1")
    status.output("\r 10%")
    status.close()
    assert stream.getvalue() == "[0:00] cell 3/9  Task 1\n"


def test_cells_are_named_for_people() -> None:
    nb = notebook(
        markdown("# Report\n\n## Task 1 ##\n\n```\n# no heading\n```"),
        code("\n\nfirst = 1\nsecond"),
    )
    assert describe(nb, 1) == 'cell 2 (section "Task 1", "first = 1")'
