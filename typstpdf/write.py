"""HTML as calls of Typst functions.

Nothing of a notebook becomes Typst source: `call` writes names that stand in
this file, and its arguments as numbers, as content that it wrote before, or
as string literals. A formula's source is what pandoc wrote from TeX.
"""

import base64
import contextlib
import json
import re
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import unquote

from bs4 import BeautifulSoup, NavigableString, Tag
from bs4.element import PreformattedString
from nbconvert.filters import ansi2html

from typstpdf.cells import ANSI, CONTROL, Part, named
from typstpdf.looks import Look, colour, ground, hidden, look_of, parse
from typstpdf.tex import Formula

PICTURE_FILE = re.compile(r"(?i).+\.(pdf|svg|png|jpe?g|gif|webp)")
LINK = re.compile(r"(?i)(https?|ftp|mailto):.|[^:#]+([/?#]|$)")
BREAK = re.compile(
    r"(?m)^\s*\\(?:newpage|pagebreak|clear(?:double)?page)(?:\[\d\])?\s*$"
)
BLANK = re.compile(r"[ \t\n\r\f]+")
FOREIGN = re.compile(r"(?s)<foreignObject\b([^>]*)>(.*?)</foreignObject>")
PAGES = ("always", "page", "left", "right", "recto", "verso")
MEDIA = ("iframe", "embed", "object", "video", "audio", "canvas")
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
INLINE = dict.fromkeys(("b", "strong"), "strong")
INLINE |= dict.fromkeys(("i", "em", "cite", "var", "dfn"), "emph")
INLINE |= dict.fromkeys(("u", "ins"), "underline")
INLINE |= dict.fromkeys(("s", "strike", "del"), "strike")
INLINE |= {"sub": "sub", "sup": "super", "small": "small", "big": "large"}
MONO = ("code", "tt", "samp", "kbd")
BLOCKS = (
    "p div section article header footer main nav aside address fieldset dl"
    " dt dd figcaption details summary caption center form textarea pre hr"
    " h1 h2 h3 h4 h5 h6 table ul ol menu blockquote figure"
).split()
STYLES = {"lower-alpha": "a.", "upper-alpha": "A.", "lower-roman": "i."}
STYLES |= {"upper-roman": "I.", "lower-latin": "a.", "upper-latin": "A."}
NUMBERS = {"a": "a.", "A": "A.", "i": "i.", "I": "I.", "1": "1."}


class Typst(str):
    """Typst source that this package or pandoc has written."""


NEW_PAGE = Typst("colbreak(weak: true)")
BLANK_SPACE = Typst("[ ]")


@dataclass
class Refused:
    """What Typst could not set, and is shown in another way."""

    parts: set[int] = field(default_factory=set)
    formulas: set[int] = field(default_factory=set)
    pictures: set[str] = field(default_factory=set)
    signs: set[str] = field(default_factory=set)


def literal(value: object) -> str:
    """A value as Typst; a text is a string literal and nothing else."""
    if isinstance(value, Typst):
        return value
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"({''.join(literal(item) + ', ' for item in value)})"
    if isinstance(value, int | float):
        return f"{value:.6g}" if abs(value) < 1e9 else "0"
    text = CONTROL.sub(named, str(value))
    return json.dumps(text, ensure_ascii=False)


def call(name: str, *values: object, **options: object) -> Typst:
    """A call of a Typst function."""
    items = [literal(value) for value in values]
    for key, value in options.items():
        if value is not None:
            items.append(f"{key.replace('_', '-')}: {literal(value)}")
    return Typst(f"{name}({', '.join(items)})")


def join(pieces: list[str]) -> Typst:
    """Content, piece by piece."""
    lines = "\n".join(literal(piece) for piece in pieces)
    return Typst(f"{{\n{lines}\n}}") if lines else Typst("[]")


def words(tag: Tag) -> str:
    """What a tag says, in one line."""
    return " ".join(tag.get_text(" ").split())


def length(value: str) -> Typst | None:
    """A length of CSS; a pixel is 1/96 inch."""
    found = re.fullmatch(r"(\d{1,5}(?:\.\d+)?)(px|pt|em|rem|cm|mm|in|%|vw)?", value)
    if not found or not float(found[1]):
        return None
    number, unit = float(found[1]), found[2] or "px"
    number *= {"px": 0.75, "em": 10.5, "rem": 10.5}.get(unit, 1)
    units = {"px": "pt", "em": "pt", "rem": "pt", "vw": "%"}
    return Typst(f"{number:g}{units.get(unit, unit)}")


def rgb(parts: tuple[float, ...]) -> Typst:
    """A colour, or none."""
    return call("rgb", *(Typst(f"{100 * part:.4g}%") for part in parts))


def fill(look: Look) -> Typst | None:
    """What stands behind something: a colour, or a bar."""
    stops = ground(look)
    if len(stops) == 1:
        return rgb(stops[0][0])
    if not stops:
        return None
    stops = [(stops[0][0], 0), *stops, (stops[-1][0], 1)]
    top, items = 0.0, []
    for parts, place in stops:
        top = max(top, place)
        items.append([rgb(parts), Typst(f"{100 * top:.4g}%")])
    return call("gradient.linear", *items)


class Writer:
    """Writes the parts of a notebook, one after the other.

    Attributes:
        pictures: their bytes, by the name of a file.
        warnings: what paper shows differently, a line each.
    """

    def __init__(
        self,
        folder: Path,
        looks: dict[int, Look],
        formulas: dict[int, Formula],
        anchors: dict[str, int],
        refused: Refused,
    ) -> None:
        self.folder = folder.resolve()
        self.looks = looks
        self.formulas = formulas
        self.anchors = anchors
        self.refused = refused
        self.pictures: dict[str, bytes] = {}
        self.warnings: dict[str, None] = {}
        self.where = "the title"
        self.heading = ""
        self.levels: list[int] = []
        self.part = Part("", "html", "")

    def warn(self, what: str) -> None:
        """Say what is shown differently: once, and in one line."""
        self.warnings[" ".join(f"{self.where}: {what}".split())] = None

    def write(self, part: Part, body: Tag, plain: bool = False) -> str:
        """A part as Typst; plain: its source, as Typst refuses all else."""
        self.where, self.part = part.where, part
        if part.lost:
            self.warn(part.lost)
        if plain:
            self.warn("what Typst refuses is shown as source")
            text = ANSI.sub("", part.source or part.text)
            return self.spell(call("output", "stdout", call("raw", text)))
        if part.kind == "html":
            return self.spell(self.inside(body))
        if part.kind == "code":
            language = known_language(part.language)
            code = call("code", part.text, language, part.followed)
            return self.spell(code) if part.text else ""
        text = call("raw", part.text)
        if "\x1b" in part.text:
            text = self.inside(parse(ansi2html(part.text)), pre=True)
        shown = call("output", part.kind, text)
        return self.spell(shown) if part.text else ""

    def spell(self, source: str) -> str:
        """Replace the signs that no font has, which only literals hold."""
        for sign in sorted(self.refused.signs):
            if sign in source:
                spelt = f"«U+{ord(sign):04X}»"
                self.warn(f"no font has {spelt}")
                source = source.replace(sign, spelt)
        return source

    def inside(self, tag: Tag, pre: bool = False) -> Typst:
        """What a tag holds, with the mark that a link leads to."""
        pieces = [self.node(child, pre) for child in tag.children]
        if id(tag) in self.anchors.values():
            pieces.insert(0, call("anchor", f"{id(tag)}"))
        return join([piece for piece in pieces if piece])

    def node(self, node: Tag | NavigableString, pre: bool) -> str | None:
        """A tag or a text; None if a browser does not show it."""
        if isinstance(node, PreformattedString):
            return None
        if isinstance(node, NavigableString):
            return self.text(str(node), pre)
        if id(node) in self.formulas:
            return self.formula(node)
        look = look_of(node, self.looks)
        if hidden(look) or node.name == "label" and label_of(node):
            return None
        return self.dressed(node, self.body(node, look, pre), look)

    def text(self, text: str, pre: bool) -> Typst:
        """Words; blanks at their ends may vanish, as in a browser."""
        if pre:
            return call("raw", text.expandtabs(4))
        pieces = []
        for number, words in enumerate(BREAK.split(text)):
            if number:
                pieces.append(NEW_PAGE)
            words = BLANK.sub(" ", words)
            pieces.append(BLANK_SPACE if words[:1] == " " else "")
            pieces.append(self.references(words.strip(" ")))
            pieces.append(BLANK_SPACE if words[-1:] == " " else "")
        return join([piece for piece in pieces if piece])

    def references(self, words: str) -> str:
        return words

    def formula(self, tag: Tag) -> Typst:
        """A formula, or its TeX source if it cannot be set."""
        found = self.formulas[id(tag)]
        source = found.typst
        signs = set(source or "") & self.refused.signs
        if source is None or id(tag) in self.refused.formulas or signs:
            self.warn(f"the formula {found.tex} is printed as TeX")
            return call("tex", found.tex, found.block)
        if not source.strip():
            return Typst("[]")
        source = f"$ {source} $" if found.block else f"${source}$"
        return call("formula", found.tex, Typst(source), found.number)

    def body(self, tag: Tag, look: Look, pre: bool) -> Typst:
        """A tag's contents in the form that its name means."""
        name = tag.name
        if name in ("img", "svg"):
            return self.picture(tag, look)
        if name in MEDIA and not tag.find(["img", "svg", "table"]):
            return self.medium(tag)
        if name == "table":
            return self.table(tag, look)
        if name in ("ul", "ol", "menu"):
            return self.items(tag, look)
        if name == "pre" and "inline" not in look.get("display", ""):
            return self.preformatted(tag)
        if name == "br":
            return Typst("linebreak()") if tag.next_sibling else Typst("[]")
        if name == "hr":
            return Typst("horizontalrule")
        if name == "input":
            kind, ticked = tag.get("type"), tag.has_attr("checked")
            return literal("☒ " if ticked else "☐ ") if kind == "checkbox" else ""
        if name in (*MONO, "pre"):
            return self.inside(tag, pre=True)
        inside = self.inside(tag, pre)
        if name in HEADINGS and words(tag):
            self.heading = words(tag)
            level = int(name[1])
            # A screen reader would miss a level that is left out.
            self.levels = [n for n in self.levels if n < level] + [level]
            return call("heading", inside, level=len(self.levels))
        if name == "a" and inside != "[]":
            return self.link(tag, inside)
        if name == "blockquote":
            return call("quote", inside, block=True)
        if name == "figure":
            if caption := tag.find("figcaption", recursive=False):
                rest = [self.node(child, pre) for child in tag.children if child is not caption]
                caption = self.inside(caption)
                return call("captioned", join(list(filter(None, rest))), caption)
        if name == "dd":
            return call("pad", inside, left=Typst("1.5em"))
        if name == "q":
            return join(["“", inside, "”"])
        return call(INLINE[name], inside) if name in INLINE else inside

    def link(self, tag: Tag, inside: Typst) -> Typst:
        """A link that leads somewhere on paper, or its words."""
        address = tag.get("href", "").strip()
        target = unquote(address.removeprefix("#"))
        if address.startswith("#"):
            place = self.anchors.get(target, self.anchors.get(slug(target)))
            return call("inner-link", str(place), inside) if place else inside
        return call("link", address, inside) if LINK.match(address) else inside

    def picture(self, tag: Tag, look: Look) -> Typst:
        """A picture in the size that is asked for."""
        if tag.name == "svg":
            tag["xmlns"] = "http://www.w3.org/2000/svg"
            tag["xmlns:xlink"] = "http://www.w3.org/1999/xlink"
            data = str(tag).encode()
        else:
            data = self.fetch(tag.get("src", ""))
        if data is None:
            return self.medium(tag)
        if b"<foreignObject" in data:
            data = FOREIGN.sub(drawn_text, data.decode()).encode()
        name = f"picture-{len(self.pictures)}"
        alt = tag.get("alt", "").strip() or self.heading or "picture"
        if name in self.refused.pictures:
            self.warn("a picture is damaged")
            return call("damaged", alt)
        self.pictures[name] = data
        sides = (length(look.get(side, "")) for side in ("width", "height"))
        return call("picture", call("image", name, alt=alt), *sides)

    def fetch(self, address: str) -> bytes | None:
        """A picture's bytes; None if it is elsewhere."""
        kind, _, name = address.partition(":")
        if kind == "attachment":
            bundle = self.part.pictures.get(unquote(name), {})
            for data in bundle.values():
                address = "data:," + str(data).replace("%", "%25")
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

    def medium(self, tag: Tag) -> Typst:
        """A link that stands for what paper cannot show."""
        source = tag.find("source")
        address = tag.get("src") or tag.get("data") or ""
        address = address or (source.get("src", "") if source else "")
        kind = "picture" if tag.name == "img" else tag.name
        if not address:
            self.warn(f"a {kind} that a script draws is missing")
            return Typst("[]")
        self.warn(f"a link stands for the {kind} {address[:80]}")
        said = tag.get("alt", "").strip()
        said = said or address.partition(";base64")[0][:200] or kind
        link = LINK.match(address)
        return call("link", address, said) if link else Typst(literal(said))

    def preformatted(self, tag: Tag) -> Typst:
        """Code in a language, or text with colours of its own."""
        code = tag.find("code", recursive=False)
        if set(tag.find_all(True)) - {code}:
            return call("output", "stdout", self.inside(tag, pre=True))
        classes = " ".join((code or tag).get_attribute_list("class"))
        language = known_language(classes.removeprefix("language-"))
        if language == "mermaid":
            self.warn("a mermaid diagram is printed as its source")
        text = "".join(tag.find_all(string=True)).strip("\n").rstrip()
        return call("code", text, language, False) if text else Typst("[]")

    def items(self, tag: Tag, look: Look) -> Typst:
        """A list; each item says its number."""
        items = [item for item in tag.children if not blank(item)]
        items = [i for i in items if isinstance(i, Tag)]
        items = [i for i in items if not hidden(look_of(i, self.looks))]
        step = -1 if tag.has_attr("reversed") else 1
        number = len(items) if step < 0 else 1
        number = whole(tag.get("start"), number)
        style = look.get("list-style", look.get("list-style-type", ""))
        inline = look_of(items[0], self.looks) if items else {}
        if "inline" in inline.get("display", ""):
            inner = [self.inside(item) for item in items]
            dotted = [piece for i in inner for piece in (" · ", i)]
            return join(["\n", *dotted[1:]])
        written: list[Typst] = []
        for item in items:
            body = self.dressed(item, self.inside(item), look_of(item, self.looks))
            if item.name != "li":
                body = self.node(item, False) or Typst("[]")
            number = whole(item.get("value"), number)
            ordered = tag.name == "ol" and style != "none"
            written.append(call("enum.item", number, body) if ordered else body)
            number += step
        tight = not tag.find("p")
        if tag.name == "ol" and style != "none":
            kind = NUMBERS.get(tag.get("type", ""), "1.")
            kind = STYLES.get(style, kind)
            return call("enum", *written, numbering=kind, tight=tight)
        marker = Typst("[]") if "none" in style else None
        return call("list", *written, marker=marker, tight=tight)

    def table(self, tag: Tag, look: Look) -> Typst:
        """A table, each cell in the place that a browser gives it."""
        rows = [row for row in tag("tr") if row.find_parent("table") is tag]
        rows = [r for r in rows if not hidden(look_of(r, self.looks))]
        head = [row for row in rows if row.find_parent(["thead", "table"]).name == "thead"]
        if not head:
            for row in rows:
                if row.find("td", recursive=False):
                    break
                head.append(row)
        taken: set[tuple[int, int]] = set()
        above: list[Typst] = []
        below: list[Typst] = []
        for y, row in enumerate(rows):
            x = 0
            end = len(head) if y < len(head) else len(rows)
            for cell in row(["td", "th"], recursive=False):
                cell_look = look_of(row, self.looks)
                keep = {"text-align", "color", "background-color", "background", "font-weight"}
                cell_look = {k: v for k, v in cell_look.items() if k in keep} | look_of(cell, self.looks)
                if cell_look.get("display") == "none":
                    continue
                while (x, y) in taken:
                    x += 1
                wide = min(whole(cell.get("colspan"), 1), 99)
                high = min(whole(cell.get("rowspan"), 1) or end, end - y)
                while any((x + i, y) in taken for i in range(wide)):
                    wide -= 1
                taken |= {(x + i, y + j) for i in range(wide) for j in range(high)}
                inside = self.dressed(cell, self.inside(cell), cell_look)
                (above if y < len(head) else below).append(
                    call(
                        "table.cell",
                        inside if not hidden(cell_look) else Typst("[]"),
                        x=x, y=y, colspan=wide, rowspan=high,
                        fill=fill(cell_look),
                        align=self.alignment(cell, cell_look, tag),
                    )
                )
        if not taken:
            return Typst("[]")
        width = max(x for x, _ in taken) + 1
        if above:
            below.insert(0, call("table.header", *above))
        caption = tag.find("caption", recursive=False)
        caption = self.inside(caption) if caption else None
        made = call("table", *below, columns=width)
        return call("fitted-table", made, caption)

    def alignment(self, tag: Tag, look: Look, table: Tag | None = None) -> Typst | None:
        """Where its look puts it, if it says so."""
        where = look.get("text-align", "").removeprefix("-webkit-")
        if not where and table and "dataframe" in table.get("class", []):
            where = "right"
        known = ("left", "center", "right", "start", "end")
        return Typst(where) if where in known else None

    def dressed(self, tag: Tag, body: str, look: Look) -> str:
        """Contents in their colours, in their place."""
        text: dict[str, object] = {}
        if (ink := colour(look.get("color", ""))) and not self.pale(ink, tag):
            text["fill"] = rgb(ink)
        weight = look.get("font-weight", "")
        if weight.startswith("bold") or weight in ("600", "700", "800", "900"):
            text["weight"] = "bold"
        if look.get("font-style") in ("italic", "oblique"):
            text["style"] = "italic"
        if look.get("direction") == "rtl":
            text["dir"] = Typst("rtl")
        body = call("text", body, **text) if text else body
        lines = look.get("text-decoration") or look.get("text-decoration-line")
        if "underline" in (lines or ""):
            body = call("underline", body)
        if "line-through" in (lines or ""):
            body = call("strike", body)
        if tag.name in ("td", "th"):
            return body
        shown = look.get("display", "")
        parent = tag.parent and look_of(tag.parent, self.looks).get("display", "")
        floats = look.get("float", "none")
        beside = "inline-" in shown or "flex" in (parent or "") or floats == "left"
        block = (tag.name in BLOCKS or shown == "block") and "inline" not in shown
        behind = fill(look)
        if behind and not block:
            body = call("highlight", body, fill=behind)
        border = look.get("border", "")
        stroke = colour(border.split()[-1]) if "solid" in border else None
        if block and (behind or stroke):
            body = call("panel", body, fill=behind, stroke=stroke and rgb(stroke))
        if block and (where := self.alignment(tag, look)):
            body = call("align", where, body)
        if "avoid" in look.get("break-inside", look.get("page-break-inside", "")):
            body = call("block", body, breakable=False)
        if beside and tag.name in (*BLOCKS, "table", "ul", "ol"):
            width = length(look.get("width", ""))
            body = call("beside", body, width)
        elif floats == "right":
            body = call("align", Typst("right"), body)
        elif block:
            body = join([Typst("parbreak()"), body, Typst("parbreak()")])
        before, after = (
            look.get(f"break-{side}", look.get(f"page-break-{side}", ""))
            for side in ("before", "after")
        )
        pieces = [NEW_PAGE] * (before in PAGES) + [body] + [NEW_PAGE] * (after in PAGES)
        return join(pieces) if len(pieces) > 1 else body

    def pale(self, ink: tuple[float, ...], tag: Tag) -> bool:
        """Whether it could not be seen on white paper."""
        if min(ink[:3]) < 0.8:
            return False
        around = [tag, *(p for p in tag.parents if p.name != "[document]")]
        return not any(fill(look_of(place, self.looks)) for place in around)


def blank(node: Tag | NavigableString) -> bool:
    return isinstance(node, NavigableString) and not node.strip()


def label_of(tag: Tag) -> bool:
    """Whether a label belongs to a button that paper does not have."""
    before = tag.find_previous_sibling()
    return bool(before and before.get("type") in ("radio", "range"))


def whole(text: str | None, otherwise: int) -> int:
    """A whole number as it stands in an attribute."""
    found = re.fullmatch(r"\s*(-?\d{1,6})\s*", text or "")
    return int(found[1]) if found else otherwise


def slug(words: str) -> str:
    """A heading's name in links, as Jupyter and GitHub make it."""
    return re.sub(r"[^\w-]", "", words.strip().lower().replace(" ", "-"))


def known_language(name: str) -> str:
    """A language as Typst may know it: python of {python} and ipython3."""
    found = re.match(r"[{.]*(?:i(?=python))?([a-z+#]+(?:-[a-z+#]+)*)", name.lower())
    return found[1] if found else ""


def drawn_text(found: re.Match) -> str:
    """HTML within a drawing, which Typst leaves out, as its words."""
    at = dict(re.findall(r'\b(x|y|width|height)="([-\d.]+)', found[1]))
    x, y, width, height = (float(at.get(k, 0)) for k in ("x", "y", "width", "height"))
    said = escape(words(BeautifulSoup(found[2], "html5lib")))
    place = f'x="{x + width / 2:g}" y="{y + height / 2 + 5:g}"'
    return f'<text {place} text-anchor="middle" font-size="14">{said}</text>'
