"""A notebook's cells as HTML, which is what Jupyter shows of them.

nbconvert's renderer turns Markdown into HTML, an output brings its own, and
all else is preformatted text.
"""

import re
from html import escape
from urllib.parse import unquote

from bs4 import BeautifulSoup, Tag
from nbconvert.filters import markdown_mistune
from nbformat import NotebookNode

# Longer outputs are cut: nobody reads more on paper.
MAX_PRINTED = 30_000
PICTURES = ("svg+xml", "png", "jpeg", "gif", "webp")
PICTURES = (*(f"image/{kind}" for kind in PICTURES), "application/pdf")
MEDIA = ("iframe", "embed", "object", "video", "audio")
# "<IPython.core.display.HTML object>" stands for something left out.
OBJECT = re.compile(r"\A<[\w.]+ (object( at 0x[0-9a-f]+)?|display_id=.*)>\Z")
ANSI = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))"
)
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
TEX = re.compile(r"(?s)(?<!\\)\$\$(.+?)\$\$|(?<!\\)\$([^$\n]+)\$")
BLANK = ':is(style,title,pre:empty,script:not([type^="math/tex"])):not(svg *)'


class Renderer(markdown_mistune.IPythonRenderer):
    """Jupyter's Markdown as HTML that pandoc understands."""

    def inline_math(self, body: str, kind: str = "math/tex") -> str:
        """Pandoc knows a formula by the mark that MathJax once gave it."""
        return f'<script type="{kind}">{body.replace("</", "< /")}</script>'

    def block_math(self, body: str) -> str:
        """A displayed formula."""
        return self.inline_math(body, "math/tex; mode=display")

    def latex_environment(self, name: str, body: str) -> str:
        r"""A formula in ``\begin`` and ``\end`` instead of dollars."""
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def block_html(self, html: str) -> str:
        """HTML; Jupyter finds formulas in it, too."""
        block, inline = self.block_math, self.inline_math
        return TEX.sub(lambda m: block(m[1]) if m[1] else inline(m[2]), html)

    def block_code(self, code: str, info: str | None = None) -> str:
        """Code for Typst to colour, below a language that nobody knows."""
        html = BeautifulSoup(super().block_code(code, info), "html5lib")
        language = (info or "").strip().partition(" ")[0]
        return preformatted(html.get_text().rstrip(), language)

    def _embed_image_or_attachment(self, src: str) -> str:
        return src  # looked for in all HTML alike, later


def render(markdown: str) -> str:
    """What Jupyter shows of a Markdown text: HTML."""
    renderer = Renderer(escape=False, exclude_anchor_links=True)
    return markdown_mistune.MarkdownWithMath(renderer).render(markdown)


def preformatted(text: str, kind: str) -> str:
    """Code in a language, or an output as the template calls it."""
    return f'<pre class="{escape(kind)}">\n{escape(text)}</pre>'


def parse(html: str, where: str, attachments: dict | None = None) -> Tag:
    """HTML as a browser reads it, without what it does not show.

    The attribute ``where`` of the whole names the cell to a person.
    """
    html = CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", html)
    body = BeautifulSoup(f"<body>{html}", "html5lib").body
    body.attrs = {"where": where}
    for tag in body.select(BLANK):
        tag.decompose()
    for tag in body.select('img[src^="attachment:"]'):
        name = unquote(tag["src"].removeprefix("attachment:"))
        for data in (attachments or {}).get(name, {}).values():
            tag["src"] = "data:," + data.replace("%", "%25")
    return body


def words(tag: Tag) -> str:
    """What a tag says, in one line."""
    return " ".join(tag.get_text(" ").split())


def show_cell(nb: NotebookNode, index: int) -> list[Tag]:
    """What a cell shows, from top to bottom."""
    cell, where = nb.cells[index], describe(nb, index)
    language = nb.metadata.get("language_info", {}).get("name", "python")
    hidden = {tag.replace("hide_", "remove_") for tag in tags(cell)}
    if "remove_cell" in hidden:
        return []
    if cell.cell_type == "markdown":
        return [parse(render(cell.source), where, cell.get("attachments"))]
    if cell.cell_type == "raw":
        return [parse(preformatted(cell.source, "out-stdout"), where)]
    outputs = [show_output(out, where) for out in cell.outputs]
    outputs *= "remove_output" not in hidden
    if "remove_input" not in hidden:
        above = "above-" if any(out.contents for out in outputs) else ""
        code = preformatted(cell.source.strip(), above + language)
        outputs.insert(0, parse(code, where))
    return outputs


def show_output(out: NotebookNode, where: str) -> Tag:
    """One output of a cell, in the best form that paper can show."""
    if out.output_type == "stream":
        return printed(out.text, f"out-{out.name}", where)
    if out.output_type == "error":
        return printed("\n".join(out.traceback), "out-error", where)
    for mime in PICTURES:
        if mime in out.data:
            about = out.metadata.get(mime) or {}
            alt = escape(str(about.get("alt") or ""))
            width = escape(str(about.get("width")))
            html = f'<img src="attachment:" alt="{alt}" width="{width}">'
            html += f"<figcaption>{alt}</figcaption>" if alt else ""
            kind = "figure" if alt else "center"
            picture = {"": {mime: out.data[mime]}}
            return parse(f"<{kind}>{html}</{kind}>", where, picture)
    for mime in ("text/html", "text/markdown", "text/latex"):
        text = out.data.get(mime, "")
        piece = parse(text if mime == "text/html" else render(text), where)
        if words(piece) or piece(["img", "svg", "hr", *MEDIA]):
            return piece
    piece = printed(out.data.get("text/plain", ""), "out-stdout", where)
    if re.search("javascript|widget|html", " ".join(out.data)):
        piece["lost"] = "of an output for a browser only the text is printed"
    return piece


def printed(text: str, kind: str, where: str) -> Tag:
    """An output of plain text."""
    text = OBJECT.sub("", ANSI.sub("", text).rstrip())
    text = shorten(text, MAX_PRINTED)
    return parse(preformatted(text, kind), where)


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
