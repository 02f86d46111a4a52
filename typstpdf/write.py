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
from itertools import chain, repeat, takewhile
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

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
STOP = re.compile(r"([#\w-]+(?:\([^)]*\))?)(?:\s+(\d+(?:\.\d+)?)%)?")
LENGTH = re.compile(r"(?a)([1-9]\d{0,4}(?:\.\d+)?)(px|pt|em|cm|mm|in|%)?")
LANGUAGE = re.compile(r"(?:language-)?[{.]*(?:i(?=python))?([a-z][a-z+#-]*)")
PAGES = ("always", "page", "left", "right", "recto", "verso")
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
METHODS = dict.fromkeys(MEDIA, "medium") | {"img": "picture"}
METHODS |= {"ul": "items", "ol": "items", "menu": "items"}
METHODS |= {"table": "table", "pre": "preformatted"}
CELLS = ["td", "th"]
MONO = ["pre", "code", "tt", "samp", "kbd"]
# Typst's functions for a word in a declaration.
FUNCTIONS = {
    "text-decoration": {"underline": "underline", "line-through": "strike"},
    "text-transform": {"uppercase": "upper", "lowercase": "lower"},
    "vertical-align": {"sub": "sub", "super": "super"},
}
MARKUP = re.compile("<style.*?/style>|<.*?>")
# The size of a font; Jupyter's own has 14 pixels.
SIZE = re.compile(r"(\d{0,3}\.?\d+)?([a-z%-]+)")
SIZES = {"px": 1 / 14, "pt": 2 / 21, "em": 1, "rem": 1, "%": 0.01}
SIZES |= {"x-small": 0.75, "smaller": 0.83, "small": 0.9, "large": 1.2}
SIZES |= {"larger": 1.2, "x-large": 1.5, "xx-large": 2}
NUMBERINGS = {"lower-alpha": "a", "lower-latin": "a", "lower-roman": "i"}
NUMBERINGS |= {"upper-alpha": "A", "upper-latin": "A", "upper-roman": "I"}
NUMBERINGS |= {kind: kind for kind in "aAiI"}
WEIGHTS = dict.fromkeys(("bold", "bolder", "600", "700", "800", "900"), 700)
WEIGHTS |= {"normal": 400, "400": 400}
SIDES = ("left", "right", "top", "bottom")
# The lines of a border; a later word may take them away.
LINES = {line: line for line in ("solid", "dashed", "dotted")}
LINES |= {"double": "solid"} | dict.fromkeys(("none", "hidden", "0", "0px"))


class Typst(str):
    """Typst source that this package has written."""


EMPTY = Typst("[]")
SPACE = Typst("[ ]")
PARAGRAPH = Typst("parbreak()")
NEW_PAGE = Typst("colbreak(weak: true)")
PLACES = {name: Typst(name) for name in (*SIDES, "center", "start", "end")}
PLACES["middle"] = Typst("horizon")


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
    lines = {}
    for side in SIDES:
        own = re.compile(f"border(-{side})?(-width|-style|-color)?")
        said = " ".join(look[name] for name in look if own.fullmatch(name))
        style, wide, ink = None, None, None
        for part in tinycss2.parse_component_value_list(said):
            word = part.serialize()
            style = LINES.get(word, style)
            wide, ink = length(word) or wide, colour(word) or ink
        if style:
            lines[side] = call("", paint=ink, thickness=wide, dash=style)
    return call("", **lines) if lines else None


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
    stops = [(name, min(float(at), 100)) for name, at in found if at]
    stops.sort(key=lambda stop: stop[1])
    if not stops:
        return next(filter(None, (colour(name) for name, _ in found)), None)
    bar = (
        call("", colour(name) or call("rgb", "#fff0"), Typst(f"{at:g}%"))
        for name, at in ((stops[0][0], 0), *stops, (stops[-1][0], 100))
    )
    return call("gradient.linear", *bar)


def dressed(tag: Tag, body: Typst, look: Look) -> Typst:
    """Contents in their colours, on their ground, in their place."""
    shown, floats = look.get("display", ""), look.get("float")
    block = shown in ("block", "flex", "grid", "table")
    flex = block and look_of(tag.parent).get("display") == "flex"
    in_row = flex or "inline-" in shown or (block and floats == "left")
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
    for name, functions in FUNCTIONS.items():
        said = look.get(name, "").split()
        # Typst draws one line, not two, through the same words.
        found = [functions[word] for word in said if word in functions]
        body = call(found[-1], body) if found else body
    if block and (place := PLACES.get(look.get("text-align", ""))):
        body = call("align", place, body)
    frame = {}
    if tag.name not in (*CELLS, "table", "hr"):
        frame = {"fill": fill(look), "stroke": borders(look)}
    if in_row or any(frame.values()):
        function = "beside" if in_row else "panel" if block else "highlight"
        if function != "highlight" and tag.name not in METHODS:
            frame["width"] = length(look.get("width", ""))
            frame["height"] = length(look.get("height", ""))
        body = call(function, body, **frame)
    margin = look.get("margin-left", look.get("margin", ""))
    if left := length(margin):
        body = call("pad", body, left=left)
    if floats == "right":
        body = call("align", PLACES["right"], body)
    elif block and tag.name == "img" and "auto" in margin:
        body = call("align", PLACES["center"], body)
    elif block and not in_row:
        body = join([PARAGRAPH, body, PARAGRAPH])
    before = look.get("break-before") in PAGES and NEW_PAGE
    after = look.get("break-after") in PAGES and NEW_PAGE
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
        for tag in body.select("[style]"):
            if HIDDEN.search(tag["style"]):
                tag.extract()
        try:
            return self.inside(body)
        except RecursionError:
            return self.plain(body)

    def plain(self, body: Tag) -> Typst:
        """A part that cannot be set, as its words."""
        self.warn("what Typst refuses is shown as plain text")
        return call("output", call("raw", body.get_text()))

    def inside(self, tag: Tag) -> Typst:
        """What a tag holds, with the marks that links lead to."""
        names = [] if tag.name in CELLS else [tag.get("id"), tag.get("name")]
        names += [tag.get_text()] if tag.name in HEADINGS else []
        marks = [call("anchor", slug(name)) for name in names if name]
        return join(marks + [self.node(child) for child in tag.children])

    def node(self, node: Tag | NavigableString) -> str | None:
        """A tag or a text; None for a comment."""
        if isinstance(node, PreformattedString):
            return None
        if isinstance(node, NavigableString) and node.find_parent(MONO):
            return call("raw", node)
        if isinstance(node, NavigableString):
            # Blanks at the ends may vanish.
            pieces = re.split("(^ | $)", re.sub(r"[ \t\n\r\f]+", " ", node))
            return join(SPACE if p == " " else p for p in pieces)
        if id(node) in self.formulas:
            return self.formula(self.formulas[id(node)])
        look = look_of(node)
        return dressed(node, self.body(node, look), look)

    def formula(self, found: Formula) -> Typst:
        """A formula, or its TeX source if it cannot be set."""
        if found.parts is None:
            self.warn(f"the formula {found.tex} is printed as written")
            return call("raw", found.tex, block=found.block)
        if found.unknown:
            names = " ".join(found.unknown)
            self.warn(f"the formula {found.tex} has the unknown {names}")
        sizes = {"height": em(found.height), "depth": em(found.depth)}
        # The first part says the whole to a screen reader.
        named = found.number and MARKUP.sub("", found.number[1])
        alts = chain((named or " ", found.tex), repeat(" "))
        number, *parts = (
            drawn
            and call("drawing", drawn[1], em(drawn[0]), alt=alt, **sizes)
            for drawn, alt in zip(
                (found.number, *found.parts), alts, strict=False
            )
        )
        ends = (drawn[2] and Typst("linebreak()") for drawn in found.parts)
        body = join(chain(*zip(parts, ends, strict=True)))
        if not (found.block and parts):
            return body
        widest = max(drawn[0] for drawn in found.parts)
        return call("equation", body, number, em(widest))

    def body(self, tag: Tag, look: Look) -> Typst:
        """A tag's contents in the form that its name means."""
        name = tag.name
        if name in METHODS:
            return getattr(self, METHODS[name])(tag, look)
        if name == "br":
            return Typst("linebreak()") if tag.next_sibling else EMPTY
        if name == "hr":
            return Typst("rule")
        if name == "input" and tag.get("type") == "checkbox":
            return join(["☒ " if tag.has_attr("checked") else "☐ "])
        inside = self.inside(tag)
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
            return call("figure", inside)
        return call("quote", inside) if name == "q" else inside

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
        sides = ("width", "height", "max-width")
        asked = {side: length(look.get(side, "")) for side in sides}
        return call("picture", call("image", name, alt=alt), **asked)

    def fetch(self, address: str) -> bytes | None:
        """A picture's bytes; None if it is elsewhere."""
        about, _, data = address.partition(",")
        with contextlib.suppress(OSError, ValueError):
            if about.startswith("data:"):
                packed = about.endswith(";base64")
                data = unquote_to_bytes(data)
                return base64.b64decode(data + b"==") if packed else data
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
        tag["href"] = address
        said = address.partition(";base64")[0][:200]
        said = tag.get("alt", "").strip() or said
        return link(tag, said) if instead == EMPTY else instead

    def preformatted(self, tag: Tag, _look: Look) -> Typst:
        """Code in a language, or an output with colours of its own."""
        code = tag.find("code", recursive=False)
        if not code or code.find(True):
            inside = self.inside(tag)
            return inside if inside == EMPTY else call("output", inside)
        # R Markdown writes {r}, others .python or ipython3.
        named = LANGUAGE.match(" ".join(code.get("class", [])).lower())
        language = named and named[1]
        if language == "mermaid":
            self.warn("a mermaid diagram is printed as its source")
        text = code.get_text().strip("\n").rstrip()
        return call(
            "code", text, language, "followed" in tag.get("class", "")
        )

    def items(self, tag: Tag, look: Look) -> Typst:
        """A list; an item may say its number."""
        nodes = [self.node(child) for child in tag.children]
        items = [node for node in nodes if node not in (None, EMPTY, SPACE)]
        first = tag.find("li", recursive=False)
        if first and "inline" in look_of(first).get("display", ""):
            return join([p for item in items for p in (" · ", item)][1:])
        style = look.get("list-style", look.get("type", ""))
        tight = not tag.find("p")
        if tag.name != "ol" or style == "none":
            marker = EMPTY if "none" in style else None
            return call("list", *items, marker=marker, tight=tight)
        options = {"start": whole(tag, "start"), "tight": tight}
        options["numbering"] = NUMBERINGS.get(style, "1") + "."
        options["reversed"] = tag.has_attr("reversed")
        return call("enum", *items, **options)

    def table(self, tag: Tag, look: Look) -> Typst:
        """A table, its cells in the rows where a browser puts them."""
        rows = tag.select(":scope > tr, :scope > * > tr")
        is_head = "thead > tr, tr:not(:has(> td))"
        above = len([*takewhile(lambda row: row.css.match(is_head), rows)])
        cells = [row(CELLS, recursive=False) for row in rows]
        # A cell spans no columns but those where others start.
        most = max(map(len, cells), default=0)
        widths = [0] * len(rows)
        parts: tuple[list[Typst], list[Typst]] = ([], [])
        for y, row in enumerate(rows):
            end = above if y < above else len(rows)
            for cell in cells[y]:
                own = look_of(row.parent) | look_of(row) | look_of(cell)
                wide = min(whole(cell, "colspan") or 1, most)
                high = min(whole(cell, "rowspan", 1) or end, end - y)
                for below in range(y, y + high):
                    widths[below] += wide
                inside = dressed(cell, self.inside(cell), own)
                place = {"y": y, "colspan": wide, "rowspan": high}
                place |= {"fill": fill(own), "stroke": borders(own)}
                sides = own.get("text-align"), own.get("vertical-align")
                sides = [PLACES[side] for side in sides if side in PLACES]
                place["align"] = Typst(" + ".join(sides)) if sides else None
                parts[y >= above].append(call("table.cell", inside, **place))
        frame = {"fill": fill(look), "stroke": borders(look)}
        if caption := tag.find("caption", recursive=False):
            side = (look | look_of(caption)).get("caption-side")
            frame["caption"] = self.node(caption)
            frame["below"] = side == "bottom"
        columns = max(widths, default=0)
        made = call("fitted-table", columns, above, *parts, **frame)
        return made if columns else EMPTY


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
