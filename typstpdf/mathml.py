r"""Formulas: MathJax reads their TeX, and its MathML becomes Typst.

MathJax runs in QuickJS (``mathjax.entry.js``), once for a notebook: a macro
holds in later formulas, a label in all. `Setter` writes what it makes of them
as calls of Typst's math functions, around signs in string literals.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import quickjs

from typstpdf.looks import colour
from typstpdf.write import Formula, Typst, call, join, rgb

Node = dict[str, Any]

# TeX's classes: what two signs are to each other decides their distance.
CLASSES = ["normal", "large", "binary", "relation", "opening", "closing"]
CLASSES += ["punctuation", "normal", "normal"]
OPERATOR, INNER = 1, 7
TOUCHING = "touching"
ALPHABETS = {"bold": "bold", "double": "bb", "fraktur": "frak"}
ALPHABETS |= {"script": "scr", "calligraphic": "cal", "sans": "sans"}
ALPHABETS |= {"monospace": "mono"}
# What is as wide as that above or under which it stands.
OVER = {"―": "overline", "¯": "overline", "⏞": "overbrace"}
OVER |= {"⎴": "overbracket", "⏜": "overparen"}
UNDER = {"―": "underline", "_": "underline", "⏟": "underbrace"}
UNDER |= {"⎵": "underbracket", "⏝": "underparen"}
SIDES = {"msub": "b", "msup": "t", "msubsup": "bt"}
SIDES |= {"munder": "b", "mover": "t", "munderover": "bt"}
ACCENTS = "^~¯˙¨´`˘ˇ˚→←↔\u20db\u20dc"
UNSEEN = re.compile("[\u2061-\u2064\u200b-\u200d\ufe00-\ufe0f]")
NEGATED = "\u0338"
NOTHING, POINT, NONE = Typst(""), Typst("point"), Typst("none")
THIN, PAD = Typst("0.5pt"), Typst("3pt")
# Deeper, Typst gives up, which measures boxes in boxes again and again.
MAX_DEPTH, BOXES = 50, ("mpadded", "menclose")
# Seconds and bytes for one formula.
MAX_TIME, MAX_MEMORY = 5, 200_000_000


def typeset(formulas: Sequence[tuple[str, bool]]) -> list[Formula]:
    """Set a notebook's formulas, in their order.

    Args:
        formulas: TeX without dollars, and whether it is displayed.
    """
    done = [Formula(tex, block) for tex, block in formulas]
    if not done:
        return done
    engine = quickjs.Context()
    engine.eval(Path(__file__).with_name("mathjax.js").read_text("utf-8"))
    engine.set_time_limit(MAX_TIME)
    engine.set_memory_limit(MAX_MEMORY)
    convert = engine.get("convert")

    def set_once(place: int) -> bool:
        """Set a formula; whether it waits for a label."""
        formula = done[place]
        try:
            tree = convert(place, formula.tex, formula.block)
            waits, root = json.loads(tree)
            setter = Setter()
            formula.typst = setter.formula(root)
        except (quickjs.JSException, RecursionError):
            return False
        formula.number, formula.unknown = setter.number, setter.unknown
        return waits

    for place in [place for place in range(len(done)) if set_once(place)]:
        set_once(place)
    return done


def ems(number: float) -> Typst:
    """A length for Typst."""
    return Typst(f"{number:.4g}em")


def space(number: float) -> Typst:
    """A distance."""
    return call("h", ems(number)) if number else NOTHING


def spread(words: str | list, count: int) -> list:
    """As many as there should be; the last one is said again."""
    found = (words.split() or [""]) if isinstance(words, str) else words
    return [*found, *found[-1:] * count][: max(count, 0)]


def said(node: Node | str) -> str:
    """What a node says, without any look."""
    return node if isinstance(node, str) else "".join(map(said, node["nodes"]))


def grows(node: Node) -> bool:
    """Whether it is a sign as large as what stands beside it."""
    return (
        node["kind"] == "mo" and node["stretchy"] and "minsize" not in node
    )


def joined(pieces: Sequence[Typst]) -> Typst:
    """Pieces in a row, of which some are nothing."""
    pieces = [piece for piece in pieces if piece]
    return join(pieces) if len(pieces) > 1 else Typst("".join(pieces))


def classed(body: Typst, kind: int) -> Typst:
    """One sign of a class; what is in it has its own."""
    body = call("math.class", "normal", body)
    if kind == OPERATOR:
        return call("math.op", body)
    name = CLASSES[max(kind, 0)]
    return body if name == "normal" else call("math.class", name, body)


def unnumbered(row: Node) -> tuple[list[Node], str | None]:
    """A row's cells, and the number beside it."""
    cells = row["nodes"]
    if row["kind"] == "mlabeledtr":
        return cells[1:], said(cells[0])
    return cells, None


class Setter:
    """Writes a formula; its methods are named by the node they write.

    Attributes:
        number: what stands at the right margin, such as "(1)"; "" if its
            rows have their own.
        unknown: commands that MathJax does not know.
    """

    def __init__(self) -> None:
        self.number: str | None = None
        self.unknown: list[str] = []
        self.depth = 0

    def formula(self, root: Node) -> Typst:
        """All of it; the only row of a table may be broken, too."""
        while len(root["nodes"]) == 1 and root["nodes"][0]["kind"] == "mtable":
            table = root["nodes"][0]
            if len(table["nodes"]) != 1:
                break
            cells, number = unnumbered(table["nodes"][0])
            self.number = number or self.number
            if len(cells) > 1:
                gaps = spread(table["em"]["columnspacing"], len(cells))
                pairs = zip([0, *gaps], cells, strict=False)
                return joined(
                    [p for g, c in pairs for p in (space(g), self.node(c))]
                )
            root = cells[0]
        return self.node(root)

    def node(self, node: Node) -> Typst:
        """A node, in its colour and size; "" if nothing is seen."""
        deeper = 8 if node["kind"] in BOXES else 1
        self.depth += deeper
        if self.depth > MAX_DEPTH:
            raise RecursionError
        made = getattr(self, f"_{node['kind']}", self.row)(node)
        self.depth -= deeper
        css = node.get("style", "")
        ink = colour(node.get("mathcolor", css.partition("color:")[2]))
        if made and ink:
            made = call("text", made, fill=rgb(ink))
        if made and node["size"] != 1:
            made = call("text", made, size=ems(node["size"]))
        ground = colour(node.get("mathbackground", ""))
        border = colour(css.partition("solid ")[2])
        if made and (ground or border) and node["kind"] != "mspace":
            look = {"fill": ground and rgb(ground), "pad": ems(node["em"]["lspace"][0])}
            made = self.box(node, made, stroke=border and rgb(border), **look)
        return made

    def styled(self, node: Node, body: Typst) -> Typst:
        """In the size that a node has."""
        name = "display" if node["displaystyle"] else "inline"
        name = (name, "script", "sscript")[max(0, min(node["scriptlevel"], 2))]
        return call(f"math.{name}", body)

    def box(self, node: Node, body: Typst, **options: object) -> Typst:
        """In a box, which holds an equation of its own."""
        inner = call("math.equation", self.styled(node, body))
        return classed(call("math-box", inner, **options), node["class"])

    def row(self, node: Node) -> Typst:
        """Side by side; delimiters at both ends grow with the rest."""
        nodes, pieces, spaced = node["nodes"], [], False
        fenced = len(nodes) > 1 and grows(nodes[0]) and grows(nodes[-1])
        for place, child in enumerate(nodes):
            if fenced and grows(child):
                made = self.token(child) or Typst("box()")
                if 0 < place < len(nodes) - 1:
                    made = call("math.mid", made)
            else:
                made = self.node(child)
            inner = child["class"] == INNER
            if made and (spaced or inner):
                # Typst's own distances end at a space.
                pieces.append(space(child["space"]))
            spaced = inner or not made or child["class"] < 0
            pieces.append(made)
        return call("math.lr", joined(pieces)) if fenced else joined(pieces)

    def _TeXAtom(self, node: Node) -> Typst:
        body = self.row(node)
        return body and classed(body, node["class"])

    def _mstyle(self, node: Node) -> Typst:
        body = self.row(node)
        return body and self.styled(node, body)

    def token(self, node: Node) -> Typst:
        """A sign, or a word, in its alphabet and class."""
        text = UNSEEN.sub("", unicodedata.normalize("NFC", said(node)))
        if not text:
            return NOTHING
        variant, kind = node["mathvariant"], node["class"]
        if node["kind"] == "mtext" and "mono" not in variant:
            self.unknown += re.findall(r"\\(?:[A-Za-z]+|.)", text)
        names = [name for word, name in ALPHABETS.items() if word in variant]
        names.insert(0, "italic" if "it" in variant else "upright")
        marks = [Typst(f"math.{name}") for name in names]
        operator = kind == OPERATOR and not node.get("largeop")
        name = "normal" if operator else CLASSES[max(kind, 0)]
        made = call("sign", text.replace(NEGATED, ""), name, *marks)
        if NEGATED in text:
            made = classed(call("math.cancel", made), kind)
        return call("math.op", made) if operator else made

    _mi = _mn = _mtext = _ms = token

    def _mo(self, node: Node) -> Typst:
        made = self.token(node)
        if not made or not node["stretchy"]:
            return made
        size = ems(node["em"]["minsize"][0]) if "minsize" in node else None
        return call("math.stretch", made, size=size)

    def _mspace(self, node: Node) -> Typst:
        if node.get("linebreak") == "newline":
            return Typst("linebreak()")
        names = ("width", "height", "depth")
        width, height, low = (node["em"][name][0] for name in names)
        ground = colour(node.get("mathbackground", ""))
        if not ground:
            return space(width)
        size = {"width": ems(width), "height": ems(height + low)}
        return call("box", **size, baseline=ems(low + 0.001), fill=rgb(ground))

    def _mfrac(self, node: Node) -> Typst:
        parts = [self.node(child) or "" for child in node["nodes"]]
        if "linethickness" in node and not node["em"]["linethickness"][0]:
            return call("math.vec", *parts, delim=NONE, gap=ems(0.3))
        return call("math.frac", *parts)

    def _msqrt(self, node: Node) -> Typst:
        return call("math.sqrt", self.row(node) or "")

    def _mroot(self, node: Node) -> Typst:
        body, index = (self.node(child) or "" for child in node["nodes"])
        return call("math.root", index, body)

    def _mphantom(self, node: Node) -> Typst:
        return call("hide", self.row(node) or "")

    def _menclose(self, node: Node) -> Typst:
        body, kinds = self.row(node) or "", node.get("notation", "").split()
        strikes = {kind[:4] for kind in kinds if kind.endswith("strike")}
        if strikes:
            options = {"inverted": strikes == {"down"} or None}
            options["cross"] = {"updi", "down"} <= strikes or None
            options["angle"] = Typst("90deg") if "hori" in strikes else None
            body = call("math.cancel", body, **options)
        sides = {"left", "right", "top", "bottom"}
        lines = {"box", "roundedbox", "circle"} & {*kinds}
        lines = sides if lines else sides & {*kinds}
        if not lines:
            return body
        stroke = call("", **dict.fromkeys(sorted(lines), THIN))
        round = Typst("50%") if "circle" in kinds else None
        return self.box(node, body, stroke=stroke, pad=PAD, radius=round)

    def _mpadded(self, node: Node) -> Typst:
        body, width, em = self.row(node), node.get("width", ""), node["em"]
        if not body or "mathbackground" in node:
            return body
        if rise := em["voffset"][0]:
            body = self.box(node, body, rise=ems(rise))
        if width.startswith(("+", "-")):
            left = em["lspace"][0]
            ends = space(left), space(em["width"][0] - left)
            body = joined([ends[0], body, ends[1]])
        elif width and not em["width"][0]:
            sides = {"-1width": "right", "-.5width": "center"}
            side = sides.get(node.get("lspace"), "left")
            body = self.box(node, body, lap=Typst(side))
        return body

    def scripts(self, node: Node) -> Typst:
        """What stands above and below something, or beside it."""
        base, *others = node["nodes"]
        if base["kind"] == "mstyle" and [*map(grows, base["nodes"])] == [True]:
            base = base["nodes"][0]
        made, options = self.node(base) or "", {}
        straight = node["kind"] not in ("msub", "msup", "msubsup")
        for side, other in zip(SIDES[node["kind"]], others, strict=False):
            text = said(other)
            if "border" in other.get("style", ""):
                text = "⎴" if side == "t" else "⎵"
            name = (OVER if side == "t" else UNDER).get(text)
            accent = other["kind"] == "mo" and (grows(other) or other["accent"])
            if straight and name and (accent or other["kind"] != "mo"):
                made = call(f"math.{name}", made)
            elif straight and accent and side == "t" and text in ACCENTS:
                size = None if grows(other) else Typst("0%")
                made = call("math.accent", made, text, size=size)
            else:
                options[side] = self.node(other) or None
        if any(options.values()) and not grows(base):
            name = "scripts" if node["beside"] else "limits"
            made = call(f"math.{name}", made)
        return call("math.attach", made, **options) if options else made

    _msub = _msup = _msubsup = _munder = _mover = _munderover = scripts

    def _mmultiscripts(self, node: Node) -> Typst:
        base, *rest = node["nodes"]
        made, places = call("math.scripts", self.node(base) or ""), "br tr"
        while rest:
            if rest[0]["kind"] == "mprescripts":
                places, rest = "bl tl", rest[1:]
                continue
            pair = zip(places.split(), rest[:2], strict=False)
            options = {side: self.node(n) or None for side, n in pair}
            made, rest = call("math.attach", made, **options), rest[2:]
        return made

    def _mtable(self, node: Node) -> Typst:
        rows = [unnumbered(row) for row in node["nodes"]]
        wide = max((len(cells) for cells, _ in rows), default=0)
        sides = spread(node["columnalign"], wide)
        gaps = [0, *spread(node["em"]["columnspacing"], wide - 1), 0]
        for n, width in enumerate(node.get("columnwidth", "").split()[:wide]):
            gaps[n] += 2 * (width == "fit")
        # Columns that touch are one to Typst, aligned where they do.
        for n in range(1, wide):
            if sides[n - 1 : n + 1] == ["right", "left"] and not gaps[n]:
                sides[n] = TOUCHING
        heights = spread(node["em"]["rowspacing"], len(rows))
        least = min(heights, default=0)
        written: list[list[Typst]] = []
        for (cells, number), height in zip(rows, heights, strict=True):
            done: list[Typst] = []
            for n, cell in enumerate(cells):
                made = self.cell(cell, sides[n], gaps[n], gaps[n + 1])
                if sides[n] == TOUCHING:
                    made = joined([done.pop(), made])
                done.append(made)
            if height > least and done:
                low = ems(0.25 + height - least)
                done[-1] = joined(
                    [done[-1], call("box", height=low, baseline=low)]
                )
            if number is not None:
                self.number = ""
                done += [Typst("[]")] * (wide - sides.count(TOUCHING) - len(done))
                done.append(call("numbered", number, Typst("margin")))
            written.append(done)
        rules: dict[str, list[int]] = {}
        for name, lines, count in (
            ("vline", "columnlines", wide),
            ("hline", "rowlines", len(rows)),
        ):
            kinds = enumerate(spread(node[lines], count - 1), 1)
            rules[name] = [n for n, kind in kinds if kind != "none"]
        rules["vline"] = [n - sides[:n].count(TOUCHING) for n in rules["vline"]]
        augment = call("", **rules, stroke=THIN)
        made = call(
            "math.mat",
            *written,
            delim=NONE,
            column_gap=ems(0),
            row_gap=ems(least),
            augment=augment if any(rules.values()) else None,
        )
        made = self.styled(node["nodes"][0] if rows else node, made)
        framed = node.get("frame") == "solid"
        return self.box(node, made, stroke=THIN, pad=PAD) if framed else made

    def cell(self, node: Node, side: str, left: float, right: float) -> Typst:
        """A cell, with half of the gaps beside it, and its alignment."""
        own = node.get("columnalign", side)
        if side == "center" and own != side:
            # The first and the last line of many.
            left, right = (0, 8) if own == "left" else (8, 0)
        return joined([
            POINT if side == "left" else NOTHING,
            space(left / 2),
            self.styled(node, self.row(node) or Typst("[]")),
            space(right / 2),
            POINT if side == "right" else NOTHING,
        ])
