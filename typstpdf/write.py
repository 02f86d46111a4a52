"""HTML as calls of Typst functions.

Nothing of a notebook becomes Typst source: `call` writes names that stand in
this package, and its arguments as numbers, as content that it wrote before,
or as string literals.
"""

import base64
import contextlib
import json
import re
from collections.abc import Iterable
from html import escape
from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote

import tinycss2.color4
from bs4 import BeautifulSoup, NavigableString, Tag
from bs4.element import PreformattedString

from typstpdf.cells import CONTROL, MEDIA, named
from typstpdf.formulas import Formula
from typstpdf.looks import HIDDEN, Look, look_of

PICTURE_FILE = re.compile(r"(?i).+\.(pdf|svg|png|jpe?g|gif|webp)")
LINK = re.compile(r"(?i)(https?|ftp|mailto):.|[^:#]+([/?#]|$)")
FOREIGN = re.compile(r"(?s)<foreignObject\b([^>]*)>(.*?)</foreignObject>")
# A colour, and its place in a gradient.
STOP = re.compile(r"([#\w-]+(?:\([^)]*\))?)(?:\s+([\d.]+)%)?")
LENGTH = re.compile(r"([1-9]\d{0,4}(?:\.\d+)?)(px|pt|em|cm|mm|in|%)?")
LANGUAGE = re.compile(r"[{.]*(?:i(?=python))?([a-z+#]+(?:-[a-z+#]+)*)")
PAGES = ("always", "page", "left", "right", "recto", "verso")
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
METHODS = dict.fromkeys(MEDIA, "medium") | {"img": "picture"}
METHODS |= {"ul": "items", "ol": "items", "menu": "items"}
METHODS |= {"table": "table", "pre": "preformatted"}
CELLS = ["td", "th"]
MONO = ("code", "tt", "samp", "kbd")
# Typst's functions for tags, and those of page.typ.
FUNCTIONS = dict.fromkeys(("b", "strong"), "strong")
FUNCTIONS |= dict.fromkeys(("i", "em", "cite", "var", "dfn"), "emph")
FUNCTIONS |= dict.fromkeys(("u", "ins"), "underline")
FUNCTIONS |= dict.fromkeys(("s", "strike", "del"), "strike")
FUNCTIONS |= {"sub": "sub", "sup": "super", "q": "quote", "dd": "indented"}
LINES = {"underline": "underline", "line-through": "strike"}
# The size of a font; Jupyter's own has 14 pixels.
SIZE = re.compile(r"(\d{0,3}\.?\d+)?([a-z%-]+)")
SIZES = {"px": 1 / 14, "pt": 2 / 21, "em": 1, "rem": 1, "%": 0.01}
SIZES |= {"x-small": 0.75, "smaller": 0.83, "small": 0.9, "large": 1.2}
SIZES |= {"larger": 1.2, "x-large": 1.5, "xx-large": 2}
NUMBERINGS = {"lower-alpha": "a", "lower-latin": "a", "lower-roman": "i"}
NUMBERINGS |= {"upper-alpha": "A", "upper-latin": "A", "upper-roman": "I"}
WEIGHTS = dict.fromkeys(("bold", "bolder", "600", "700", "800"), 700)
WEIGHTS |= {"normal": 400, "400": 400}


class Typst(str):
    """Typst source that this package has written."""


EMPTY = Typst("[]")
SPACE = Typst("[ ]")
PARAGRAPH = Typst("parbreak()")
NEW_PAGE = Typst("colbreak(weak: true)")
PLACES = ("left", "center", "right", "start", "end")
PLACES = {place: Typst(place) for place in PLACES}


def literal(value: object) -> str:
    """A value as Typst; a text is a string literal and nothing else."""
    if isinstance(value, Typst):
        return value
    if isinstance(value, str):
        value = CONTROL.sub(named, value)
    if isinstance(value, list):
        return f"({''.join(literal(item) + ', ' for item in value)})"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def call(name: str, *values: object, **options: object) -> Typst:
    """A call of a Typst function."""
    items = [literal(value) for value in values]
    for key, value in options.items():
        if value is not None:
            items.append(f"{key.replace('_', '-')}: {literal(value)}")
    return Typst(f"{name}({', '.join(items)})")


def join(pieces: Iterable[str | bool | None]) -> Typst:
    """Content, piece by piece."""
    lines = [literal(p) for p in pieces if p and p != EMPTY]
    if len(lines) < 2:
        return Typst(lines[0]) if lines else EMPTY
    return Typst("{\n" + "\n".join(lines) + "\n}")


def words(tag: Tag) -> str:
    """What a tag says in one line, without its formulas."""
    said = (text for text in tag.strings if text.parent.name != "tex")
    return " ".join("".join(said).split())


def length(value: str) -> Typst | None:
    """A length of CSS; a pixel is 1/96 inch."""
    if not (found := LENGTH.fullmatch(value)):
        return None
    pixels = found[2] in ("px", None)
    return Typst(f"{0.75 * float(found[1]):g}pt" if pixels else value)


def em(number: float) -> Typst:
    """A length that grows with the text."""
    return Typst(f"{number:.4f}em")


def size(value: str) -> Typst | None:
    """The size of a font, as a part of what is around it."""
    found = SIZE.fullmatch(value)
    factor = found and float(found[1] or 1) * SIZES.get(found[2], 0)
    return Typst(f"{min(max(factor, 0.4), 6):.3g}em") if factor else None


def borders(look: Look) -> Typst | None:
    """The lines around something."""
    sides = {}
    for side in ("left", "right", "top", "bottom"):
        line = look.get(f"border-{side}", look.get("border", ""))
        if re.search("solid|dashed|dotted|double", line):
            parts = line.split(" ", 2)
            wide = next(filter(None, map(length, parts)), None)
            ink = colour(parts[-1])
            sides[side] = call("stroke", thickness=wide, paint=ink)
    return call("", **sides) if sides else None


def colour(value: str) -> Typst | None:
    """A colour of CSS; None if there is none to see."""
    found = tinycss2.color4.parse_color(value)
    if found is None or isinstance(found, str):
        return None
    parts = [min(max(part or 0, 0), 1) for part in found.to("srgb")]
    percent = (Typst(f"{100 * part:.4g}%") for part in parts)
    return call("rgb", *percent) if parts[3] else None


def fill(look: Look) -> Typst | None:
    """What stands behind something: a colour, or a bar."""
    value = look.get("background", look.get("bgcolor", ""))
    found = STOP.findall(value.removeprefix("linear-gradient("))
    stops = [(min(float(at), 100), name) for name, at in found if at]
    stops.sort(key=lambda stop: stop[0])
    if not stops:
        return next((ink for name, _ in found if (ink := colour(name))), None)
    bar = []
    for place, name in [(0, stops[0][1]), *stops, (100, stops[-1][1])]:
        ink = colour(name) or call("rgb", "#fff0")
        bar.append(Typst(f"({ink}, {place:g}%)"))
    return call("gradient.linear", *bar)


def framed(function: str, body: Typst, look: Look) -> Typst:
    """Contents on their ground, with the lines around them."""
    ground, edge = fill(look), borders(look)
    if not ground and not edge:
        return body
    return call(function, body, fill=ground or Typst("none"), stroke=edge)


def dressed(tag: Tag, body: Typst, look: Look) -> Typst:
    """Contents in their colours, in their place."""
    shown, floats = look.get("display", ""), look.get("float")
    cell = tag.name in (*CELLS, "li")
    block = not cell and shown in ("block", "flex", "grid", "table")
    style = look.get("font-style")
    text = {
        "fill": colour(look.get("color", "")),
        "size": size(look.get("font-size", "")),
        "weight": WEIGHTS.get(look.get("font-weight", "")),
        "style": style if style in ("normal", "italic", "oblique") else None,
        "dir": Typst("rtl") if look.get("direction") == "rtl" else None,
    }
    if any(text.values()):
        body = call("text", body, **text)
    for line, function in LINES.items():
        if line in look.get("text-decoration", ""):
            body = call(function, body)
    if tag.name not in (*CELLS, "table", "hr"):
        body = framed("panel" if block else "highlight", body, look)
    if block and (place := PLACES.get(look.get("text-align", ""))):
        body = call("align", place, body)
    in_row = block and look_of(tag.parent).get("display") == "flex"
    in_row |= "inline-" in shown or (block and floats == "left")
    if in_row and not cell:
        wide = None if tag.find_parent(CELLS) else look.get("width")
        body = call("beside", body, width=length(wide or ""))
    elif floats == "right":
        body = call("align", Typst("right"), body)
    elif block:
        body = join([PARAGRAPH, body, PARAGRAPH])
    before, after = (
        look.get(f"break-{side}") in PAGES and NEW_PAGE
        for side in ("before", "after")
    )
    return join([before, body, after])


class Writer:
    """Writes the parts of a notebook, one after the other.

    Attributes:
        pictures: their bytes, by the name of a file.
        warnings: what paper shows differently, a line each.
    """

    def __init__(self, folder: Path, formulas: dict[int, Formula]) -> None:
        self.folder = folder.resolve()
        self.formulas = formulas
        self.pictures: dict[str, bytes] = {}
        self.warnings: dict[str, None] = {}
        self.where, self.heading = "the title", ""
        self.levels: list[int] = []

    def warn(self, what: str) -> None:
        """Say what is shown differently: once, and in one line."""
        self.warnings[" ".join(f"{self.where}: {what}".split())] = None

    def write(self, where: str, body: Tag) -> Typst:
        """A part of the notebook as Typst."""
        self.where = where
        try:
            return self.inside(body)
        except RecursionError:
            return self.plain(body)

    def plain(self, body: Tag) -> Typst:
        """A part that cannot be set, as its words."""
        self.warn("what Typst refuses is shown as plain text")
        return call("output", call("raw", body.get_text()))

    def inside(self, tag: Tag, pre: bool = False) -> Typst:
        """What a tag holds, with the marks that links lead to."""
        pieces = [self.node(child, pre) for child in tag.children]
        names = [tag.get("id"), tag.get("name")]
        names += [tag.get_text()] if tag.name in HEADINGS else []
        if tag.name not in CELLS:
            pieces[:0] = [
                call("anchor", slug(name)) for name in names if name
            ]
        return join(pieces)

    def node(self, node: Tag | NavigableString, pre: bool) -> str | None:
        """A tag or a text; None if a browser does not show it."""
        if isinstance(node, PreformattedString):
            return None
        if isinstance(node, NavigableString) and pre:
            return call("raw", node.expandtabs(4))
        if isinstance(node, NavigableString):
            # Blanks at the ends may vanish.
            text = re.sub(r"[ \t\n\r\f]+", " ", node)
            pieces = re.split("(^ | $)", text)
            return join(SPACE if p == " " else p for p in pieces)
        if id(node) in self.formulas:
            return self.formula(self.formulas[id(node)])
        look = look_of(node)
        if HIDDEN.search(node.get("style", "")):
            return None
        return dressed(node, self.body(node, look, pre), look)

    def formula(self, found: Formula) -> Typst:
        """A formula, or its TeX source if it cannot be set."""
        if found.parts is None:
            self.warn(f"the formula {found.tex} is printed as written")
            return call("raw", found.tex, block=found.block)
        if found.unknown:
            names = " ".join(found.unknown)
            self.warn(f"the formula {found.tex} has the unknown {names}")
        sizes = {"height": em(found.height), "depth": em(found.depth)}
        number, *parts = (
            drawn
            and call(
                "drawing", drawn[1], em(drawn[0]), alt=found.tex, **sizes
            )
            for drawn in (found.number, *found.parts)
        )
        body = join(parts)
        block = found.block and parts
        return call("equation", body, number) if block else body

    def body(self, tag: Tag, look: Look, pre: bool) -> Typst:
        """A tag's contents in the form that its name means."""
        name = tag.name
        if name in METHODS:
            return getattr(self, METHODS[name])(tag, look)
        if name == "br":
            return Typst("linebreak()") if tag.next_sibling else EMPTY
        if name == "hr":
            return Typst("horizontalrule")
        if name == "input" and tag.get("type") == "checkbox":
            return join(["☒ " if tag.has_attr("checked") else "☐ "])
        inside = self.inside(tag, pre or name in MONO)
        if name == "li" and (number := whole(tag, "value")):
            return call("enum.item", number, inside)
        if inside == EMPTY:
            return EMPTY
        if name in HEADINGS and words(tag):
            self.heading = words(tag)
            # A screen reader would miss a level that is left out.
            level = int(name[1])
            self.levels = [n for n in self.levels if n < level] + [level]
            return call("heading", inside, level=len(self.levels))
        if name == "a":
            return link(tag, inside)
        if name == "figure" and tag.find("figcaption"):
            return call("captioned", inside)
        return call(FUNCTIONS[name], inside) if name in FUNCTIONS else inside

    def picture(self, tag: Tag, look: Look) -> str:
        """A picture in the size that is asked for."""
        data = self.fetch(tag.get("src", ""))
        if data is None:
            return self.medium(tag, look)
        if b"<foreignObject" in data:
            data = FOREIGN.sub(drawn_text, data.decode()).encode()
        name = f"picture-{len(self.pictures)}"
        self.pictures[name] = data
        alt = tag.get("alt", "").strip() or self.heading or "picture"
        sides = {k: length(look.get(k, "")) for k in ("width", "height")}
        return call("picture", call("image", name, alt=alt), **sides)

    def fetch(self, address: str) -> bytes | None:
        """A picture's bytes; None if it is elsewhere."""
        if address.startswith("data:"):
            data = unquote(address.partition(",")[2])
            with contextlib.suppress(ValueError):
                return base64.b64decode("".join(data.split()), validate=True)
            return data.encode(errors="replace")
        with contextlib.suppress(OSError, ValueError):
            path = Path(self.folder, unquote(address)).resolve()
            inside = path.is_relative_to(self.folder)
            if inside and PICTURE_FILE.fullmatch(path.name):
                return path.read_bytes()
        return None

    def medium(self, tag: Tag, _look: Look) -> str:
        """What stands for something that paper cannot show."""
        source = tag.find("source") or tag
        address = tag.get("src") or tag.get("data") or source.get("src", "")
        kind = "picture" if tag.name == "img" else tag.get("type", tag.name)
        instead = self.inside(tag) if tag.name == "object" else EMPTY
        if not address:
            self.warn(f"an output for a browser ({kind}) is not printed")
            return instead
        self.warn(f"a link stands for the {kind} {address[:80]}")
        said = tag.get("alt", "").strip()
        said = said or address.partition(";base64")[0][:200]
        tag["href"] = address
        return link(tag, said) if instead == EMPTY else instead

    def preformatted(self, tag: Tag, _look: Look) -> Typst:
        """Code in a language, or an output with colours of its own."""
        code = tag.find("code", recursive=False)
        if not code or code.find(True):
            inside = self.inside(tag, pre=True)
            return inside if inside == EMPTY else call("output", inside)
        language = " ".join(code.get("class", [])).lower()
        language = LANGUAGE.match(language.removeprefix("language-"))
        if language and language[1] == "mermaid":
            self.warn("a mermaid diagram is printed as its source")
        text = code.get_text().strip("\n").rstrip()
        followed = "followed" in tag.get("class", [])
        return call("code", text, language[1] if language else "", followed)

    def items(self, tag: Tag, look: Look) -> Typst:
        """A list; an item may say its number."""
        items = []
        for child in tag.children:
            body = self.node(child, False) or EMPTY
            if body not in (EMPTY, SPACE):
                items.append(join([body]))
        style = look.get("list-style", look.get("list-style-type", ""))
        first = tag.find("li", recursive=False)
        if first and "inline" in look_of(first).get("display", ""):
            return join([p for item in items for p in (" · ", item)][1:])
        tight = not tag.find("p")
        if tag.name != "ol" or style == "none":
            marker = EMPTY if "none" in style else None
            return call("list", *items, marker=marker, tight=tight)
        kind = NUMBERINGS.get(style, tag.get("type", ""))
        kind = kind + "." if kind in ("a", "A", "i", "I") else "1."
        turned = tag.has_attr("reversed")
        start = whole(tag, "start")
        options = {"numbering": kind, "tight": tight, "reversed": turned}
        return call("enum", *items, start=start, **options)

    def table(self, tag: Tag, look: Look) -> Typst:
        """A table, its cells in the rows where a browser puts them."""
        rows = [row for row in tag("tr") if row.find_parent("table") is tag]
        rows = [r for r in rows if not HIDDEN.search(r.get("style", ""))]
        above = len([*takewhile(is_header, rows)])
        # A cell spans no columns but those where others start.
        most = max(
            (len(row(CELLS, recursive=False)) for row in rows), default=0
        )
        widths = [0] * len(rows)
        head: list[Typst] = []
        body: list[Typst] = []
        for y, row in enumerate(rows):
            end = above if y < above else len(rows)
            for cell in row(CELLS, recursive=False):
                own = look_of(row.parent) | look_of(row) | look_of(cell)
                wide = min(whole(cell, "colspan") or 1, most)
                high = min(whole(cell, "rowspan", 1) or end, end - y)
                for below in range(y, y + high):
                    widths[below] += wide
                inside = dressed(cell, self.inside(cell), own)
                place = {"y": y, "colspan": wide, "rowspan": high}
                place["align"] = PLACES.get(own.get("text-align", ""))
                place |= {"fill": fill(own), "stroke": borders(own)}
                made = call("table.cell", inside, **place)
                (head if y < above else body).append(made)
        if head:
            rule = call("table.hline", y=above)
            body = [call("table.header", *head), rule, *body]
        caption = tag.find("caption", recursive=False)
        caption = (caption and self.node(caption, False)) or EMPTY
        made = call("table", *body, columns=max(widths, default=0))
        made = framed("block", made, look)
        return call("fitted-table", made, caption) if body else EMPTY


def is_header(row: Tag) -> bool:
    """Whether a row at the top of a table is repeated on every page."""
    return row.parent.name == "thead" or not row.find("td", recursive=False)


def link(tag: Tag, body: str) -> str:
    """A link that leads somewhere on paper, or its words."""
    address = tag.get("href", "").strip()
    if address.startswith("#") and not tag.find_parent(HEADINGS):
        return call("inner-link", slug(unquote(address)), body)
    return call("link", address, body) if LINK.match(address) else body


def whole(tag: Tag, name: str, otherwise: int | None = None) -> int | None:
    """A whole number as it stands in an attribute."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*", tag.get(name) or "")
    return int(found[1]) if found else otherwise


def slug(words: str) -> str:
    """A heading's name in links, as Jupyter and GitHub make it."""
    return re.sub(r"[^\w-]", "", words.strip().lower().replace(" ", "-"))


def drawn_text(found: re.Match) -> str:
    """HTML within a drawing, which Typst leaves out, as its words."""
    said = escape(words(BeautifulSoup(found[2], "html.parser")))
    style = 'x="50%" y="65%" text-anchor="middle" font-size="14"'
    return f"<svg{found[1]}><text {style}>{said}</text></svg>"
