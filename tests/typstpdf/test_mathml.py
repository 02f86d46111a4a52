"""Formulas become what MathJax shows, or stay TeX; never an exception."""

import re
from pathlib import Path

import pytest
import typst
from hypothesis import given, settings
from hypothesis import strategies as st

import typstpdf.mathml
from typstpdf.mathml import typeset
from typstpdf.write import Formula

MATHJAX = Path(typstpdf.mathml.__file__).with_name("mathjax.js").read_text()
PAGE = Path(typstpdf.mathml.__file__).with_name("page.typ").read_text()
X = 'sign("x", "normal", math.italic)'
Y = X.replace("x", "y", 1)
WORD = 'sign("{}", "normal", math.upright)'
RED = f'text(math.inline({X}), fill: rgb("#ff0000ff"))'
ONE = [
    (r"x\kern-1em y", f"{X} h(-1em) {Y}"),
    (r"{\displaystyle x}", f"math.display({X})"),
    (r"\text{#read(\"x\")} % not seen", WORD.format(r"#read(\"x\")")),
    (r"{x \over y}", f"math.frac({X}, {Y})"),
    (r"\sqrt[x]{y}", f"math.root({X}, {Y})"),
    (r"\textcolor{red}{x}", RED),
    (r"\color{#1+1}x", f"math.inline({X})"),
    (r"x\label{x}", X),
    (r"\newcommand{\z}{1}", ""),
    (r"\vec x", f'math.accent({X}, "→", size: 0%)'),
    (r"\underline x", f"math.underline({X})"),
    (r"\hspace{999999cm}", "h(99em)"),
    (r"\def\z{\z\z}\z", None),
    (r"\frac{a", None),
    (r"\begin{nope}\end{nope}", None),
    (r"\boxed{" * 9 + "}" * 9, None),
]
MACROS = [
    (r"\newcommand{\p}[2][x]{#1#2} \p{y}", f"{X} {Y}"),
    (r"\def\p(#1,#2){#2#1} \p(y,x)", f"{X} {Y}"),
    (r"\let\eps x \eps", X),
    (r"\DeclareMathOperator{\KL}{KL} \KL", f"math.op({WORD.format('KL')})"),
    (r"\newenvironment{q}[1]{#1}{y}\begin{q}{x}\end{q}", f"{X} {Y}"),
]


@pytest.mark.parametrize(("tex", "expected"), ONE + MACROS)
def test_one_formula(tex: str, expected: str | None) -> None:
    """A formula by itself."""
    tex = tex.replace(r"\"", '"')
    found = typeset([(tex, False)])[0].typst
    assert found is None if expected is None else squeezed(found) == expected


def squeezed(source: str) -> str:
    """In one line."""
    return " ".join(source.strip("{}\n").split())


def test_a_macro_holds_until_it_is_defined_anew() -> None:
    """Definitions are read in order, from hidden formulas too."""
    texs = [r"\gdef\R{x}", r"\R", r"\renewcommand{\R}{y}", r"\R"]
    found = [formula.typst for formula in typeset([(t, True) for t in texs])]
    assert found == ["", X, "", Y]


def test_numbers_and_references() -> None:
    """A label means its formula's number, wherever it is."""
    texs = [
        (r"\eqref{b}, \ref{a}, \eqref{no}", False),
        (r"\begin{equation} x \label{a} \end{equation}", True),
        (r"\begin{equation} x \end{equation}", True),
        (r"y \tag{7} \label{b}", True),
        (r"z \tag*{P}", True),
        (r"\begin{align} x &= 1 \tag{8} \\ y &= 2 \end{align}", True),
    ]
    found = typeset(texs)
    numbers = [formula.number for formula in found]
    assert numbers == [None, "(1)", None, "(7)", "P", ""]
    seen = re.findall(r'"(\(?[\w?]+\)?)", "n', found[0].typst)
    assert seen == ["(7)", "1", "(???)"]
    assert 'numbered("(8)", margin)' in found[5].typst


def test_rows_and_rules() -> None:
    """An array keeps its columns' rules; one row may break over lines."""
    array = r"\begin{array}{c|r}a&b\\ \hline c&d\end{array}"
    row = r"\begin{align}x&y\end{align}"
    found = [
        formula.typst for formula in typeset([(array, True), (row, True)])
    ]
    assert "augment: (vline: (1, ), hline: (1, )" in found[0]
    assert squeezed(found[1]) == f"{X} {Y}"


def test_commands_that_are_unknown() -> None:
    """They are printed, as in Jupyter, and named."""
    found = typeset([(r"\foo x", False), (r"\text{\bar_}", False)])
    assert [formula.unknown for formula in found] == [["\\foo"], ["\\bar"]]


# All names of MathJax's commands, and more that are none.
NAMES = set(re.findall(r"[{,]([A-Za-z]{1,18}):", MATHJAX))
PLAIN = [*"abx01+-=()[]|<>^_~'\"`#$%é☃\U0010fffd", r"\\", r"\unicode{7}"]
GROUPS = ["{%s}", r"\left(%s\right]", r"\text{%s}", "_{%s}", r"\tag{%s}"]
GROUPS += [
    r"\begin{array}{c|r:l}%s\end{array}",
    r"\begin{align}%s\end{align}",
]
GROUPS += [r"\boxed{%s}", r"\def\a#1{%s}", r"\ce{%s}", r"\sqrt[3]{%s}"]
GROUPS += [r'\mmlToken{mo}[kind="x" minsize="-9em" class="%s"]{∑}']
COMMANDS = st.tuples(st.sampled_from(sorted(NAMES)), st.integers(0, 3)).map(
    lambda pair: f"\\{pair[0]} " + "{x}" * pair[1]
)
SIGNS = st.sampled_from(PLAIN) | COMMANDS
TEX = st.recursive(
    SIGNS,
    lambda inner: st.builds(
        str.replace,
        st.sampled_from(GROUPS),
        st.just("%s"),
        st.lists(inner, max_size=4).map("&".join),
    )
    | st.lists(inner, max_size=4).map("".join),
    max_leaves=12,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(TEX, min_size=40, max_size=60))
def test_any_tex_is_set_or_stays_tex(texs: list[str]) -> None:
    """Nothing raises; Typst takes it, and finds no code in it."""
    compiled(typeset([(tex, True) for tex in texs]))


def compiled(formulas: list[Formula]) -> None:
    """Compile formulas with this Typst."""
    bodies = [formula.typst for formula in formulas if formula.typst]
    lines = [f"#let margin = 0pt\n{PAGE}"]
    lines += [f"#math.equation({body})" for body in bodies]
    typst.compile("\n".join(lines).encode())
