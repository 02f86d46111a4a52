"""Formulas become what MathJax shows, or stay TeX; never an exception."""

import re
from pathlib import Path

import pytest
import typst
from hypothesis import given, settings
from hypothesis import strategies as st

import typstpdf.mathml
from typstpdf.mathml import typeset

MATHJAX = Path(typstpdf.mathml.__file__).with_name("mathjax.js")
PAGE = MATHJAX.with_name("page.typ")
X = 'sign("x", "normal", math.italic)'
Y = X.replace("x", "y", 1)
WORD = 'sign("{}", "normal", math.upright)'
RED = f"text(math.inline({X}), fill: rgb(100%, 0%, 0%, 100%))"
ONE = [
    (r"x\kern-1em y", f"{X} h(-1em) {Y}"),
    (r"\text{#read(\"x\")} % not seen", WORD.format(r"#read(\"x\")")),
    (r"{x \over y}", f"math.frac({X}, {Y})"),
    (r"\textcolor{red}{x}", RED),
    (r"\newcommand{\z}{1}", ""),
    (r"\vec x", f'math.accent({X}, "→", size: 0%)'),
    (r"\hspace{999999cm}", "h(99em)"),
    (r"\def\z{\z\z}\z", None),
    (r"\frac{a", None),
    (r"\boxed{" * 9 + "}" * 9, None),
]
MACROS = [
    (r"\newcommand{\p}[2][x]{#1#2} \p{y}", f"{X} {Y}"),
    (r"\def\p(#1,#2){#2#1} \p(y,x)", f"{X} {Y}"),
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
        r"\eqref{b}, \ref{a}, \eqref{no}",
        r"\begin{equation} x \label{a} \end{equation}",
        r"\begin{equation} x \end{equation}",
        r"y \tag{7} \label{b}",
        r"z \tag*{P}",
        r"\begin{align} x &= 1 \tag{8} \\ y &= 2 \end{align}",
    ]
    found = typeset([(tex, True) for tex in texs])
    numbers = [None, "(1)", None, "(7)", "P", ""]
    assert [formula.number for formula in found] == numbers
    seen = re.findall(r'"(\(?[\w?]+\)?)", "n', found[0].typst)
    assert seen == ["(7)", "1", "(???)"]
    assert 'numbered("(8)", margin)' in found[5].typst


def test_rows_rules_and_unknown_commands() -> None:
    """One row may break over lines; what is unknown is named."""
    array = r"\begin{array}{c|r}a&b\\ \hline c&d\end{array}"
    row = r"\begin{align}x&y\end{align}"
    found = typeset([(t, True) for t in (array, row, r"\foo", r"\text{\x_}")])
    assert "augment: (vline: (1, ), hline: (1, )" in found[0].typst
    assert squeezed(found[1].typst) == f"{X} {Y}"
    assert [f.unknown for f in found] == [[], [], ["\\foo"], ["\\x"]]


# All names of MathJax's commands, among others.
NAMES = sorted(set(re.findall("[{,]([A-Za-z]{1,18}):", MATHJAX.read_text())))
SIGNS = [*"abx01+-=()[]|<>^_~'`#%&é☃\U0010fffd", r"\\", r"\unicode{7}"]
FORMS = ["{%s}", r"\left(%s\right]", r"\text{%s}", "_{%s}", r"\tag{%s}"]
FORMS += [r"\begin{array}{c|r}%s\end{array}", r"\def\a#1{%s}", r"\ce{%s}"]
FORMS += [r"\begin{align}%s\end{align}", r"\boxed{%s}", r"\sqrt[3]{%s}"]
FORMS += [r'\mmlToken{mo}[kind="x" minsize="-9em" class="%s"]{∑}']
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
    found = [formula.typst for formula in typeset([(t, True) for t in texs])]
    lines = [PAGE.read_text(), "#let margin = 0pt"]
    lines += [f"#math.equation({body})" for body in found if body]
    typst.compile("\n".join(lines).encode())
