"""A notebook's cells as parts: text to print as it is, or HTML.

Markdown becomes the HTML that Jupyter shows: formulas are taken out before
and put back behind, in ``<script type="math/tex">`` with their delimiters.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape, unescape
from typing import Any

import mistune
from nbformat import NotebookNode

# Longer outputs are cut: nobody reads more on paper.
MAX_PRINTED = 30_000
PICTURES = ("svg+xml", "png", "jpeg", "gif", "webp")
PICTURES = (*(f"image/{kind}" for kind in PICTURES), "application/pdf")
# "<IPython.core.display.HTML object>" stands for something left out.
OBJECT = re.compile(
    r"\A<[\w.]+( (object( at 0x[0-9a-f]+)?|display_id=.*))?>\Z"
)
ANSI = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))"
)
SIGN = re.compile(rf"({ANSI.pattern})|(.)", re.DOTALL)
CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef]"
)
# What Jupyter takes for a formula, and where it does not look for one.
BODY = r"(?>\\.|\{(?:\\.|[^{}\\]|\{[^{}]*\})*\}|(?!\n\s*\n)[^$\\])+?"
ANY = r"(?:(?!\n\s*\n).)*?"
VERBATIM = r"""
    <!--.*?--> | \\[\\$`](?![(\[])
    | <(?P<tag>script|style|pre|code|textarea|svg|math)\b.*?</(?P=tag)\s*>
    | <[/a-zA-Z](?:"[^"]*"|'[^']*'|[^<>"'$])*>
"""
MARKDOWN = r"""
    | ^[ \t>]*(?P<fence>`{3,}|~{3,})[^\n`]*\n.*?(?:^[ \t>]*(?P=fence)|\Z)
    | (?<!`)(?P<ticks>`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)(?P=ticks)(?!`)
    | \]\([^()\s]*\)
"""
FORMULA = rf"""
    \$\${BODY}\$\$ | \${BODY}\$ | \\?\\\({ANY}\\?\\\) | \\?\\\[{ANY}\\?\\\]
    | \\begin\{{(?P<env>[a-zA-Z]+\*?)\}}{ANY}\\end\{{(?P=env)\}}
    | \\(?:eq)?ref\{{[^{{}}\n]+\}}
"""
FLAGS = re.VERBOSE | re.DOTALL | re.MULTILINE
IN_HTML = re.compile(f"(?P<skip>{VERBATIM})|(?P<tex>{FORMULA})", FLAGS)
IN_MARKDOWN = re.compile(
    f"(?P<skip>{VERBATIM}{MARKDOWN})|(?P<tex>{FORMULA})", FLAGS
)
TAKEN = re.compile("\ufdd0(\\d+)\ufdd1")
# A table's row may hold code or a formula with a bar, which ends no cell.
BAR = "\ufdd2"


@dataclass
class Part:
    """What stands on paper in one piece: a cell's source, or an output."""

    where: str  # names the cell to a person
    kind: str  # "html", "code", "stdout", "stderr" or "error"
    text: str
    # Of code: its language; whether an output follows.
    language: str = ""
    followed: bool = False
    pictures: dict = field(default_factory=dict)  # by name, MIME bundles
    lost: str = ""  # what a person should know about it
    source: str = ""  # of Markdown

    @property
    def html(self) -> str:
        """What is to be read as a browser would."""
        return self.text if self.kind == "html" else ""


class Renderer(mistune.HTMLRenderer):
    """Markdown to HTML; formulas taken out are put back into code."""

    def __init__(self, taken: list[str]) -> None:
        super().__init__(escape=False, allow_harmful_protocols=True)
        self.taken = taken

    def block_code(self, code: str, info: str | None = None) -> str:
        """Code, which holds no formulas."""
        return super().block_code(self._untaken(code), info)

    def codespan(self, text: str) -> str:
        """Code within a line."""
        return super().codespan(self._untaken(text))

    def block_html(self, html: str) -> str:
        """HTML, where a dollar may be escaped, too."""
        return super().block_html(html.replace("\\$", "$"))

    def _untaken(self, text: str) -> str:
        return TAKEN.sub(lambda m: self.taken[int(m[1])], text)


def render(markdown: str) -> str:
    """What Jupyter shows of a Markdown text: HTML."""
    taken: list[str] = []

    def take(found: re.Match) -> str:
        if found["skip"]:
            code = found["ticks"] and "\n" not in found[0]
            bars = found[0].replace("\\|", "|").replace("|", BAR)
            return bars if code else found[0]
        taken.append(found[0])
        return f"\ufdd0{len(taken) - 1}\ufdd1"

    text = IN_MARKDOWN.sub(take, CONTROL.sub(named, markdown))
    plugins = ["strikethrough", "table", "url", "task_lists"]
    parser = mistune.create_markdown(
        renderer=Renderer(taken), plugins=plugins
    )
    html = parser(text).replace(BAR, "|")
    return TAKEN.sub(lambda m: formula(taken[int(m[1])]), html)


def formula(tex: str) -> str:
    """A formula, with its delimiters, as it is marked in HTML."""
    tex = re.sub("(?i)</(?=script)", "< /", unescape(tex))
    return f'<script type="math/tex">{tex}</script>'


def with_formulas(html: str) -> str:
    """The HTML of an output with its formulas marked."""

    def mark(found: re.Match) -> str:
        if found["skip"]:
            return {"\\$": "$"}.get(found[0], found[0])
        return formula(found[0])

    return IN_HTML.sub(mark, html)


def named(found: re.Match) -> str:
    """A control character as a person writes it."""
    return f"\\x{ord(found[0]):02x}"


def show_cell(nb: NotebookNode, index: int) -> Iterator[Part]:
    """What a cell shows, from top to bottom."""
    cell, where = nb.cells[index], describe(nb, index)
    source_hidden, outputs_hidden = hidden(nb, cell)
    if source_hidden and (outputs_hidden or cell.cell_type != "code"):
        return
    kind, text = "stdout", cell.source
    if cell.cell_type == "raw":
        mime = cell.metadata.get("raw_mimetype", cell.metadata.get("format"))
        if mime in ("text/html", "text/markdown"):
            kind = "html"
            text = text if mime == "text/html" else render(text)
        elif re.fullmatch(r"\s*(\\\w+\s*)+", text):
            kind, text = "html", f"<p>{escape(text)}</p>"
    elif cell.cell_type == "markdown":
        kind, text = "html", render(cell.source)
    if cell.cell_type != "code":
        attached = cell.get("attachments", {})
        yield Part(where, kind, text, pictures=attached, source=cell.source)
        return
    outputs = [] if outputs_hidden else joined(cell.outputs)
    shown = [part for out in outputs for part in show_output(out, where)]
    if not source_hidden:
        language = nb.metadata.get("language_info", {}).get("name", "python")
        text = cell.source.strip("\n").rstrip()
        above = any(part.text for part in shown)
        yield Part(where, "code", text, str(language), above)
    yield from shown


def hidden(nb: NotebookNode, cell: NotebookNode) -> tuple[bool, bool]:
    """Whether a cell's source and its outputs are not to be seen."""
    about, tagged = cell.metadata, tags(cell)
    folded = about.get("jupyter", {})
    whole = bool({"remove_cell", "hide_cell"} & tagged)
    if cell.cell_type != "code":
        return whole, whole
    source = (
        {"remove_input", "hide_input"} & tagged
        or folded.get("source_hidden")
        or about.get("hide_input")
        or about.get("hide_code")
        or nb.metadata.get("hide_input")
    )
    outputs = (
        {"remove_output", "hide_output"} & tagged
        or folded.get("outputs_hidden")
        or about.get("hide_output")
    )
    return whole or bool(source), whole or bool(outputs)


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs, those of one stream in one piece."""
    kept: list[NotebookNode] = []
    for out in outputs:
        last = kept[-1] if kept else {}
        if out.output_type == "stream" and out.name == last.get("name"):
            kept[-1] = NotebookNode(last, text=last.text + out.text)
        else:
            kept.append(out)
    return kept


def show_output(out: NotebookNode, where: str) -> Iterator[Part]:
    """One output of a cell, in the best form that paper can show."""
    if out.output_type == "stream":
        kind = "stderr" if out.name == "stderr" else "stdout"
        yield printed(where, kind, out.text)
        return
    if out.output_type == "error":
        yield printed(where, "error", "\n".join(out.traceback))
        return
    data: dict[str, Any] = out.data
    for mime in PICTURES:
        if mime in data:
            about = out.metadata.get(mime)
            about = about if isinstance(about, dict) else {}
            size = " ".join(
                f'{side}="{escape(str(about[side]))}"'
                for side in ("width", "height")
                if about.get(side)
            )
            alt = escape(str(about.get("alt") or ""))
            html = f'<img src="attachment:" alt="{alt}" {size}>'
            if alt:
                html += f"<figcaption>{alt}</figcaption>"
            kind = "figure" if alt else "center"
            html = f"<{kind}>{html}</{kind}>"
            bundle = {"": {mime: data[mime]}}
            yield Part(where, "html", html, pictures=bundle)
            return
    others = [mime for mime in data if mime != "text/plain"]
    html = str(data.get("text/html", ""))
    # What sklearn and xarray unfold by a click they say in plain text, too.
    if visible(html) and "text-repr-fallback" not in html:
        yield Part(where, "html", with_formulas(html))
    elif "text/markdown" in data:
        yield Part(where, "html", render(data["text/markdown"]))
    elif "text/latex" in data:
        html = with_formulas(escape(data["text/latex"], quote=False))
        yield Part(where, "html", html)
    elif "application/json" in data:
        text = json.dumps(data["application/json"], indent=2)
        yield printed(where, "stdout", text)
    else:
        part = printed(where, "stdout", str(data.get("text/plain", "")))
        if others and "text-repr-fallback" not in html:
            kinds = ", ".join(others)
            part.lost = f"an output for a browser ({kinds}) is not printed"
            if not part.text:
                part.kind, part.text = "html", f"<p><em>{kinds}</em></p>"
        yield part


def visible(html: str) -> bool:
    """Whether a browser shows anything of it without running scripts."""
    html = re.sub(r"(?is)<!--.*?-->|<(script|style)\b.*?</\1\s*>", "", html)
    shown = r"(?i)<(img|svg|hr|iframe|embed|object|video|audio|canvas)\b"
    text = re.sub(r"<[^>]*>", "", html)
    return bool(text.strip() or re.search(shown, html))


def printed(where: str, kind: str, text: str) -> Part:
    """An output of plain text, as a terminal would leave it."""
    if re.search("[\r\b\x1b]", text):
        text = terminal(text)
    text = OBJECT.sub("", text.rstrip())
    return Part(where, kind, shorten(text, MAX_PRINTED))


def terminal(text: str) -> str:
    """What is left of a text on a terminal, with its colours.

    Carriage returns, backspaces and the cursor's ways are followed.
    """
    rows: list[list[tuple[str, str]]] = [[]]
    row, column, style = 0, 0, ""
    for code, sign in SIGN.findall(text):
        steps = int(number[0]) if (number := re.findall(r"\d+", code)) else 1
        if sign == "\n":
            row, column = row + 1, 0
            rows += [[]] * 0 if row < len(rows) else [[]]
        elif sign == "\r":
            column = 0
        elif sign == "\b":
            column = max(column - 1, 0)
        elif sign:
            line = rows[row]
            line += [("", " ")] * (column - len(line))
            line[column : column + 1] = [(style, sign)]
            column += 1
        elif code.endswith("m"):
            style = "" if re.search(r"\[0*m", code) else style + code
        elif code.endswith("A"):
            row = max(row - steps, 0)
        elif code.endswith("K"):
            del rows[row][0 if "2" in code else column :]
    lines = []
    for line in rows:
        before, pieces = "", []
        for style, sign in line:
            if style != before:
                pieces.append(f"\x1b[0m{style}")
            pieces.append(sign)
            before = style
        lines.append("".join(pieces) + ("\x1b[0m" if before else ""))
    return "\n".join(lines)


def section(nb: NotebookNode, index: int) -> str:
    """The nearest heading above a cell, as plain text ('' if none)."""
    for cell in reversed(nb.cells[: index + 1]):
        if cell.cell_type == "markdown":
            prose = re.sub(r"(?ms)^(```|~~~).*?^\1", "", cell.source)
            headings = re.findall(r"(?m)^ {0,3}#{1,6}[ \t]+(.+)$", prose)
            if headings:
                own = cell is nb.cells[index]
                return headings[0 if own else -1].strip(" #*\t")
    return ""


def describe(nb: NotebookNode, index: int) -> str:
    """Name a cell so that a person finds it: place, section, first line."""
    lines = nb.cells[index].source.strip().splitlines() or [""]
    first = lines[0][:40] + ("…" if len(lines[0]) > 40 else "")
    heading = section(nb, index)
    where = f'section "{heading}", ' if heading else ""
    return f'cell {index + 1} ({where}"{first}")'


def shorten(text: str, limit: int) -> str:
    """Cut the middle out of an overlong text and say so."""
    if len(text) <= limit:
        return text
    half = limit // 2
    left_out = len(text) - 2 * half
    return (
        f"{text[:half]}\n[… {left_out:,} characters left out here …]\n"
        f"{text[-half:]}"
    )


def tags(cell: NotebookNode) -> set[str]:
    """The cell's tags; Jupyter writes hide-input, others hide_input."""
    return {tag.replace("-", "_") for tag in cell.metadata.get("tags", [])}
