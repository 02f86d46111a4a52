"""Formulas become what MathJax shows, or stay TeX; never an exception."""

import re

import pytest
import typst
from hypothesis import given, settings
from hypothesis import strategies as st

from typstpdf.tex import KNOWN, typeset

ONE = [
    (r"a\!b", "a #h(-0.1667em); b"),
    (r"\displaystyle x", "#math.display($x$);"),
    (r"\int\limits_0^1", "#math.limits($integral$);_0^1"),
    (r"a\&b % not seen", 'a"&"b'),
    (r"\text{if $x>0$, \#read(\"x\")}", r'"if "x > 0", #read(\\\"x\\\")"'),
    (r"{a \over b}", "#math.frac($a$, $b$);"),
    (r"\textcolor{red}{x}", "#text(fill: rgb(100%, 0%, 0%), $x$);"),
    (r"\color{#1+1}x", "#text(fill: rgb(0%, 0%, 0%), $x$);"),
    (r"\{|x|\}", r"\{\|x\|\}"),
    (r"\left.x\right|_a", r"#math.lr($ x \|$);_a"),
    (r"a\label{x}", "a"),
    (r"\newcommand{\z}{1}", ""),
    (r"\ket{\psi}", r"\|psi chevron.r"),
    (r"a\cap b\otimes c", "a ∩ b ⊗ c"),
    (r"\nosuchcommand", None),
    (r"\def\z{\z\z}\z", None),
    (r"\frac{a", None),
]
MACROS = [
    (r"\newcommand{\p}[2][x]{#1_{#2}} \p{1}", "x_1"),
    (r"\newcommand\half{\frac12} x^\half", "x^(1 / 2)"),
    (r"\def\p(#1,#2){#2#1} \p(a,b)", "b a"),
    (r"\let\eps\varepsilon \eps", "epsilon"),
    (r"\DeclareMathOperator{\KL}{KL} \KL", '#math.op("KL", limits: false);'),
    (r"\def\be{\begin{math}}\be a\end{math}", "#math.display($a$);"),
    (r"\newenvironment{q}[1]{#1(}{)}\begin{q}{a}b\end{q}", r"a \( b \)"),
]


@pytest.mark.parametrize(("tex", "expected"), ONE + MACROS)
def test_one_formula(tex: str, expected: str | None) -> None:
    """A formula by itself."""
    if expected is not None:
        expected = expected.replace(r"\\\"", r"\"")
    found = typeset([(tex.replace(r"\"", '"'), False)])[0].typst
    assert found is None if expected is None else squeezed(found) == expected


def squeezed(typst: str) -> str:
    """Without the blanks beside braces, which mean nothing."""
    return re.sub(r" ?(\\[{}]) ?", r"\1", typst)


def test_a_macro_holds_until_it_is_defined_anew() -> None:
    """Definitions are read in order, from hidden formulas too."""
    texs = [r"\def\R{r}", r"\R", r"\renewcommand{\R}{s}", r"\R"]
    found = [formula.typst for formula in typeset([(t, True) for t in texs])]
    assert found == ["", "r", "", "s"]


def test_numbers_and_references() -> None:
    """A label means its formula's number, wherever it is."""
    texs = [
        (r"\eqref{b}, \ref{a}, \eqref{no}", False),
        (r"\begin{equation} x \label{a} \end{equation}", True),
        (r"y \tag{7} \label{b}", True),
        (r"z \tag*{P}", True),
        (r"\begin{align} x &= 1 \tag{8} \\ y &= 2 \end{align}", True),
    ]
    found = typeset(texs)
    assert [f.number for f in found] == ["", "(1)", "(7)", "P", ""]
    assert re.findall('"(.*?)"', found[0].typst) == ["(7)", "1", "(???)"]
    assert '"(8)"' in found[4].typst


def test_rows_and_rules() -> None:
    """An array keeps its columns' rules; one row may break over lines."""
    array = r"\begin{array}{c|r}a&b\\ \hline c&d\end{array}"
    row = r"\begin{align}a&=b\end{align}"
    found = [
        formula.typst for formula in typeset([(array, True), (row, True)])
    ]
    assert "augment: (vline: (1,), hline: (1,)" in found[0]
    assert found[1] == "a = b"


NAMES = [n for k in ("signs", "typst", "styles", "texts") for n in KNOWN[k]]
TOKENS = [f"\\{name}" for name in NAMES] + [*'{}[]$&^_#"%|/ab1 `é']
TOKENS += [r"\\", r"\left(", r"\right)", r"\begin{cases}", r"\end{cases}"]
TOKENS += [r"\def\a#1{", r"\a", r"\tag{#x}", r'\text{#read("x")}', r"\over"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from(TOKENS), max_size=9), max_size=40))
def test_any_tex_is_set_or_stays_tex(tokens: list[list[str]]) -> None:
    """Nothing raises, and nothing but what this package wrote is code."""
    for formula in typeset([("".join(t), True) for t in tokens]):
        words = re.sub(r'"(?:[^"\\]|\\.)*"|\\.', "", formula.typst or "")
        calls = re.findall(r"#(?!\$)([a-z.]*)", words)
        assert {call.split(".")[0] for call in calls} <= {
            "math", "h", "box", "text", "hide"
        }  # fmt: skip


def test_typst_accepts_the_table() -> None:
    """Every command of the table compiles with this Typst."""
    texs = [f"\\{n}{{a}}{{b}}{{c}}" for n in NAMES]
    texs += [rf"\left{d} x \right." for d in KNOWN["delimiters"]]
    found = [formula.typst for formula in typeset([(t, True) for t in texs])]
    assert None not in found
    typst.compile("\n".join(f"$ {t} $" for t in found).encode())
