"""HTML as calls of Typst functions.

Nothing of a notebook becomes Typst source: `call` writes names that stand in
this package, and its arguments as numbers, as content that it wrote before,
or as string literals.
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
BLOCKS = [
    "p",
    "div",
    "section",
    "article",
    "header",
    "footer",
    "main",
    "nav",
    "aside",
    "address",
    "fieldset",
    "dl",
    "dt",
    "dd",
    "figcaption",
    "details",
    "summary",
    "caption",
    "center",
    "form",
    "textarea",
    "pre",
    "hr",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "table",
    "ul",
    "ol",
    "menu",
    "blockquote",
    "figure",
]
STYLES = {"lower-alpha": "a.", "upper-alpha": "A.", "lower-roman": "i."}
STYLES |= {"upper-roman": "I.", "lower-latin": "a.", "upper-latin": "A."}
WEIGHTS = {"normal": "regular", "400": "regular"}
WEIGHTS |= dict.fromkeys(("bold", "bolder", "600", "700", "800"), "bold")
STYLES |= {"italic": "italic", "oblique": "italic", "normal": "normal"}
HANDED_ON = [
    "text-align",
    "color",
    "background-color",
    "background",
    "font-weight",
]
NUMBERS = {"a": "a.", "A": "A.", "i": "i.", "I": "I.", "1": "1."}


class Typst(str):
    """Typst source that this package has written."""


NEW_PAGE = Typst("colbreak(weak: true)")
BLANK_SPACE = Typst("[ ]")


@dataclass
class Formula:
    """A formula of the notebook.

    Attributes:
        tex: its source as it stands in the notebook.
        block: whether it is displayed.
        typst: what is printed, "" for nothing; None cannot be set.
        number: what stands at the right margin, such as "(1)"; "" if its
            rows have their own.
        unknown: commands that are printed as they are.
    """

    tex: str
    block: bool
    typst: Typst | None = None
    number: str | None = None
    unknown: list[str] = field(default_factory=list)


@dataclass
class Refused:
    """What Typst could not set, and is shown in another way."""

    parts: set[int] = field(default_factory=set)
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
    found = re.fullmatch(
        r"(\d{1,5}(?:\.\d+)?)(px|pt|em|rem|cm|mm|in|%|vw)?", value
    )
    if not found or not float(found[1]):
        return None
    number, unit = float(found[1]), found[2] or "px"
    number *= {"px": 0.75, "em": 10, "rem": 10}.get(unit, 1)
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
        self.signs = refused.signs
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
        names = {s: f"«U+{ord(s):04X}»" for s in source if s in self.signs}
        if names:
            self.warn(f"no font has {' '.join(names.values())}")
        return source.translate(str.maketrans(names))

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
        look = self.look(node)
        if hidden(look) or (node.name == "label" and label_of(node)):
            return None
        return self.dressed(node, self.body(node, look, pre), look)

    def look(self, node: Tag | NavigableString | None) -> Look:
        """How a tag looks."""
        known = isinstance(node, Tag) and node.name != "[document]"
        return look_of(node, self.looks) if known else {}

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
            pieces.append(words.strip(" "))
            pieces.append(BLANK_SPACE if words[-1:] == " " else "")
        return join([piece for piece in pieces if piece])

    def formula(self, tag: Tag) -> Typst:
        """A formula, or its TeX source if it cannot be set."""
        found = self.formulas[id(tag)]
        if found.typst is None:
            self.warn(f"the formula {found.tex} is printed as TeX")
            return call("tex", found.tex, found.block)
        if found.unknown:
            names = " ".join(found.unknown)
            self.warn(f"the formula {found.tex} has the unknown {names}")
        if not found.typst:
            return Typst("[]")
        body = call("math.equation", found.typst, block=found.block)
        # Only the page knows how far it is to the margin.
        return call(
            "formula", found.tex, Typst(f"margin => {body}"), found.number
        )

    def body(self, tag: Tag, look: Look, pre: bool) -> Typst:
        """A tag's contents in the form that its name means."""
        name = tag.name
        if name in ("img", "svg"):
            return self.picture(tag, look)
        if name in MEDIA and not tag.find(["img", "svg", "table"]):
            return self.medium(tag)
        if name == "table":
            return self.table(tag)
        if name in ("ul", "ol", "menu"):
            return self.items(tag, look)
        if name == "pre" and "inline" not in look.get("display", ""):
            return self.preformatted(tag)
        if name == "br":
            return Typst("linebreak()") if tag.next_sibling else Typst("[]")
        if name == "hr":
            return Typst("horizontalrule")
        if name == "input":
            box = "☒ " if tag.has_attr("checked") else "☐ "
            return box if tag.get("type") == "checkbox" else Typst("[]")
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
        caption = tag.find("figcaption", recursive=False)
        if name == "figure" and caption:
            rest = [n for n in tag.children if n is not caption]
            pieces = [piece for n in rest if (piece := self.node(n, pre))]
            return call("captioned", join(pieces), self.inside(caption))
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
        return (
            call("link", address, inside) if LINK.match(address) else inside
        )

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
        classes = " ".join((code or tag).get("class", []))
        language = known_language(classes.removeprefix("language-"))
        if language == "mermaid":
            self.warn("a mermaid diagram is printed as its source")
        text = "".join(tag.find_all(string=True)).strip("\n").rstrip()
        return call("code", text, language, False) if text else Typst("[]")

    def items(self, tag: Tag, look: Look) -> Typst:
        """A list; each item says its number."""
        items = [item for item in tag.children if not blank(item)]
        looks = [self.look(item) for item in items]
        style = look.get("list-style", look.get("list-style-type", ""))
        ordered = tag.name == "ol" and style != "none"
        step = -1 if tag.has_attr("reversed") else 1
        number = whole(tag.get("start"), len(items) if step < 0 else 1)
        written: list[str] = []
        for item, item_look in zip(items, looks, strict=True):
            if getattr(item, "name", None) != "li":
                body = self.node(item, False)
            elif hidden(item_look):
                continue
            else:
                number = whole(item.get("value"), number)
                body = self.dressed(item, self.inside(item), item_look)
            if body:
                body = join([body])
                item = call("enum.item", number, body) if ordered else body
                written.append(item)
                number += step
        if looks and "inline" in looks[0].get("display", ""):
            bodies = [self.inside(item) for item in items]
            return join(
                [piece for body in bodies for piece in (" · ", body)][1:]
            )
        tight = not tag.find("p")
        if ordered:
            kind = STYLES.get(style, NUMBERS.get(tag.get("type", ""), "1."))
            return call("enum", *written, numbering=kind, tight=tight)
        marker = Typst("[]") if "none" in style else None
        return call("list", *written, marker=marker, tight=tight)

    def table(self, tag: Tag) -> Typst:
        """A table, each cell in the place that a browser gives it."""
        rows = [row for row in tag("tr") if row.find_parent("table") is tag]
        rows = [row for row in rows if not hidden(self.look(row))]
        if tag.find("thead", recursive=False):
            above = [row for row in rows if row.parent.name == "thead"]
        else:
            no_data = (not row.find("td", recursive=False) for row in rows)
            above = [
                row
                for row, all_of_it in zip(rows, no_data, strict=True)
                if all_of_it
            ]
            above = above if above == rows[: len(above)] else []
        taken: set[tuple[int, int]] = set()
        head: list[Typst] = []
        body: list[Typst] = []
        for y, row in enumerate(rows):
            x, end = 0, len(above) if y < len(above) else len(rows)
            around = {
                k: v for k, v in self.look(row).items() if k in HANDED_ON
            }
            for cell in row(["td", "th"], recursive=False):
                look = around | self.look(cell)
                if look.get("display") == "none":
                    continue
                while (x, y) in taken:
                    x += 1
                wide = max(min(whole(cell.get("colspan"), 1), 99), 1)
                high = whole(cell.get("rowspan"), 1)
                high = min(high if high > 0 else end, end - y)
                while any((x + i, y) in taken for i in range(wide)):
                    wide -= 1
                taken |= {
                    (x + i, y + j) for i in range(wide) for j in range(high)
                }
                inside = self.dressed(cell, self.inside(cell), look)
                place = {"x": x, "y": y, "colspan": wide, "rowspan": high}
                place |= {"fill": fill(look), "align": alignment(look)}
                if "dataframe" in tag.get("class", []):
                    place["align"] = place["align"] or Typst("right")
                written = head if y < len(above) else body
                written.append(call("table.cell", inside, **place))
        if not taken:
            return Typst("[]")
        if head:
            body.insert(0, call("table.header", *head))
            body.insert(1, call("table.hline", y=len(above)))
        caption = tag.find("caption", recursive=False)
        caption = self.inside(caption) if caption else None
        columns = max(x for x, _ in taken) + 1
        made = call("table", *body, columns=columns)
        return call("fitted-table", made, caption)

    def dressed(self, tag: Tag, body: str, look: Look) -> str:
        """Contents in their colours, in their place."""
        shown, floats = look.get("display", ""), look.get("float", "")
        cell = tag.name in ("td", "th", "li")
        block = not cell and "inline" not in shown and shown != "contents"
        block = block and (tag.name in BLOCKS or shown in ("block", "flex"))
        ink = colour(look.get("color", ""))
        text = {
            "fill": rgb(ink) if ink and not self.pale(ink, tag) else None,
            "weight": WEIGHTS.get(look.get("font-weight", "")),
            "style": STYLES.get(look.get("font-style", "")),
            "dir": Typst("rtl") if look.get("direction") == "rtl" else None,
        }
        if any(text.values()):
            body = call("text", body, **text)
        lines = look.get("text-decoration", "")
        lines += look.get("text-decoration-line", "")
        for name, mark in (
            ("underline", "underline"),
            ("line-through", "strike"),
        ):
            body = call(mark, body) if name in lines else body
        behind = None if tag.name in ("td", "th") else fill(look)
        border = colour(look.get("border", "").split("solid ")[-1])
        if block and (behind or border):
            frame = rgb(border) if border else None
            body = call("panel", body, fill=behind, stroke=frame)
        elif behind:
            body = call("highlight", body, fill=behind)
        if block and alignment(look):
            body = call("align", alignment(look), body)
        if "avoid" in look.get(
            "break-inside", look.get("page-break-inside", "")
        ):
            body = call("block", body, breakable=False)
        around = self.look(tag.parent).get("display", "")
        if tag.name in BLOCKS and (
            "inline-" in shown or "flex" in around or floats == "left"
        ):
            body = call("beside", body, length(look.get("width", "")))
        elif floats == "right":
            body = call("align", Typst("right"), body)
        elif block:
            body = join([Typst("parbreak()"), body, Typst("parbreak()")])
        before, after = (
            look.get(f"break-{side}", look.get(f"page-break-{side}")) in PAGES
            for side in ("before", "after")
        )
        if before or after:
            body = join([*[NEW_PAGE] * before, body, *[NEW_PAGE] * after])
        return body

    def pale(self, ink: tuple[float, ...], tag: Tag) -> bool:
        """Whether it could not be seen on white paper."""
        around = [tag, *tag.parents] if min(ink[:3]) > 0.8 else []
        return bool(around) and not any(fill(self.look(t)) for t in around)


def alignment(look: Look) -> Typst | None:
    """Where its look puts it, if it says so."""
    where = look.get("text-align", "").removeprefix("-webkit-")
    known = ("left", "center", "right", "start", "end")
    return Typst(where) if where in known else None


def blank(node: Tag | NavigableString) -> bool:
    """Whether it is nothing but space, or a comment."""
    if isinstance(node, PreformattedString):
        return True
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
    found = re.match(
        r"[{.]*(?:i(?=python))?([a-z+#]+(?:-[a-z+#]+)*)", name.lower()
    )
    return found[1] if found else ""


def drawn_text(found: re.Match) -> str:
    """HTML within a drawing, which Typst leaves out, as its words."""
    at = dict(re.findall(r'\b(x|y|width|height)="([-\d.]+)', found[1]))
    x, y, width, height = (
        float(at.get(k, 0)) for k in ("x", "y", "width", "height")
    )
    said = escape(words(BeautifulSoup(found[2], "html5lib")))
    place = f'x="{x + width / 2:g}" y="{y + height / 2 + 5:g}"'
    return f'<text {place} text-anchor="middle" font-size="14">{said}</text>'
