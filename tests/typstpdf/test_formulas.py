"""Formulas become what MathJax shows, or stay TeX; never an exception."""

import json
import re
from html import unescape
from pathlib import Path

import pytest
import typst
from hypothesis import given, settings
from hypothesis import strategies as st

import typstpdf
from typstpdf.formulas import Formula, typeset
from typstpdf.write import Writer

MATHJAX = Path(typstpdf.__file__).with_name("mathjax.js")
PAGE = MATHJAX.with_name("page.typ")
ONE = [
    (r"x\kern-1em y", "𝑥𝑦"),
    (r"\text{#read(\"x\") für 中} % not seen", '#read("x") für 中'),
    (r"{x \over y}", "𝑥𝑦"),
    (r"\begin{array}{c|r}a&b\\ \hline c&d\end{array}", "𝑎𝑏𝑐𝑑"),
    (r"\newcommand{\z}{1}", ""),
    (r"\textcolor{red}{\vec x}", "𝑥⃗"),
    (r"\hspace{999999cm}", ""),
    (r"\def\z{\z\z}\z", None),
    (r"\frac{a", None),
    (r'\style{a"b}{x} \href{"/><image>}{y}', "𝑥𝑦"),
    (r'\mmlToken{mi}[href="&" class="<"]{x}', "𝑥"),
    (r"\text{日本 Ελληνικά}", "日本 Ελληνικά"),
    ("<math><mfrac><mi>a</mi></mfrac></math>", None),
]
MACROS = [
    (r"\newcommand{\p}[2][x]{#1#2} \p{y}", "𝑥𝑦"),
    (r"\def\p(#1,#2){#2#1} \p(y,x)", "𝑥𝑦"),
    (r"\DeclareMathOperator{\KL}{KL} \KL", "KL"),
    (r"\newenvironment{q}[1]{#1}{y}\begin{q}{x}\end{q}", "𝑥𝑦"),
]


def said(formula: Formula) -> str | None:
    """The signs of a formula; None if it is not set."""
    svgs = "".join(svg for _, svg, _ in formula.parts or ())
    signs = "".join(re.findall("<text[^>]*>([^<]+)", svgs))
    return None if formula.parts is None else unescape(signs)


@pytest.mark.parametrize(("tex", "expected"), ONE + MACROS)
def test_one_formula(tex: str, expected: str | None) -> None:
    """A formula by itself."""
    tex = tex.replace(r"\"", '"')
    formula = typeset([(tex, False)])[0]
    assert said(formula) == expected
    for _, svg, _ in formula.parts or ():
        assert not re.search("<a|<image| href=", svg)


def test_a_macro_holds_until_it_is_defined_anew() -> None:
    """Definitions are read in order, from hidden formulas too."""
    texs = [r"\gdef\R{x}", r"\R", r"\renewcommand{\R}{y}", r"\R"]
    assert [*map(said, typeset([(t, True) for t in texs]))] == [
        "",
        "𝑥",
        "",
        "𝑦",
    ]


def test_numbers_and_references() -> None:
    """A label means its formula's number, wherever it is."""
    texs = [
        r"\eqref{b}, \ref{a}, \eqref{no}",
        r"\begin{equation} x \label{a} \end{equation}",
        r"\begin{equation} x \end{equation}",
        r"y \tag{7} \label{b}",
        r"z \tag*{P}",
        r"\begin{align} x &= 1 \tag{8} \\ y &= 2 \tag{9} \end{align}",
    ]
    found = typeset([(tex, True) for tex in texs])
    numbers = [
        said(Formula("", True, [f.number] if f.number else [])) for f in found
    ]
    assert numbers == ["", "(1)", "", "(7)", "P", "(8)(9)"]
    assert said(found[0]) == "(7),1,(???)"


def test_lines_may_end_behind_operators() -> None:
    """What stands in brackets stays together; unknown commands are named."""
    found = typeset(
        [(t, False) for t in ("a+(b-c)=d", r"\foo", r"\text{\x_}")]
    )
    parts = [said(Formula("", False, [part])) for part in found[0].parts]
    assert parts == ["𝑎+", "(𝑏−𝑐)=", "𝑑"]
    assert [f.unknown for f in found] == [[], ["\\foo"], ["\\x"]]


LONG = "+".join(["xyz(x,y)"] * 20)


@pytest.mark.parametrize(
    ("tex", "parts"),
    [
        (r"a \\ b", 2),
        (r"\displaystyle a+b", 2),
        (r"\left(a+b\right)", 1),
        (rf"\left({LONG}\right)", 20),
        (rf"\left({LONG[:71]}\right)", 8),
        (rf"\begin{{equation}} {LONG} \tag{{1}} \end{{equation}}", 20),
        (rf"\frac{{{LONG}}}{{2}}", 1),
    ],
)
def test_what_is_too_wide_is_taken_apart(tex: str, parts: int) -> None:
    """Within brackets, too, or if it has a number."""
    found = typeset([(tex, True)])[0].parts
    assert len(found) == parts
    assert [ends for *_, ends in found].count(True) == (r"\\" in tex)


def test_letters_that_join_stay_together() -> None:
    """Arabic ones, which would stand backwards by themselves."""
    [(_, svg, _)] = typeset([(r"\text{العربية}", False)])[0].parts
    assert svg.count("<text") == 1


def test_a_displayed_formula_has_its_own_place() -> None:
    """A number moves it not to the left, and no text comes near it."""
    tex = r"\begin{align} \frac{1}{2} &= a \tag{1} \\ &= b \end{align}"
    formula = typeset([(tex, True)])[0]
    assert formula.parts[0][0] < formula.height
    drawn = Writer(Path(), {}).formula(formula)
    high = f"measure(width: 9cm, {drawn}).height.pt()"
    high = f"#context [#metadata({high})<high>]"
    source = f"{PAGE.read_text()}\n#set text(10pt)\n{high}".encode()
    found = typst.query(source, "<high>", field="value", one=True)
    assert json.loads(found) == pytest.approx(10 * formula.height, 0.01)


# All names of MathJax's commands, among others.
NAMES = sorted(set(re.findall("[{,]([A-Za-z]{1,18}):", MATHJAX.read_text())))
SIGNS = [*"abx01+-=()[]|<>^_~'`#%&é☃\U0010fffd", r"\\", r"\unicode{7}"]
FORMS = ["{%s}", r"\left(%s\right]", r"\text{%s}", "_{%s}", r"\tag{%s}"]
FORMS += [r"\begin{array}{c|r}%s\end{array}", r"\def\a#1{%s}", r"\ce{%s}"]
FORMS += [r"\begin{align}%s\end{align}", r"\boxed{%s}", r"\sqrt[3]{%s}"]
FORMS += [r'\mmlToken{mo}[kind="x" minsize="-9em" class="%s"]{∑}']
FORMS += [r'\style{"<%s}{x}', r'\href{"<%s}{x}']
TEX = st.recursive(
    st.sampled_from(SIGNS)
    | st.builds("\\{} {}".format, st.sampled_from(NAMES), st.just("{x}{x}")),
    lambda inner: st.builds(
        str.replace, st.sampled_from(FORMS), st.just("%s"), inner
    )
    | st.lists(inner, max_size=4).map("".join),
    max_leaves=9,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(TEX, min_size=40, max_size=60))
def test_any_tex_is_set_or_stays_tex(texs: list[str]) -> None:
    """Nothing raises, and Typst takes all that is set."""
    writer = Writer(Path(), {})
    lines = [PAGE.read_text()]
    for formula in typeset([(tex, True) for tex in texs]):
        lines.append(f"#{writer.formula(formula)}")
    typst.compile("\n".join(lines).encode())
