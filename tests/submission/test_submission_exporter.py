"""The PDF: everything in it, nothing executed, nothing clipped."""

import base64
import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import nbformat
import pytest
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

from submission.exporter import ExportError, TypstPDFExporter

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
    r"\frac{1}{784} \approx 0.00128",
    r"x \in \mathbb{R}^{784}, \beta = 784 \cdot w",
    r"q(z \mid x, y) \Vert p(z)",
    r"\arg\max_\theta \prod_{i} p_\theta(x_i) \to \infty",
    r"\mathbf{W}^\top, \boldsymbol{\mu}, \partial L / \partial \theta",
    r"\bar{x}, \tilde{x}, \sqrt{2\pi}, \int_0^1 f(x)\,dx, \nabla_\phi",
    r"\begin{cases} 1 & \text{if } x > 0 \\ 0 & \text{else}\end{cases}",
    r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}",
    r"\mathtt{kl} \mathsf{x} \underbrace{a}_{b} \operatorname*{arg\,max}_x",
    r"\otimes \cap \cup \subseteq \forall \exists \neq \ll \pm \times",
]


def test_mathematics_of_the_report_is_typeset() -> None:
    inline = "\n\n".join(f"${formula}$" for formula in INLINE)
    shown = text(export(markdown(ELBO), markdown(inline)))
    assert "\\" not in shown and "$" not in shown
    for sign in unicodedata.normalize("NFKC", "E∑θϕμσ⊙ϵ∼∥∣βπ∫∇∞⊗∩∀"):
        assert sign in shown
    for word in ("log", "KL", "diag", "logvar", "kl", "arg max"):
        assert word in shown
    assert "Sans" not in shown


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (r"\begin{align} a &= b \end{align}", "outside a formula"),
        (r"then \alpha follows", "outside a formula"),
        (r"spaces $ y $ inside", "not recognised"),
        ("$$\na\n\nb\n$$", "not recognised"),
        (r"$\foo{x}$", "cannot be typeset"),
        (r"$\frac{1$", r"\frac"),
        (r"$\begin{nope} x \end{nope}$", "cannot be typeset"),
        ("<div>text</div>", "HTML"),
        ('an <img src="a.png"> inline', "HTML"),
        ("<script>alert(1)</script>", "HTML"),
        ("![](missing.png)", "missing.png"),
        ("![](https://example.org/a.png)", "example.org"),
        ("![](../secret.png)", "secret.png"),
        ("![](/etc/passwd)", "passwd"),
        ("![](attachment:gone.png)", "gone.png"),
        ("a bell \x07 rings", "U+0007"),
        ("no font has \U0010fffd this", "any font"),
    ],
)
def test_what_would_be_lost_is_refused(source: str, reason: str) -> None:
    with pytest.raises(ExportError) as caught:
        export(markdown("# Title"), markdown("## Part\n\n" + source))
    assert 'cell 2 (section "Part"' in str(caught.value)
    assert reason in str(caught.value)


def test_what_has_one_clear_meaning_is_kept() -> None:
    shown = text(
        export(
            markdown(
                "It costs \\$5 or \\$6, `\\$x`.<!-- hidden --> "
                "C:`\\temp`<br>next @word :smile: a_b_c &amp; 5 $"
            )
        )
    )
    for words in ("$5 or $6", "\\$x", "\\temp", "@word :smile:", "& 5 $"):
        assert words in shown
    assert "hidden" not in shown


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
        code("4", display(text_html=SPELL)),
        code("2", display(text_plain=attack, image_png=figure())),
        code("3", display(text_plain="]" + attack + '")')),
        author=f"{NAME}",
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
    assert [round(x) for x in reader.pages[0].mediabox[2:]] == [595, 842]


def test_all_fonts_are_embedded() -> None:
    reader = export(markdown("Text **bold** $x$ `code`"), code("x = 1"))
    fonts = [
        font.get_object()["/DescendantFonts"][0].get_object()
        for page in reader.pages
        for font in page["/Resources"]["/Font"].values()
    ]
    assert len(fonts) >= 4
    for font in fonts:
        keys = font["/FontDescriptor"].get_object().keys()
        assert {"/FontFile", "/FontFile2", "/FontFile3"} & set(keys)


def test_banner_is_on_the_first_page_and_every_header() -> None:
    reader = export(markdown("Words. " * 3000), banner="DEMO only")
    assert reader.pages[0].extract_text().count("DEMO only") == 2
    assert all("DEMO only" in page.extract_text() for page in reader.pages)
    assert "DEMO" not in text(export(markdown("Words.")))


def test_export_alone_says_that_the_run_was_a_demo() -> None:
    mime = "application/vnd.submission.fingerprint+json"
    for demo in (True, False):
        said = new_output("display_data", data={mime: {"demo": demo}})
        shown = text(export(code("1", said)))
        assert ("DEMO: computed" in shown) == demo


def test_streams_as_jupyter_saved_them() -> None:
    """Every state of a progress bar, or the last one of each."""
    bar = "epoch 1/2:  50%|=====     | 5/10 [00:01<00:01, 9.1it/s]"
    done = "epoch 2/2: 100%|==========| 10/10 [00:02<00:00, 9.1it/s]"
    shown = text(
        export(
            code("1", stdout(f"\r{bar}\r{done}\n")),
            code("2", stdout(f"{done}\n{done}\n")),
            code("3", stdout("first\rlast!\n")),
            code("4", stdout("\x1b]8;;http://x\x1b\\a link\x1b]8;;\x07\n")),
        )
    )
    assert "%|" not in shown
    assert "last!" in shown and "first" not in shown
    assert "a link" in shown and "8;;" not in shown


def test_every_kind_of_output() -> None:
    frame = (
        "<div><style>.x {color: red}</style><table><thead><tr><th></th>"
        "<th>score</th></tr></thead><tbody><tr><th>0</th><td>3.25</td></tr>"
        "</tbody></table><p>1 rows</p></div>"
    )
    error = new_output(
        "error",
        ename="ValueError",
        evalue="bad",
        traceback=["\x1b[31mTraceback\x1b[0m", "ValueError: bad"],
    )
    shown = text(
        export(
            code("1", stdout("\x1b[1mprinted\x1b[0m words\n")),
            code("2", new_output("stream", name="stderr", text="a warning")),
            code("3", display(text_html=frame, text_plain="plain frame")),
            code("4", display(text_markdown="**marked** words")),
            code("5", display(**{"text_latex": r"$\displaystyle x_{17}$"})),
            code("6", display(text_html="<b>h</b>", text_plain="fallback")),
            code("7", error),
            code("8", display(**{"application_javascript": "alert(1)"})),
            code(
                "9",
                new_output(
                    "display_data",
                    data={
                        "application/vnd.jupyter.widget-view+json": {},
                        "text/plain": "FloatProgress(value=0)",
                    },
                ),
            ),
            code(
                "10",
                display(
                    text_html="<i>x</i>",
                    text_plain="<IPython.core.display.HTML object>",
                ),
                display(text_plain="<DisplayHandle display_id=abc>"),
            ),
        )
    )
    for words in (
        "printed words",
        "a warning",
        "score",
        "3.25",
        "1 rows",
        "marked words",
        "fallback",
        "ValueError: bad",
        "17",
    ):
        assert words in shown
    for words in (
        "plain frame",
        "color",
        "alert",
        "FloatProgress",
        "IPython",
        "DisplayHandle",
        "[31m",
        "\x1b",
        "**",
    ):
        assert words not in shown


@pytest.mark.parametrize(
    ("mime", "kind", "drawn"),
    [
        ("image/png", "png", 1),
        ("image/jpeg", "jpeg", 1),
        ("application/pdf", "pdf", 1),
        ("image/svg+xml", "svg", 0),
    ],
)
def test_pictures(mime: str, kind: str, drawn: int) -> None:
    output = new_output("display_data", data={mime: figure(kind)})
    reader = export(code("plot()", output))
    assert sum(pictures(reader)) >= drawn
    # Vector pictures keep their labels as drawing instructions.
    assert len(reader.pages[0].get_contents().get_data()) > 300


def test_attached_and_local_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("local.png").write_bytes(base64.b64decode(figure(width=3)))
    cell = markdown("![words](attachment:a.png)\n\ninline ![](local.png)!")
    cell["attachments"] = {"a.png": {"image/png": figure(width=5)}}
    assert sum(pictures(export(cell))) == 2


def test_damaged_picture_is_refused() -> None:
    broken = base64.b64encode(b"not a picture").decode()
    with pytest.raises(ExportError, match="cell 2"):
        export(code("1"), code("2", display(image_png=broken)))


def test_picture_is_never_wider_than_the_text() -> None:
    reader = export(code("1", display(image_png=figure(width=30, dpi=72))))
    drawing = reader.pages[0].get_contents().get_data().decode("latin-1")
    widths = [
        float(match[1])
        for match in re.finditer(
            r"([\d.]+) 0 0 -?[\d.]+ [-\d. ]+ cm", drawing
        )
    ]
    assert 450 < max(widths) < 475


def test_long_lines_wrap() -> None:
    long = "x" * 300
    reader = export(
        code(f"y = '{long}'", stdout(f"{long} {'wide ' * 60}")),
        markdown(f"`{'z' * 300}`"),
    )
    lines = [line.replace("\u200b", "") for line in text(reader).splitlines()]
    assert max(map(len, lines)) < 110
    joined = "".join(line.strip() for line in lines)
    assert joined.count("x") == 600 and joined.count("wide") == 60
    assert joined.count("z") == 300


def test_wide_table_fits_the_page() -> None:
    head = "".join(f"<th>column_{i}</th>" for i in range(16))
    row = "".join(f"<td>1.2345{i:02}</td>" for i in range(16))
    table = f"<table><tr>{head}</tr><tr>{row}</tr></table>"
    shown = text(export(code("1", display(text_html=table))))
    # Overlapping columns would run into each other.
    assert re.search(r"column_0\s+column_1\s+column_2", shown)


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


def test_code_longer_than_a_page() -> None:
    source = "\n".join(f"line_{i} = {i}" for i in range(150))
    reader = export(code(source, display(image_png=figure())))
    shown = text(reader)
    assert all(f"line_{i} = {i}" in shown for i in range(150))
    last = reader.pages[pictures(reader).index(1)].extract_text()
    assert "line_149 = 149" in last


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


def test_unexecuted_and_empty_notebooks() -> None:
    cell = code("never = 'run'")
    cell.execution_count = None
    assert "never" in text(export(cell))
    assert len(export().pages) == 1
    assert len(export(code(""), markdown("")).pages) == 1


def test_unicode() -> None:
    words = "Ümläut naïve Łódź Привет Ω ≤ → ✓ “q” – …"
    reader = export(markdown(words), code(f"# {words}", stdout(words)))
    assert text(reader).count("Привет Ω ≤ → ✓") == 3


def test_huge_output_is_cut_with_a_notice() -> None:
    reader = export(code("1", stdout("0123456789\n" * 1_000_000)))
    assert "characters left out here" in text(reader)
    assert len(reader.pages) < 60


def test_same_notebook_same_bytes() -> None:
    nb = notebook(markdown(ELBO), code("1", display(image_png=figure())))
    first, _ = TypstPDFExporter().from_notebook_node(nb)
    second, _ = TypstPDFExporter().from_notebook_node(nb)
    assert first == second


def test_registered_like_nbconverts_own() -> None:
    exporter = get_exporter("typstpdf")
    assert exporter is TypstPDFExporter
    assert exporter.export_from_notebook


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
        markdown("# Sheet\n\n**Surname-MatriculationNumber**\n\n$x^2$"),
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
    reader = PdfReader(folder / f"{NAME}.pdf")
    assert reader.metadata.author == NAME
    assert {path.suffix for path in folder.iterdir()} == {".ipynb", ".pdf"}


def test_nbconvert_refusal_names_the_cell(tmp_path: Path) -> None:
    nb = notebook(markdown("<b>bold</b>"))
    (tmp_path / "a.ipynb").write_text(json.dumps(nb))
    done = subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "typstpdf", "a.ipynb"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "cell 1" in done.stderr
    assert not (tmp_path / "a.pdf").exists()


def test_bytes_are_a_pdf_for_jupyterlab() -> None:
    pdf, resources = TypstPDFExporter().from_notebook_node(notebook())
    assert pdf.startswith(b"%PDF")
    assert resources["output_extension"] == ".pdf"
