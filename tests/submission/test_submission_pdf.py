"""The PDF: everything in it, nothing executed, nothing clipped."""

import base64
import io
import logging
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import nbformat
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nbconvert.exporters import get_exporter
from nbformat.v4 import new_output, new_raw_cell
from pypdf import PdfReader
from zoo import (
    NAME,
    code,
    display,
    export,
    figure,
    headings,
    markdown,
    notebook,
    pictures,
    stdout,
    text,
)

from submission import html, pdf
from submission.pdf import TypstPDFExporter

ELBO = r"""
$$
\begin{aligned}
L(x^{(i)}, \theta, \phi) &= -\mathbb{E}_{z \sim q_\phi(z \mid x^{(i)})}
  \left[ \log p_\theta(x^{(i)} \mid z) \right]
  + \mathrm{KL}\left(q_\phi(z \mid x) \parallel p(z)\right) \\
D_{\mathrm{KL}} &= \tfrac12 \sum_{i=1}^{n}
  \left(\mu_i^2 + \sigma_i^2 - \log \sigma_i^2 - 1\right)
\end{aligned}
$$
"""
INLINE = [
    r"z = \mu + \sigma \odot \epsilon",
    r"\epsilon \sim \mathcal{N}(0, I)",
    r"\lVert x - \hat{x} \rVert^2 \le \|y\|",
    r"\operatorname{diag}(\exp(\text{logvar}))",
    r"\arg\max_\theta \prod_{i} p_\theta(x_i) \to \infty",
    r"\mathbf{W}^\top, \boldsymbol{\mu}, \partial L / \partial \theta",
    r"\bar{x}, \tilde{x}, \sqrt{2\pi}, \int_0^1 f(x)\,dx, \nabla_\phi",
    r"\begin{cases} 1 & \text{if } x > 0 \\ 0 & \text{else}\end{cases}",
    r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}",
    r"\mathtt{kl} \mathsf{x} \underbrace{a}_{b} \operatorname*{arg\,max}_x",
    r"\otimes \cap \cup \subseteq \forall \exists \neq \ll \pm \times",
]


def warned(*cells: nbformat.NotebookNode) -> tuple[PdfReader, list[str]]:
    """The PDF of these cells and what had to be shown differently."""
    exporter = TypstPDFExporter(log=logging.getLogger("test"))
    content, resources = exporter.from_notebook_node(notebook(*cells))
    return PdfReader(io.BytesIO(content)), resources["warnings"]


def accessible(reader: PdfReader) -> bool:
    """Whether Typst has checked and marked it as PDF/UA-1."""
    return "pdfuaid" in reader.xmp_metadata.stream.get_data().decode()


@pytest.mark.parametrize("tex", INLINE)
def test_formulas_are_set(tex: str) -> None:
    reader, warnings = warned(markdown(f"# A\n\n${tex}$"))
    shown = text(reader)
    assert not warnings and accessible(reader)
    assert "\\" not in shown and "$" not in shown


@pytest.mark.parametrize(
    "source",
    [
        ELBO,
        r"\begin{align} L &= \mu \\ &= \sigma \end{align}",
        r"\\[ L = \mu \sigma \\]",
        r"so \\( L = \mu \sigma \\) it is",
        r"| a |\n|--|\n| $L \mu \sigma$ |".replace(r"\n", "\n"),
        r"<div>$L \mu \sigma$</div>",
    ],
)
def test_formulas_in_every_form_that_jupyter_takes(source: str) -> None:
    for cell in (
        markdown(source),
        code("1", display(text_latex=source)),
        code("1", display(text_markdown=source)),
    ):
        reader, warnings = warned(markdown("# A"), cell)
        shown = text(reader)
        assert not warnings and accessible(reader)
        assert all(sign in shown for sign in "Lµσ".replace("µ", "μ"))
        assert "\\" not in shown and "$" not in shown


SHOWN_DIFFERENTLY = [
    (r"$\foo{x}$ and $y$", r"\foo{x}", r"formula \\foo{x}"),
    (r"$$\begin{nope} x \end{nope}$$", r"\begin{nope}", "formula"),
    ("![a map](missing.png)", "a map", "missing.png"),
    ("![](https://example.org/a.png)", "example.org/a.png", "example.org"),
    ("![](../secret.png)", "secret.png", "secret.png"),
    ("![](attachment:gone.png)", "gone.png", "gone.png"),
    ("![](http://[a.png)", "a.png", "a.png"),
    ("![](a%00.png)", "a%00.png", "a%00.png"),
    ('<img src="a\nb.png">', "b.png", "a b.png"),
    ("no font has \U0010fffd this", "«U+10FFFD»", "U+10FFFD"),
    ('<img src="data:image/png;base64,AAAA">', "", "damaged"),
    (
        '<iframe src="https://example.org/b"></iframe>',
        "org/b",
        "the iframe https:",
    ),
    ('<img src="data:image/svg+xml,<svg><a:b/></svg>">', "", "damaged"),
    (
        '<audio src="data:audio/wav;base64,AA"></audio>',
        "data:audio/wav",
        "audio",
    ),
    ("$$ $$ nothing", "nothing", None),
    ("&#xfdd0;9 <textarea>typed</textarea>", "typed", None),
    ("<h5></h5><h3>Sub</h3>", "Sub", None),
    ("a bell \x07 rings", "x07", None),
    ("[nowhere](#gone), [empty](), [js](javascript:alert(1))", "empty", None),
    ("## Same\n\n## Same\n\n[one](#Same)", "Same", None),
    ("#### Deep\n\n## Up\n\n#### Deep again\n\n# \n\n# x", "again", None),
    ("| a |\n|--|\n| ![](x.svg) |", "x.svg", "x.svg"),
]


@pytest.mark.parametrize(("source", "words", "warning"), SHOWN_DIFFERENTLY)
def test_whatever_can_be_shown_is_shown(
    source: str, words: str, warning: str | None
) -> None:
    reader, warnings = warned(
        markdown("# Title"), markdown(f"## Part\n\n{source}\n\nthe end")
    )
    shown = text(reader)
    assert words in shown and "the end" in shown
    assert accessible(reader)
    assert len(warnings) == (warning is not None)
    for line in warnings:
        assert line.startswith('cell 2 (section "') and "\n" not in line
        assert warning in line


def test_html_is_shown_as_a_browser_shows_it() -> None:
    source = """
<center>middle</center> H<sub>2</sub>O, x<sup>2</sup> <kbd>Ctrl</kbd>
<details><summary>more</summary>inside</details><!-- hidden -->
<div class="alert alert-info">beware</div><font color="red">red</font>
<table><tr><th>head</th></tr><tr><td>cell<br>two</td></tr></table>
<script>alert(1)</script><style>p {color: blue}</style></div></p>
<ul><li>one<li>two</ul>

- [x] done
- [ ] to do

It costs \\$5 or \\$6, `\\$x` &amp; @word :smile: a_b_c &lt;b&gt;"""
    reader, warnings = warned(markdown("# A"), markdown(source))
    shown = text(reader)
    assert not warnings and accessible(reader)
    for words in (
        *("middle", "H2O", "Ctrl", "more", "inside", "beware", "red"),
        *("head", "cell", "two", "☒ done", "☐ to do", "$5 or $6", "\\$x"),
        *("& @word :smile: a_b_c <b>", "• one"),
    ):
        assert words in shown, words
    for words in ("hidden", "alert(", "color"):
        assert words not in shown


# pandoc would write such an attribute as code of Typst's own.
SPELL = (
    '<table typst:fill="panic()"><tr><td data-typst:text:fill="panic()">4.5'
    '</td></tr></table><div typst:fill="panic()"><p>rows</p></div>'
)


def test_nothing_in_a_cell_is_executed_as_typst() -> None:
    attack = '#read("/etc/hostname") #panic() // gone /* gone */ $1'
    reader = export(
        markdown(
            f"# {attack}x\n\n- `{attack}x`\n\n| {attack}x |\n|--|\n| 1 |"
        ),
        markdown(r'$\text{\#read("x")} \mathrm{\#panic()}$'),
        code(f"# {attack}", stdout(attack)),
        new_raw_cell(attack),
        markdown(f"```{{=typst}}\n{attack}\n```\n\n`{attack}`{{=typst}}"),
        markdown(f"\ufdd00\ufdd1 \n\n```python\n{attack}\n```\n{SPELL}"),
        code("4", display(text_html=SPELL)),
        code("2", display(text_plain=attack, image_png=figure())),
        code("3", display(text_plain="]" + attack + '")')),
        author=NAME,
        banner='DEMO #panic() ")',
    )
    shown = re.sub(r"\s", "", text(reader))
    assert shown.count('#read("/etc/hostname")#panic()') >= 9
    assert 'DEMO#panic()")' in shown
    assert "panic()" in reader.metadata.title


def test_title_author_outline_and_page_numbers() -> None:
    reader = export(
        markdown(
            "# Sheet 7: *VAE*\n\n**Surname-MatriculationNumber**\n\nDue soon."
        ),
        markdown("## Task 1\n\n[to two](#Task-2), [gone](#Nowhere)"),
        markdown("### Loss\n\n" + "Words. " * 3000),
        markdown("## Task 2"),
        author=NAME,
    )
    assert reader.metadata.title == "Sheet 7: VAE"
    assert reader.metadata.author == NAME
    assert headings(reader) == [(1, "Task 1"), (2, "Loss"), (1, "Task 2")]
    total = len(reader.pages)
    assert total > 2
    for number, page in enumerate(reader.pages, 1):
        words = page.extract_text()
        assert f"page {number} of {total}" in words and NAME in words
    assert "Surname" not in text(reader)
    links = reader.pages[0]["/Annots"]
    assert len(links) == 1
    assert [round(x) for x in reader.pages[0].mediabox[2:]] == [595, 842]


def test_banner_is_on_the_first_page_and_every_header() -> None:
    reader = export(markdown("Words. " * 3000), banner="DEMO only")
    assert reader.pages[0].extract_text().count("DEMO only") == 2
    assert all("DEMO only" in page.extract_text() for page in reader.pages)
    assert "DEMO" not in text(export(markdown("Words.")))


def test_every_kind_of_output() -> None:
    frame = (
        "<div><style>.x {color: red}</style><table class='dataframe'><thead>"
        "<tr><th></th><th>score</th></tr></thead><tbody><tr><th>0</th>"
        "<td>3.25</td></tr></tbody></table><p>1 rows</p></div>"
    )
    error = new_output(
        "error",
        ename="ValueError",
        evalue="bad",
        traceback=["\x1b[31mTraceback\x1b[0m", "ValueError: bad"],
    )
    widget = {
        "application/vnd.jupyter.widget-view+json": {},
        "text/plain": "FloatProgress(value=0)",
    }
    reader, warnings = warned(
        markdown("# A"),
        code("1", stdout("\x1b[1mprinted\x1b[0m words\ngone\rnew bar\n")),
        code("2", new_output("stream", name="stderr", text="a warning")),
        code("3", display(text_html=frame, text_plain="plain frame")),
        code("4", display(text_markdown="**marked** words")),
        code("5", display(text_html="<b>bold h</b>", text_plain="fallback")),
        code("6", error),
        code("7", display(application_javascript="alert(1)")),
        code("8", new_output("display_data", data=widget)),
        code("9", display(text_plain="<DisplayHandle display_id=abc>")),
        code("2", display(text_html='<iframe src="https://e.org/v">')),
        code("10", stdout("\x1b]8;;http://x\x1b\\a link\x1b]8;;\x07\n")),
        new_raw_cell("raw words"),
    )
    shown = text(reader)
    for words in (
        *("printed words", "new bar", "a warning", "score", "3.25", "1 rows"),
        *(
            "marked words",
            "bold h",
            "ValueError: bad",
            "FloatProgress",
            "e.org/v",
        ),
        *("a link", "raw words"),
    ):
        assert words in shown, words
    for words in (
        *("gone", "plain frame", "color", "fallback", "alert", "Display"),
        *("[31m", "\x1b", "**", "8;;"),
    ):
        assert words not in shown, words
    assert [line[:6] for line in warnings] == ["cell 8", "cell 9", "cell 1"]


@pytest.mark.parametrize("kind", ["png", "jpeg", "pdf", "svg", "webp"])
def test_pictures(kind: str) -> None:
    vector = {"pdf": "application/pdf", "svg": "image/svg+xml"}
    mime = vector.get(kind, f"image/{kind}")
    output = new_output("display_data", data={mime: figure(kind)})
    reader = export(markdown("# A"), code("plot()", output))
    assert sum(pictures(reader)) >= (kind not in vector)
    # Vector pictures keep their labels as drawing instructions.
    assert len(reader.pages[0].get_contents().get_data()) > 300


def test_alternative_texts_and_captions() -> None:
    metadata = {"image/png": {"alt": "Loss falls & <stays>.", "width": 300}}
    without = {"image/png": {"alt": None, "width": None}}
    data = {"image/png": figure()}
    shown = new_output("display_data", data=data, metadata=metadata)
    reader, warnings = warned(
        markdown("# A"),
        code("1", shown, shown),
        markdown("## Part\n\n$x_1$ text"),
        code("2", new_output("display_data", data=data, metadata=without)),
    )
    assert not warnings and accessible(reader)
    page = text(reader).replace(":  ", ": ")
    assert "Figure 1: Loss falls & <stays>." in page and "Figure 2:" in page
    assert "Figure 3" not in page
    alts = [
        found["/Alt"]
        for number in range(1, reader.trailer["/Size"])
        if isinstance(found := reader.get_object(number), dict)
        and "/Alt" in found
    ]
    assert alts.count("Loss falls & <stays>.") == 2
    assert {"Part", "x_1"} <= set(alts)


@pytest.mark.parametrize("source", ['#image("./picture-1")', "$x$"])
def test_lack_of_an_alternative_text_would_be_seen(source: str) -> None:
    page = html.Page([html.Piece("cell 1", "<p>words</p>")], Path())
    page.files["part-0.typ"] = source.encode()
    page.files["picture-1"] = base64.b64decode(figure())
    content = pdf.compile_page(page, "title", "", "", "", "en")
    assert page.warnings == ["cell 1: what Typst refuses is shown as source"]
    assert accessible(PdfReader(io.BytesIO(content)))


def test_attached_and_local_pictures(
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
    reader, warnings = warned(cell)
    # The same picture twice is kept once.
    assert sum(pictures(reader)) == 3 and not warnings


def test_pictures_are_as_wide_as_asked_for_but_never_too_wide() -> None:
    def widest(html: str) -> float:
        reader = export(markdown(html))
        drawing = reader.pages[0].get_contents().get_data().decode("latin-1")
        numbers = re.findall(r"([\d.]+) 0 0 -?[\d.]+ [-\d. ]+ cm", drawing)
        return max(map(float, numbers))

    source = f'<img src="data:image/png;base64,{figure(width=30, dpi=72)}" '
    assert 450 < widest(source + ">") < 475
    assert widest(source + 'width="400">') == pytest.approx(300, abs=1)
    assert widest(source + 'style="width: 25%">') == pytest.approx(118, abs=1)
    assert 450 < widest(source + 'width="9999">') < 475


def test_long_lines_wrap() -> None:
    long = "x" * 300
    reader = export(
        code(f"y = '{long}'", stdout(f"{long} {'wide ' * 60}")),
        markdown(f"`{'z' * 300}`"),
    )
    lines = text(reader).splitlines()
    assert max(map(len, lines)) < 110
    joined = "".join(line.strip() for line in lines)
    assert joined.count("x") == 600 and joined.count("wide") == 60
    assert joined.count("z") == 300 and "\u200b" not in joined


@pytest.mark.parametrize("columns", [16, 40])
def test_wide_table_fits_the_page(columns: int) -> None:
    head = "".join(f"<th>column_{i}</th>" for i in range(columns))
    row = "".join(f"<td>1.2345{i:02}</td>" for i in range(columns))
    table = f"<table><tr>{head}</tr><tr>{row}</tr></table>"
    reader = export(code("1", display(text_html=table)))
    places: list[float] = []
    reader.pages[0].extract_text(
        visitor_text=lambda words, cm, tm, *_: places.append(tm[4] + cm[4])
    )
    assert max(places) < 595 - 62
    shown = re.sub(r"\s", "", text(reader))
    assert all(f"column_{i}" in shown for i in range(columns))


@pytest.mark.parametrize(("rows", "pages"), [(12, {1}), (120, {3, 4})])
def test_only_a_long_table_runs_over_a_page(
    rows: int, pages: set[int]
) -> None:
    table = "| a | b |\n|---|---|\n" + "| 1 | entry |\n" * rows
    reader = export(markdown("Filler.\n\n" * 34 + table))
    on = [p for p in reader.pages if "entry" in p.extract_text()]
    assert len(on) in pages
    assert text(reader).count("entry") == rows


@pytest.mark.parametrize("filler", range(30, 50, 4))
def test_code_stays_with_its_figure(filler: int) -> None:
    source = "\n".join(f"line_{i} = {i}" for i in range(9)) + "\nMARK()"
    reader = export(
        markdown("\n\n".join(["Filler."] * filler)),
        code(source, display(image_png=figure(width=5))),
    )
    for page, count in zip(reader.pages, pictures(reader), strict=True):
        assert ("MARK()" in page.extract_text()) == (count == 1)


@pytest.mark.parametrize("filler", range(20, 46, 5))
def test_definitions_stay_whole(filler: int) -> None:
    names = [f"part_{name}" for name in "abcdef"]
    source = "\n\n\n".join(
        "\n".join([f"def {n}():", *[f"    {n} = {i}" for i in range(12)]])
        for n in names
    )
    reader = export(markdown("\n\n".join(["Filler."] * filler)), code(source))
    pages = [page.extract_text() for page in reader.pages]
    assert len(pages) > 1
    for name in names:
        assert max(page.count(f"{name} =") for page in pages) == 12


@pytest.mark.parametrize("spelling", ["{0}_{1}", "{0}-{1}"])
@pytest.mark.parametrize("verb", ["remove", "hide"])
def test_hidden_cells(verb: str, spelling: str) -> None:
    def tag(part: str) -> tuple[str]:
        return (spelling.format(verb, part),)

    shown = text(
        export(
            code("source_a", stdout("output_a"), tags=tag("input")),
            code("source_b", stdout("output_b"), tags=tag("output")),
            code("source_c", stdout("output_c"), tags=tag("cell")),
        )
    )
    found = re.findall(r"(?:source|output)_\w", shown)
    assert found == ["output_a", "source_b"]


def test_empty_notebooks_and_huge_outputs() -> None:
    assert len(export().pages) == 1
    assert len(export(code(""), markdown("")).pages) == 1
    reader = export(code("1", stdout("0123456789\n" * 1_000_000)))
    assert "characters left out here" in text(reader)
    assert len(reader.pages) < 60


def test_unicode_has_a_font() -> None:
    words = "Ümläut naïve Łódź Привет Ω ≤ → ✓ “q” – …"
    reader = export(
        markdown(f"{words} $x$"), code(f"# {words}", stdout(words))
    )
    assert text(reader).count("Привет Ω ≤ → ✓") == 3


def test_same_notebook_same_bytes() -> None:
    nb = notebook(markdown(ELBO), code("1", display(image_png=figure())))
    first, _ = TypstPDFExporter().from_notebook_node(nb)
    second, _ = TypstPDFExporter().from_notebook_node(nb)
    assert first == second


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
    exporter = get_exporter("typstpdf")
    assert exporter is TypstPDFExporter and exporter.export_from_notebook
    folder = tmp_path / "Übung sieben"
    folder.mkdir()
    nb = notebook(
        markdown(
            "# Sheet\n\n**Surname-MatriculationNumber**\n\n$x^2$ ![](n)"
        ),
        code("1", display(image_svg=figure("svg"), image_png=figure())),
    )
    nbformat.write(nb, folder / f"{NAME}.ipynb")
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, f"{NAME}.ipynb"],
        cwd=folder,
        env={"PATH": "", "HOME": os.environ["HOME"]},
        capture_output=True,
        text=True,
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


@st.composite
def typed(draw: st.DrawFn) -> str:
    """Words between anything that means something to some language."""
    parts = draw(st.lists(st.sampled_from(SIGNS), min_size=1, max_size=14))
    return "".join(f"{sign}qw{i}z" for i, sign in enumerate(parts))


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(typed())
@example("---\nqw0z: qw1z\n---\n\nqw2z")
@example("qw0z\n```\nqw1z")
def test_no_word_vanishes(source: str) -> None:
    """What a browser shows of Markdown or HTML; all of code and outputs."""
    markdown_words, html_words = (
        re.findall(r"qw\d+z", html.words(html.Piece("", shown).body))
        for shown in (html.render(source), source)
    )
    every = re.findall(r"qw\d+z", source)
    for cell, expected in (
        (markdown(source), markdown_words),
        (code("1", display(text_html=source)), html_words),
        (code(source, stdout(source)), every * 2),
    ):
        shown = unicodedata.normalize("NFKC", text(export(cell)))
        shown = re.sub(r"[\s-]", "", shown)
        for word in expected:
            assert shown.count(word) >= expected.count(word), word
