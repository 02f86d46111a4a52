"""Any text a student can type comes out in the PDF, or is refused."""

import re

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from zoo import export, markdown, text

from submission.exporter import ExportError

SIGNS = [*"#*_[]()~`$\\{}@<>=-+/\"':;,.!?&%^|", "//", "/*", "*/", "$$", "\n"]
SIGNS += ["\n\n", "\n- ", "\n1. ", "\n# ", "\n> ", "    ", "```", "---", " "]
SIGNS += [
    "#let ",
    "#read(",
    "//",
    "https://",
    "\n| ",
    "é",
    "ß",
    "–",
    "“",
    "Ω",
]


@st.composite
def typed(draw: st.DrawFn) -> str:
    """Words between anything that means something to some language."""
    parts = draw(st.lists(st.sampled_from(SIGNS), min_size=1, max_size=14))
    return "".join(f"{sign}qw{i}z" for i, sign in enumerate(parts))


def visible(source: str) -> list[str]:
    """The words that Jupyter shows too: no link targets, no comments."""
    source = re.sub(r"\]\([^)]*\)|(?s:<!--.*?-->)", "", source)
    source = re.sub(r"(?m)^\W*\[[^\]]*\]:.*$", "", source)
    source = re.sub(r"(?m)```+[^`\n]*$", "", source)
    return re.findall(r"qw\d+z", source)


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
    try:
        shown = re.sub(r"[\s\u200b-]", "", text(export(markdown(source))))
    except ExportError as error:
        assert "cell 1" in str(error)
        return
    for word in visible(source):
        assert word in shown
