"""A notebook's cells as HTML, with what Jupyter shows and nothing else.

Formulas are taken out of Markdown and HTML before anything else reads them,
and put back as ``<tex>``, with their delimiters.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator
from html import escape, unescape
from itertools import groupby
from urllib.parse import unquote

import mistune
from bs4 import BeautifulSoup
from mistune.plugins.table import table_in_list, table_in_quote
from nbconvert.filters import ansi2html, get_metadata
from nbformat import NotebookNode

# Longer outputs are cut: nobody reads more on paper.
MAX_PRINTED = 30_000
IMAGES = ["image/svg+xml", "image/png", "image/jpeg", "image/gif"]
IMAGES += ["image/webp", "application/pdf"]
MEDIA = ["iframe", "embed", "object", "video", "audio", "canvas"]
# "<IPython.core.display.HTML object>" stands for something left out.
OBJECT = r"\A<[\w.]+( (object( at 0x[0-9a-f]+)?|display_id=.*))?>\Z"
# What a terminal overwrites, and links that it does not show. What stands
# below the line to which the cursor goes back may stay.
GONE = re.compile(
    r"(?m)(?:^|(?<=\x1b\[A))[^\n]*\n(?:([^\n]*)\x1b\[A([^\n]*\n)(?!\r)"
    r"|[^\n]*\x1b\[A)|^[^\n]*\r(?=[^\n])"
    r"|[^\n\x08]\x08|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x07|\x1b\(B"
)
FENCED = re.compile(r"(?ms)^(```|~~~).*?^\1")
HEADING = re.compile(r"(?m)^ {0,3}#{1,6}[ \t]+(.+)$")
NAMESPACE = re.compile(r"""\sxmlns(:xlink)?=("[^"]*"|'[^']*')""")
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" '
NAMESPACES += 'xmlns:xlink="http://www.w3.org/1999/xlink"'
CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    "\ufffe\uffff]"
)
# What Jupyter takes for a formula, and where it does not look for one.
BODY = r"(?>\\.|\{(?:\\.|[^{}\\]|\{[^{}]*\})*\}|(?!\n\s*\n)[^$\\])+?"
ANY = r"(?:(?!\n\s*\n).)*?"
PIECE = rf"""
    <!--.*?--> | \\[\\`](?![(\[]) | \]\([^()\s]*\)
    | <(?P<tag>script|style|pre|code|textarea|svg|math)\b.*?</(?P=tag)\s*>
    | <[/a-zA-Z](?:"[^"]*"|'[^']*'|[^<>"'$])*>
    | ^[ \t>]*(?P<fence>`{{3,}}|~{{3,}})[^\n`]*\n.*?(?:^[ \t>]*(?P=fence)|\Z)
    | (?<!`)(?P<ticks>`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)(?P=ticks)(?!`)
    | (?P<page>^[ ]{{0,3}}\\(?:newpage|clear(?:double)?page
        |pagebreak(?:\[\d\])?)[ \t]*$)
    | (?P<tex>\\\$ | \$\${BODY}\$\$ | \${BODY}\$
        | \\?\\\({ANY}\\?\\\) | \\?\\\[{ANY}\\?\\\]
        | \\begin\{{(?P<env>[a-zA-Z]+\*?)\}}{ANY}\\end\{{(?P=env)\}}
        | \\(?:eq)?ref\{{[^{{}}\n]+\}})
"""
PIECE = re.compile("(?xsm)" + PIECE)
# In HTML, a formula ends with the tag that it stands in, as R's "$a" does.
IN_HTML = re.compile(PIECE.pattern.replace(r"\n\s*\n", r"</?[a-zA-Z]"))
TAKEN = re.compile("\ufdd0(\\d+)\ufdd1")
# A table's row may hold code with a bar, which ends no cell.
BAR = "\ufdd2"
PAGE = '<div style="break-after: page"></div>'
HIDDEN_OUTPUT = {"remove_output", "hide_output", "outputs_hidden"}
HIDDEN_SOURCE = {"remove_input", "hide_input", "hide_code", "source_hidden"}
MARKDOWN = mistune.create_markdown(
    renderer=mistune.HTMLRenderer(False, allow_harmful_protocols=True),
    plugins=["strikethrough", "table", "url", "task_lists"],
)
table_in_list(MARKDOWN)
table_in_quote(MARKDOWN)


def show_cell(nb: NotebookNode, index: int) -> Iterator[str]:
    """What a cell shows, from top to bottom."""
    cell = nb.cells[index]
    # Its tags, and what its metadata say yes to, in one spelling.
    marks = tags(cell)
    folded = cell.metadata.get("jupyter") or {}
    for place in (nb.metadata, cell.metadata, folded):
        marks |= {name for name, value in place.items() if value}
    if marks & {"remove_cell", "hide_cell"}:
        return
    if cell.cell_type != "code":
        yield prose(cell)
        return
    outputs = [] if marks & HIDDEN_OUTPUT else cell.outputs
    # Those of one stream, in one piece.
    runs = groupby(outputs, key=lambda out: out.get("name", object()))
    shown = [html for _, run in runs if (html := show_output([*run]))]
    if cell.source.strip() and not marks & HIDDEN_SOURCE:
        language = nb.metadata.get("language_info", {}).get("name", "python")
        html = f'<code class="{escape(str(language))}">{escape(cell.source)}'
        followed = "followed" if shown else ""
        yield f'<pre class="{followed}">{html}</code></pre>'
    yield from shown


def prose(cell: NotebookNode) -> str:
    """A cell that is no code."""
    mime = cell.metadata.get("raw_mimetype", cell.metadata.get("format"))
    if mime == "text/html":
        return cell.source
    html = render(cell.source, MARKDOWN)
    # A raw cell may do nothing but ask for a new page.
    if cell.cell_type == "raw" and mime != "text/markdown":
        return html if html.strip() == PAGE else printed(cell.source)

    def attached(found: re.Match) -> str:
        bundle = cell.get("attachments", {}).get(unquote(found[1]), {})
        return next(map(address, bundle.values()), found[0])

    return re.sub(r'(?<=src=")attachment:([^"]*)', attached, html)


def address(data: str) -> str:
    """A picture of the notebook, base64 or SVG, as an address of its own."""
    data = str(data).strip()
    if data.startswith("<"):
        data = NAMESPACE.sub("", data).replace("&nbsp;", "\xa0")
        data = data.replace("<svg", f"<svg {NAMESPACES}", 1)
        data = base64.b64encode(data.encode(errors="replace")).decode()
    return f"data:;base64,{escape(data)}"


def render(source: str, parser: Callable[[str], str] = str) -> str:
    """What Jupyter shows of Markdown or HTML, with its formulas marked."""
    taken: list[str] = []

    def take(found: re.Match) -> str:
        if found["page"]:
            return PAGE
        if found["ticks"] and "\n" not in found[0]:
            return found[0].replace("\\|", "|").replace("|", BAR)
        if not found["tex"]:
            return found[0]
        taken.append(f"<tex>{escape(unescape(found[0]))}</tex>")
        return f"\ufdd0{len(taken) - 1}\ufdd1"

    pattern = IN_HTML if parser is str else PIECE
    html = parser(pattern.sub(take, CONTROL.sub(named, source)))
    html = html.replace(BAR, "|")
    return TAKEN.sub(lambda found: taken[int(found[1])], html)


def named(found: re.Match) -> str:
    """A control character as a person writes it."""
    return f"\\x{ord(found[0]):02x}"


def show_output(run: list[NotebookNode]) -> str:
    """An output, or those of one stream, in the form that Jupyter prefers."""
    out = run[0]
    if out.output_type == "stream":
        return printed("".join(out.text for out in run), out.name)
    if out.output_type == "error":
        return printed("\n".join(out.traceback), "error")
    data = dict(out.data)
    images = [mime for mime in IMAGES if mime in data]
    html = str(data.get("text/html", ""))
    page = BeautifulSoup(html, "html.parser")
    seen = ["img", "svg", "hr", *([] if images else MEDIA)]
    # What sklearn and xarray unfold by a click they say in plain text, too.
    folded = "text-repr-fallback" in html
    if not folded and (page.get_text(strip=True) or page.find(seen)):
        return render(html)
    # Of styles and the like a browser shows nothing either.
    if folded or not page.find(["script", "input", "button", "select"]):
        data.pop("text/html", None)
    if "text/markdown" in data:
        return render(data["text/markdown"], MARKDOWN)
    if "text/latex" in data:
        return render(escape(data["text/latex"], quote=False))
    if images:
        alt, *size = (
            escape(str(get_metadata(out, name, images[0]) or ""))
            for name in ("alt", "width", "height")
        )
        html = f'<img src="{address(data[images[0]])}" alt="{alt}" '
        html += 'width="{}" height="{}">'.format(*size)
        below = f"<figcaption>{alt}</figcaption>" if alt else ""
        return f"<figure>{html}{below}</figure>"
    if "application/json" in data:
        return printed(json.dumps(data["application/json"], indent=2))
    text = str(data.pop("text/plain", "")).rstrip()
    plain = printed(re.sub(OBJECT, "", text))
    others = escape(", ".join(data))
    note = f'<object type="{others}">{"" if plain else others}</object>'
    return f"{plain}<p>{note}</p>" if others else plain


def printed(text: str, kind: str = "stdout") -> str:
    """An output of plain text, as a terminal would leave it."""
    while (left := GONE.sub(r"\2\1", text)) != text:
        text = left
    text = text.replace("\b", "").rstrip()
    if (left_out := len(text) - MAX_PRINTED) > 0:
        half = MAX_PRINTED // 2
        note = f"\n[… {left_out:,} characters left out here …]\n"
        text = text[:half] + note + text[-half:]
    # A browser would take a line break at the start for none.
    html = ansi2html(text)
    return f'<pre class="{escape(kind)}">\n{html}</pre>' if text else ""


def tags(cell: NotebookNode) -> set[str]:
    """A cell's tags; Jupyter writes hide-input, others hide_input."""
    found = cell.metadata.get("tags") or []
    return {str(tag).replace("-", "_") for tag in found}


def describe(nb: NotebookNode, index: int) -> str:
    """Name a cell so that a person finds it: place, section, first line."""
    headings = (
        HEADING.findall(FENCED.sub("", cell.source))
        for cell in reversed(nb.cells[: index + 1])
        if cell.cell_type == "markdown"
    )
    nearest = next(filter(None, headings), None)
    section = f'section "{nearest[-1].strip(" #*	")}", ' if nearest else ""
    first = nb.cells[index].source.strip().partition("\n")[0]
    first = first[:40] + "…" * (len(first) > 40)
    return f'cell {index + 1} ({section}"{first}")'
