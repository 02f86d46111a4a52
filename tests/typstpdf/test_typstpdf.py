"""The PDF: everything in it, nothing executed, nothing clipped."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mistune
import nbformat
import pytest
from bs4 import BeautifulSoup
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_output, new_raw_cell
from pypdf import PdfReader
from zoo import (
    NAME,
    alternatives,
    code,
    display,
    export,
    figure,
    markdown,
    notebook,
    pictures,
    stdout,
    text,
)

from typstpdf.write import Writer

FORMULAS = [
    r"z = \mu + \sigma \odot \epsilon",
    r"\epsilon \sim \mathcal{N}(0, I)",
    r"\mathbb{E}_{z \sim q_\phi} \left[ \log p_\theta(x^{(i)} \mid z)\right]",
    r"D_{\mathrm{KL}}\left(q_\phi(z \mid x) \parallel p(z)\right)",
    r"\tfrac12 \sum_{i=1}^{n} \left(\mu_i^2 + \sigma_i^2 - 1\right)",
    r"\lVert x - \hat{x} \rVert^2 \le \|y\|",
    r"\operatorname{diag}(\exp(\text{logvar}))",
    r"\arg\max_\theta \prod_{i} p_\theta(x_i) \to \infty",
    r"\mathbf{W}^\top, \boldsymbol{\mu}, \partial L / \partial \theta",
    r"\bar{x}, \tilde{x}, \sqrt{2\pi}, \int_0^1 f(x)\,dx, \nabla_\phi",
    r"\begin{cases} 1 & \text{if } x > 0 \\ 0 & \text{else}\end{cases}",
    r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}",
    r"\mathtt{kl} \mathsf{x} \underbrace{a}_{b} \operatorname*{arg\,max}_x",
    r"\otimes \cap \cup \subseteq \forall \exists \neq \ll \pm \times",
    r"A \cap B \sqcap C \bigcap_i D_i \odot E",
    r"\otimes \bigotimes \ominus \text{a ⊗ b}",
]
FORMS = [
    r"$$\begin{aligned} L &= \mu \\ &= \tfrac12 \sigma \end{aligned}$$",
    r"\begin{align} L &= \mu \\ &= \sigma \end{align}",
    r"\\[ L = \mu \sigma \\]",
    r"so \\( L = \mu \sigma \\) it is",
    "| a |\n|--|\n| $L \\mu \\sigma$ |",
    r"<div>$L \mu \sigma$</div>",
]
LETTERS = "Ümläut naïve Łódź Привет Ω ≤ → ✓ “q” –"
LONG = "x" * 300


def wide(columns: int) -> tuple[str, str, str]:
    """A table, what is seen of it, and what is not."""
    head = [f"column_{i}" for i in range(columns)]
    html = "<table><tr><th>" + "<th>".join(head)
    html += "<tr>" + "<td>1.234567" * columns + "</table>"
    return html, " | ".join(head), "<"


# Markdown, words that are seen, words that are not.
SHOWN = [
    *[(f"${tex}$", "", "\\ | $") for tex in FORMULAS],
    *[(form, "L | μ | σ", "\\ | $") for form in FORMS],
    wide(16),
    wide(40),
    (f"{LETTERS} $x$", LETTERS, ""),
    (f"`{LONG}`", LONG, "`"),
    ("<center>middle</center> H<sub>2</sub>O", "middle | H2O", "<"),
    ("<kbd>Ctrl</kbd><!-- hidden -->", "Ctrl", "hidden"),
    ("<details><summary>a</summary>in</details>", "a | in", "<"),
    ('<div class="alert alert-info">beware</div>', "beware", "alert"),
    ('<font color="red">red</font></div></p>', "red", "color"),
    ("<table><tr><th>h<td>cell<br>two</table>", "h | cell two", "<"),
    ("one<script>alert(1)</script>", "one", "alert"),
    ("one<style>p {color: blue}</style>", "one", "color"),
    (
        "<style>@media print {.n {display: none}}</style><b class=n>no",
        "",
        "no",
    ),
    ("<ul><li>one<li>two</ul>", "• one | • two", "<"),
    ("1. a\n\n   | b |\n   |---|\n   | c |", "b c", "|"),
    ('<ol style="list-style: upper-roman"><li>x</ol>', "I. x", "1."),
    ("- [x] done\n- [ ] to do", "☒ done | ☐ to do", "["),
    ("It costs \\$5 or \\$6, `\\$x`", "$5 or $6 | \\$x", ""),
    ("&amp; @word :smile: a_b &lt;b&gt;", "& @word :smile: a_b <b>", "&lt;"),
    ("&#xfdd0;9 <textarea>typed</textarea>", "typed", "<"),
    ("<h5></h5><h3>Sub</h3>", "Sub", "<"),
    ("#### Deep\n\n## Up\n\n#### Deeper\n\n# \n\n# x", "Up | Deeper", "#"),
    ("## Same\n\n## Same\n\n[one](#Same)", "Same Same one", "#"),
    ("[nowhere](#gone), [a](), [js](javascript:b)", "nowhere, a, js", "gone"),
    ("a bell \x07 rings", "x07", "\x07"),
    ("$$ $$ nothing", "nothing", ""),
    ("<math><mfrac><mi>x</mi><mn>2</mn></mfrac></math>", "x", "mfrac"),
    ("", "", ""),
]
# Markdown, the words that stand for what paper cannot show, the warning.
DIFFERENT = [
    (r"$\foo{x}$ and $y$", r"\foo x and y", r"formula \foo{x}"),
    (r"$$\begin{nope} x \end{nope}$$", r"\begin{nope}", "formula"),
    ("![a map](missing.png)", "a map", "missing.png"),
    ("![](https://example.org/a.png)", "example.org/a.png", "example.org"),
    ("![](../secret.png)", "secret.png", "secret.png"),
    ("![](attachment:gone.png)", "gone.png", "gone.png"),
    ("![](http://[a.png)", "a.png", "a.png"),
    ("![](a%00.png)", "a%00.png", "a%00.png"),
    ('<img src="a\nb.png">', "b.png", "a b.png"),
    ("| a |\n|--|\n| ![](x.svg) |", "x.svg", "x.svg"),
    ("no font has \U0010fffd this", "«U+10FFFD»", "U+10FFFD"),
    ('<img src="data:image/png;base64,AAAA">', "", "damaged"),
    ('<img src="data:image/svg+xml,<svg><a:b/></svg>">', "", "damaged"),
    ('<iframe src="https://e.org/b"></iframe>', "e.org/b", "iframe https:"),
    ('<audio src="data:audio/wav;base64,AA">', "data:audio/wav", "audio"),
]
FRAME = """<div><style>.x {color: red}</style><table class="dataframe">
<thead><tr><th></th><th>score</th></tr></thead>
<tbody><tr><th>0</th><td>3.25</td></tr></tbody></table><p>1 rows</p></div>"""
ERROR = ["\x1b[31mTraceback\x1b[0m", "ValueError: bad"]
# An output, words that are seen, words that are not.
OUTPUTS = [
    *[(display(text_latex=form), "L | μ | σ", "\\ | $") for form in FORMS],
    *[(display(text_markdown=form), "L | μ | σ", "$") for form in FORMS],
    (stdout(LETTERS), LETTERS, ""),
    (stdout(f"{LONG} {'wide ' * 60}"), f"{LONG} {'wide ' * 60}", ""),
    (stdout("\x1b[1mprinted\x1b[0m\n"), "printed", "\x1b | [1m"),
    (stdout("gone\rnew bar\n"), "new bar", "gone"),
    (stdout("\x1b]8;;http://x\x1b\\a link\x1b]8;;\x07\n"), "a link", "8;;"),
    (new_output("stream", name="stderr", text="warned"), "warned", ""),
    (new_output("error", traceback=ERROR), "Traceback ValueError", "[31m"),
    (display(text_html=FRAME, text_plain="p"), "score 0 3.25 1 rows", "red"),
    (display(text_html="<dl><dt>$a<dd>1<dt>$b</dl>"), "$a | 1 | $b", "<"),
    (display(text_html="<style>p {}</style>"), "", "text/html"),
    (display(text_latex="$\\mu$", image_png=""), "μ", "damaged"),
    (display(**{"image_svg+xml": "<svg>&nbsp;</svg>"}), "", "damaged"),
    (display(text_html="<b>bold</b>", text_plain="plain"), "bold", "plain"),
    (display(text_markdown="**marked** words"), "marked words", "**"),
    (display(text_plain="<Handle display_id=abc>"), "", "Handle"),
]
WIDGET = "application/vnd.jupyter.widget-view+json"
IFRAME = '<iframe src="https://e.org/v">'
# An output for a browser, the words that stand for it, the warning.
FOR_A_BROWSER = [
    (display(application_javascript="alert(1)"), "", "for a browser"),
    (display(**{WIDGET: "", "text_plain": "50 %"}), "50 %", "for a browser"),
    (display(text_html=IFRAME), "e.org/v", "iframe"),
]
# A tag, and what it leaves of a cell.
HIDDEN = [
    ("remove_input", "printed", "source"),
    ("hide-input", "printed", "source"),
    ("hide_output", "source", "printed"),
    ("remove-cell", "", "source | printed"),
]
# A cell, words that are seen, words that are not, the warning if any.
CASES = [
    *[(markdown(source), *words, "") for source, *words in SHOWN],
    *[(code("1", output), *words, "") for output, *words in OUTPUTS],
    *[
        (code("source", stdout("printed"), tags=(tag,)), *words, "")
        for tag, *words in HIDDEN
    ],
    *[(markdown(source), word, "", why) for source, word, why in DIFFERENT],
    *[(code("1", out), word, "", why) for out, word, why in FOR_A_BROWSER],
    (code(f"y = '{LONG}'"), f"'{LONG}'", "", ""),
    (code("y=" + "f(x)*" * 60), "f(x)*" * 60, "", ""),
    (new_raw_cell("#raw $words$"), "#raw $words$", "", ""),
]


def accessible(reader: PdfReader) -> bool:
    """Whether Typst has checked and marked it as PDF/UA-1."""
    return "pdfuaid" in reader.xmp_metadata.stream.get_data().decode()


def drawn(reader: PdfReader) -> str:
    """What the PDF draws on its first page."""
    return reader.pages[0].get_contents().get_data().decode("latin-1")


@pytest.fixture(scope="module")
def everything() -> tuple[PdfReader, list[str], list[str]]:
    """All cases as one PDF, what is seen of each, and the warnings."""
    cells = [markdown("# Title")]
    for number, (cell, *_) in enumerate(CASES):
        cells += [markdown(f"## Case {number}"), cell]
    reader, warnings = export(*cells)
    shown = re.split(r"(?m)^Case \d+$", text(reader))[1:]
    return reader, [" ".join(words.split()) for words in shown], warnings


@pytest.mark.parametrize("number", range(len(CASES)))
def test_whatever_can_be_shown_is_shown(
    everything: tuple[PdfReader, list[str], list[str]], number: int
) -> None:
    _, shown, warnings = everything
    _, seen, unseen, why = CASES[number]
    # Long words may be broken anywhere.
    for words in seen.split(" | "):
        assert words.replace(" ", "") in shown[number].replace(" ", "")
    for words in filter(None, unseen.split(" | ")):
        assert words not in shown[number]
    about = f'cell {2 * number + 3} (section "'
    said = [line for line in warnings if line.startswith(about)]
    assert len(said) == bool(why)
    assert all(why in line and "\n" not in line for line in said)


def test_all_of_it_is_on_the_page_and_accessible(
    everything: tuple[PdfReader, list[str], list[str]],
) -> None:
    reader, _, warnings = everything
    assert accessible(reader)
    assert len(warnings) == sum(bool(why) for *_, why in CASES)
    lines = [line for line in text(reader).splitlines() if "xxx" in line]
    assert max(map(len, lines)) < 110
    places: list[float] = []

    def note(words: str, cm: list[float], tm: list[float], *_: Any) -> None:
        places.extend([cm[4] + tm[4]] * bool(words.strip()))

    for page in reader.pages:
        page.extract_text(visitor_text=note)
    # Too wide a table sticks out on both sides.
    assert min(places) > 62 and max(places) < 595 - 62


def test_title_author_outline_and_page_numbers() -> None:
    reader, _ = export(
        markdown(f'# Sheet 7: *VAE* #panic() "\n\n**{NAME}**\n\nWords below'),
        markdown("## Task 1\n\n[to two](#Task-2), [gone](#Nowhere)"),
        markdown("### Loss"),
        code("1", stdout("0123456789\n" * 10_000)),
        markdown("## Task 2"),
        author=NAME,
        banner='DEMO #panic() ")',
    )
    assert reader.metadata.title == 'Sheet 7: VAE #panic() "'
    assert reader.metadata.author == NAME
    first, (nested,), second = reader.outline
    titles = [entry.title for entry in (first, nested, second)]
    assert titles == ["Task 1", "Loss", "Task 2"]
    pages = [page.extract_text() for page in reader.pages]
    assert 2 < len(pages) < 60
    for number, words in enumerate(pages, 1):
        assert f"{NAME} · page {number} of {len(pages)}" in words
        assert words.count('DEMO #panic() ")') == 1 + (number == 1)
    # The template prints the name that the notebook has there, too.
    assert pages[0].count(NAME) == 2 and "Words below" in pages[0]
    assert any("characters left out here" in words for words in pages)
    assert len(reader.pages[0]["/Annots"]) == 1
    assert [round(x) for x in reader.pages[0].mediabox[2:]] == [595, 842]
    assert len(export()[0].pages) == 1


def test_pictures_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("local ä.png").write_bytes(base64.b64decode(figure(width=3)))
    cell = markdown(
        "![words](attachment:a.png)\n\ninline ![](local%20ä.png)!\n\n"
        '<img src="local ä.png" width="50%">'
        f"![](data:image/png;base64,{figure(width=2)})"
    )
    cell["attachments"] = {"a.png": {"image/png": figure(width=5)}}
    kinds = ["png", "jpeg", "webp", "svg+xml"]
    outputs = [
        display(**{f"image_{k}": figure(k[:4].strip("+x"))}) for k in kinds
    ]
    reader, warnings = export(cell, code("plot()", *outputs))
    # The same picture twice is kept once; a drawing is no picture.
    assert sum(pictures(reader)) == 6 and not warnings
    assert len(alternatives(reader)) == 8
    # Neither is a PDF, which the rules for screen readers do not allow.
    page = display(application_pdf=figure("pdf"))
    reader, warnings = export(code("plot()", page))
    assert len(alternatives(reader)) == 1
    assert [line[:23] for line in warnings] == ["not for screen readers:"]


def test_pictures_are_as_wide_as_asked_for_but_never_too_wide() -> None:
    source = f'<img src="data:image/png;base64,{figure(width=30)}" '
    asked = ["", 'width="400"', 'style="width: 25%"', 'width="9999"']
    reader, _ = export(*[markdown(f"{source} {width}>") for width in asked])
    numbers = re.findall(r"([\d.]+) 0 0 -?[\d.]+ [-\d. ]+ cm", drawn(reader))
    widths = [width for width in map(float, numbers) if width > 100]
    assert widths == pytest.approx([470, 300, 118, 470], abs=1)


# HTML, and what Typst draws for it.
LOOKS = [
    ('<font size="4">x</font>', "12 Tf"),
    ('<b style="font-size: 28px">x</b>', "20 Tf"),
    ('<p style="border: 2px solid red">x</p>', r"1 0 0 SCN\s1.5 w"),
    ("<table><tbody bgcolor=red><tr><td>x", "1 0 0 scn"),
]


@pytest.mark.parametrize(("html", "seen"), LOOKS)
def test_looks(html: str, seen: str) -> None:
    reader, _ = export(code("1", display(text_html=html)))
    assert re.search(seen, drawn(reader))


def test_alternative_texts_and_captions() -> None:
    words = "Loss falls & <stays>."
    told, untold = display(image_png=figure()), display(image_png=figure())
    told.metadata["image/png"] = {"alt": words, "width": 300}
    untold.metadata["image/png"] = {"alt": None, "width": None}
    part = markdown("## Part\n\n$x_1$ text")
    cells = markdown("# A"), code("1", told, told), part, code("2", untold)
    reader, warnings = export(*cells)
    assert not warnings and accessible(reader)
    # No number that nobody wrote.
    assert text(reader).count(words) == 2 and "Figure" not in text(reader)
    assert sorted(alternatives(reader)) == [words, words, "Part", "x_1"]


def test_lack_of_an_alternative_text_would_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = f"![words](data:image/png;base64,{figure()})"
    assert not export(markdown(picture), markdown("$x$"))[1]
    lost = re.compile(', alt: "(words|x)"')
    write = Writer.write
    monkeypatch.setattr(
        Writer, "write", lambda *args: lost.sub("", write(*args))
    )
    for source in (picture, "$x$"):
        assert export(markdown(source))[1]


def test_a_drawing_with_signs_of_no_font_is_shown() -> None:
    """Typst 0.15 does not find the fonts of these, 0.14 looks for ever."""
    source = '<svg width="90" height="20"><text y="15">℡ ⚰ seen</text></svg>'
    reader, warnings = export(markdown(source))
    assert "seen" in text(reader) and "℡" in "".join(warnings)


def test_a_formula_in_parts_is_read_once() -> None:
    """And its number by itself."""
    reader, _ = export(markdown(r"$$a=b \tag{7}$$ $c=d$"))
    said = sorted({said.strip() for said in alternatives(reader)})
    assert said == ["", "(7)", r"a=b \tag{7}", "c=d"]


def test_outputs_without_their_code_do_not_share_a_line() -> None:
    """As sympy's do, if their code is hidden."""
    reader, _ = export(*(code("", display(text_latex="$x$")) for _ in "ab"))
    assert text(reader).split("page")[0].split("\n")[:2] == ["x", "x"]


def test_pages_break_where_nothing_is_torn() -> None:
    """A figure from its code, a definition, a short table."""
    cells = []
    ten_lines = "\n".join(f"line_{i} = {i}" for i in range(9)) + "\nMARK()"
    for number in range(10):
        names = [f"part_{number}{part}" for part in "abcd"]
        defined = [f"def {n}():\n" + f"    {n} = 1\n" * 12 for n in names]
        cells += [
            markdown("Filler.\n\n" * (1 + 3 * number)),
            code(ten_lines, display(image_png=figure(width=4 + number / 10))),
            code("\n\n\n".join(defined)),
            markdown("| a |\n|---|\n" + f"| entry_{number} |\n" * 12),
        ]
    long = "| a |\n|---|\n" + "| long |\n" * 120
    reader, _ = export(*cells, markdown(long))
    pages = [page.extract_text() for page in reader.pages]
    for page, count in zip(pages, pictures(reader), strict=True):
        assert page.count("MARK()") == count
    wholes = [f"part_{n}{part} =" for n in range(10) for part in "abcd"]
    for whole in wholes + [f"entry_{n}" for n in range(10)]:
        assert max(page.count(whole) for page in pages) == 12, whole
    assert sum(page.count("long") for page in pages) == 120
    assert len([page for page in pages if "long" in page]) in (3, 4)


OFFLINE = """
import socket, sys
def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        raise OSError("no network")
sys.addaudithook(refuse)
from nbconvert.nbconvertapp import main
main(["--to", "typstpdf", sys.argv[1]])
"""


def test_nbconvert_without_path_and_network(tmp_path: Path) -> None:
    """In a folder of its own, whose name is not plain either."""
    folder = tmp_path / "Übung sieben"
    folder.mkdir()
    nb = notebook(
        markdown("# Sheet\n\n$x^2$ ![](gone.png)"),
        code("1", display(image_png=figure())),
    )
    nb.metadata["authors"] = [{"name": NAME}]
    nbformat.write(nb, folder / f"{NAME}.ipynb")
    command = [sys.executable, "-c", OFFLINE, f"{NAME}.ipynb"]
    env = {"PATH": "", "HOME": os.environ["HOME"]}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 'cell 1 (section "Sheet"' in done.stderr
    reader = PdfReader(folder / f"{NAME}.pdf")
    assert reader.metadata.author == NAME
    assert {path.suffix for path in folder.iterdir()} == {".ipynb", ".pdf"}


SIGNS = [*"#*_[]()~`$\\{}@<>=-+/\"':;,.!?&%^|", "//", "/*", "*/", "$$", "\n"]
SIGNS += ["\n\n", "\n- ", "\n1. ", "\n# ", "\n> ", "    ", "```", "---", " "]
SIGNS += ["#let ", "#read(", "https://", "\n| ", "é", "ß", "–", "“", "Ω"]
SIGNS += ["<b>", "</b>", "<div>", "</div>", "<td>", "<p", "<br>", "<pre>"]
SIGNS += ["<li>", "&lt;", "<details>", "<kbd>", "\\begin{align}", "\t"]
SIGNS += ['<b style="color: red; float: left">', '<p class="alert a b">']
SIGNS += ['<div align="center" style="display: flex">', "$\\def\\m{x}$"]
SIGNS += ['<li value="3">', '<td colspan="2" rowspan="9">', "<ol reversed>"]


MARKDOWN = mistune.create_markdown(escape=False, plugins=["table", "url"])


@st.composite
def typed(draw: st.DrawFn) -> str:
    """Words between anything that means something to some language."""
    parts = draw(st.lists(st.sampled_from(SIGNS), min_size=1, max_size=14))
    return "".join(f"{sign}qw{i}z" for i, sign in enumerate(parts))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(typed())
@example("---\nqw0z: qw1z\n---\n\nqw2z")
@example("qw0z\n```\nqw1z")
@example("```qw0z\nqw1z")
def test_no_word_vanishes(source: str) -> None:
    """What a browser shows of Markdown or HTML; all of code and outputs."""
    rich = code("1", display(text_html=source))
    reader, _ = export(
        *(markdown(source), markdown("# Next"), rich),
        *(markdown("# Next"), code(source, stdout(source))),
    )
    pages = [MARKDOWN(source), source]
    seen = [BeautifulSoup(page, "html5lib").get_text() for page in pages]
    shown = re.sub(r"[\s-]", "", text(reader)).split("Next")
    for place, expected in zip(shown, [*seen, source * 2], strict=True):
        words = re.findall(r"qw\d+z", expected)
        for word in words:
            assert place.count(word) >= words.count(word), word
