r"""Formulas: MathJax reads their TeX, and its MathML becomes Typst.

MathJax runs in QuickJS (``mathjax.entry.js``), once for a notebook: a macro
holds in later formulas, a label in all. `Setter` writes what it makes of them
as calls of Typst's math functions, around signs in string literals.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import quickjs

from typstpdf.write import Formula, Typst, call, colour, join

Node = dict[str, Any]

# TeX's classes: what two signs are to each other decides their distance.
CLASSES = ["normal", "large", "binary", "relation", "opening", "closing"]
CLASSES += ["punctuation", "normal", "normal"]
OPERATOR, INNER = 1, 7
ALPHABETS = {"bold": "bold", "double": "bb", "frak": "frak", "script": "scr"}
ALPHABETS |= {"calligr": "cal", "sans": "sans", "monospace": "mono"}
SIDES = {"msub": "b", "msup": "t", "msubsup": "bt"}
SIDES |= {"munder": "b", "mover": "t", "munderover": "bt"}
# What is as wide as that above or under which it stands.
WIDE = {"t―": "overline", "t¯": "overline", "t⏞": "overbrace"}
WIDE |= {"t⎴": "overbracket", "t⏜": "overparen", "b―": "underline"}
WIDE |= {"b_": "underline", "b⏟": "underbrace", "b⎵": "underbracket"}
WIDE |= {"b⏝": "underparen"}
ACCENTS = {*"^~¯˙¨´`˘ˇ˚→←↔\u20db\u20dc"}
NOTHING, POINT, THIN = Typst(""), Typst("point"), Typst("0.5pt")
# Deeper, Typst gives up, which measures boxes in boxes again and again.
MAX_DEPTH, BOXES = 50, ("mpadded", "menclose")
# For one formula, in seconds and bytes.
MAX_TIME, MAX_MEMORY = 2, 200_000_000


def typeset(formulas: Sequence[tuple[str, bool]]) -> list[Formula]:
    """Set a notebook's formulas: TeX, and whether it is displayed."""
    done = [Formula(tex, block) for tex, block in formulas]
    if not done:
        return done
    engine = quickjs.Context()
    engine.eval(Path(__file__).with_name("mathjax.js").read_text("utf-8"))
    engine.set_time_limit(MAX_TIME)
    engine.set_memory_limit(MAX_MEMORY)
    convert = engine.get("convert")
    waiting = list(range(len(done)))
    for _ in ("all", "with labels that come later"):
        for place in [*waiting]:
            formula, setter = done[place], Setter()
            waiting.remove(place)
            try:
                tree = convert(place, formula.tex, formula.block)
                waits, root = json.loads(tree)
                formula.typst = setter.formula(root)
            except (quickjs.JSException, RecursionError):
                continue
            formula.number, formula.unknown = setter.number, setter.unknown
            waiting += [place] * waits
    return done


def em(node: Node, name: str) -> float:
    """A length that a node has."""
    return node["em"].get(name, [0])[0]


def ems(number: float) -> Typst:
    """A length for Typst."""
    return Typst(f"{number:.4g}em")


def space(number: float) -> Typst:
    """A distance."""
    return call("h", ems(number)) if number else NOTHING


def row_of(*pieces: str) -> Typst:
    """Pieces side by side, of which some are nothing."""
    found = [piece for piece in pieces if piece]
    return join(found) if found[1:] else Typst("".join(found))


def spread(given: str | list, count: int) -> list:
    """As many as there should be; the last one is said again."""
    found = (given.split() or [""]) if isinstance(given, str) else given
    return [*found, *found[-1:] * count][: max(count, 0)]


def between(lines: str, count: int) -> list[int]:
    """Which of so many columns or rows have a line behind them."""
    kinds = enumerate(spread(lines, count - 1), 1)
    return [place for place, kind in kinds if kind != "none"]


def classed(body: Typst, kind: int) -> Typst:
    """One sign of a class; what is in it has its own."""
    body = call("math.class", "normal", body)
    if kind == OPERATOR:
        return call("math.op", body)
    name = CLASSES[max(kind, 0)]
    return body if name == "normal" else call("math.class", name, body)


def styled(node: Node, body: Typst) -> Typst:
    """In the size that a node has."""
    return call(f"math.{node['level']}", body)


def box(node: Node, body: Typst, **options: object) -> Typst:
    """In a box, which holds an equation of its own."""
    inner = call("math.equation", styled(node, body))
    return classed(call("math-box", inner, **options), node["class"])


class Setter:
    """Writes a `Formula`; its methods are named by the node they write."""

    def __init__(self) -> None:
        self.number: str | None = None
        self.unknown: list[str] = []
        self.depth = 0

    def formula(self, root: Node) -> Typst:
        """All of it; the only row of a table may be broken, too."""
        while [child["kind"] for child in root["nodes"]] == ["mtable"]:
            table = root["nodes"][0]
            if len(table["nodes"]) != 1:
                break
            row = table["nodes"][0]
            self.number = row["number"] or self.number
            if len(row["nodes"]) != 1:
                gaps = spread(table["em"]["columnspacing"], len(row["nodes"]))
                pieces = [NOTHING]
                for cell, gap in zip(row["nodes"], gaps, strict=True):
                    pieces += [self.node(cell), space(gap)]
                return row_of(*pieces[:-1])
            root = row["nodes"][0]
        return self.node(root)

    def node(self, node: Node) -> Typst:
        """A node, in its colour and size; "" if nothing is seen."""
        deeper = 8 if node["kind"] in BOXES else 1
        self.depth += deeper
        if self.depth > MAX_DEPTH:
            raise RecursionError
        made = getattr(self, f"_{node['kind']}", self.row)(node)
        self.depth -= deeper
        if not made:
            return NOTHING
        css = node.get("style", "")
        ink = colour(node.get("mathcolor", css.partition("color:")[2]))
        ground = colour(node.get("mathbackground", ""))
        border = colour(css.partition("solid ")[2])
        if ink:
            made = call("text", made, fill=ink)
        if node["size"] != 1:
            made = call("text", made, size=ems(node["size"]))
        if (ground or border) and node["kind"] != "mspace":
            pad = ems(em(node, "lspace"))
            made = box(node, made, pad=pad, fill=ground, stroke=border)
        return made

    def row(self, node: Node) -> Typst:
        """Side by side; delimiters at both ends grow with the rest."""
        nodes, pieces, spaced = node["nodes"], [], False
        fenced = len(nodes) > 1 and nodes[0]["grows"] and nodes[-1]["grows"]
        for child in nodes:
            if fenced and child["grows"]:
                made = self.token(child) or Typst("box()")
                if child is not nodes[0] and child is not nodes[-1]:
                    made = call("math.mid", made)
            else:
                made = self.node(child)
            inner = child["class"] == INNER
            if made and (spaced or inner):
                # Typst's own distances end at a space.
                pieces.append(space(child["space"]))
            spaced = inner or not made or child["class"] < 0
            pieces.append(made)
        body = row_of(*pieces)
        return call("math.lr", body) if fenced else body

    def _TeXAtom(self, node: Node) -> Typst:
        body = self.row(node)
        return body and classed(body, node["class"])

    def _mstyle(self, node: Node) -> Typst:
        body = self.row(node)
        return body and styled(node, body)

    def token(self, node: Node) -> Typst:
        """A sign, or a word, in its alphabet and class."""
        text = node["text"]
        if not text:
            return NOTHING
        variant, kind = node["mathvariant"], node["class"]
        if node["kind"] == "mtext" and "mono" not in variant:
            self.unknown += re.findall(r"\\(?:[A-Za-z]+|.)", text)
        names = [name for word, name in ALPHABETS.items() if word in variant]
        names.insert(0, "italic" if "it" in variant else "upright")
        operator = kind == OPERATOR and not node.get("largeop")
        name = "normal" if operator else CLASSES[max(kind, 0)]
        marks = [Typst(f"math.{name}") for name in names]
        # A combining stroke, where no sign has one of its own.
        made = call("sign", text.replace("\u0338", ""), name, *marks)
        if "\u0338" in text:
            made = classed(call("math.cancel", made), kind)
        return call("math.op", made) if operator else made

    _mi = _mn = _mtext = _ms = token

    def _mo(self, node: Node) -> Typst:
        made = self.token(node)
        if not made or not node["stretchy"]:
            return made
        size = ems(em(node, "minsize")) if "minsize" in node else None
        return call("math.stretch", made, size=size)

    def _mspace(self, node: Node) -> Typst:
        if node.get("linebreak") == "newline":
            return Typst("linebreak()")
        low = em(node, "depth")
        ground = colour(node.get("mathbackground", ""))
        if not ground:
            return space(em(node, "width"))
        size = {"width": ems(em(node, "width")), "fill": ground}
        size["height"] = ems(em(node, "height") + low)
        return call("box", **size, baseline=ems(low + 0.001))

    def _mfrac(self, node: Node) -> Typst:
        parts = [self.node(child) or "" for child in node["nodes"]]
        if "linethickness" in node and not em(node, "linethickness"):
            return call("math.vec", *parts, delim=Typst("none"), gap=ems(0.3))
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
            cross = {"updi", "down"} <= strikes
            angle = Typst("90deg") if "hori" in strikes else None
            turned = strikes == {"down"}
            options = {"cross": cross, "inverted": turned, "angle": angle}
            return call("math.cancel", body, **options)
        sides = [s for s in ("left", "right", "top", "bottom") if s in kinds]
        stroke = call("", **dict.fromkeys(sides, THIN)) if sides else THIN
        round_ = Typst("50%") if "circle" in kinds else None
        return box(node, body, stroke=stroke, pad=ems(0.3), radius=round_)

    def _mpadded(self, node: Node) -> Typst:
        body, width = self.row(node), node.get("width", "")
        if not body or "mathbackground" in node:
            return body
        if em(node, "voffset"):
            body = box(node, body, rise=ems(em(node, "voffset")))
        if width.startswith(("+", "-")):
            left = em(node, "lspace")
            right = em(node, "width") - left
            body = row_of(space(left), body, space(right))
        elif width and not em(node, "width"):
            sides = {"-1width": "right", "-.5width": "center"}
            side = sides.get(node.get("lspace"), "left")
            body = box(node, body, lap=Typst(side))
        return body

    def scripts(self, node: Node) -> Typst:
        """What stands above and below something, or beside it."""
        base, *others = node["nodes"]
        made, options = self.node(base) or "", {}
        for side, other in zip(SIDES[node["kind"]], others, strict=False):
            sign = other["text"]
            if "border" in other.get("style", ""):
                sign = {"t": "⎴", "b": "⎵"}[side]
            wide = WIDE.get(f"{side}{sign}")
            accent = other["accent"] and side == "t" and sign in ACCENTS
            if node["kind"].startswith("ms"):
                wide = accent = None
            if wide and (other["grows"] or other["kind"] != "mo"):
                made = call(f"math.{wide}", made)
            elif accent:
                size = None if other["grows"] else Typst("0%")
                made = call("math.accent", made, sign, size=size)
            else:
                options[side] = self.node(other) or None
        if not options:
            return made
        if not base["grows"]:
            name = "scripts" if node["beside"] else "limits"
            made = call(f"math.{name}", made)
        return call("math.attach", made, **options)

    _msub = _msup = _msubsup = _munder = _mover = _munderover = scripts

    def _mmultiscripts(self, node: Node) -> Typst:
        base, *rest = node["nodes"]
        made, places = call("math.scripts", self.node(base) or ""), "br tr"
        while rest:
            if rest[0]["kind"] == "mprescripts":
                places = "bl tl"
                rest = rest[1:]
            pair = zip(places.split(), rest[:2], strict=False)
            options = {side: self.node(n) or None for side, n in pair}
            made, rest = call("math.attach", made, **options), rest[2:]
        return made

    def _mtable(self, node: Node) -> Typst:
        rows = node["nodes"]
        wide = max((len(row["nodes"]) for row in rows), default=0)
        sides = spread(node["columnalign"], wide)
        gaps = [0, *spread(node["em"]["columnspacing"], wide - 1), 0]
        for n, width in enumerate(node.get("columnwidth", "").split()[:wide]):
            gaps[n] += 2 * (width == "fit")
        written: list[list[Typst]] = []
        for row in rows:
            cells = [
                self.cell(cell, sides[n], gaps[n] / 2, gaps[n + 1] / 2)
                for n, cell in enumerate(row["nodes"])
            ]
            if row["number"]:
                self.number = ""
                cells += [Typst("[]")] * (wide - len(cells))
                cells.append(call("numbered", row["number"], Typst("margin")))
            written.append(cells)
        rules = {"vline": between(node["columnlines"], wide)}
        rules["hline"] = between(node["rowlines"], len(rows))
        options = {"delim": Typst("none"), "column_gap": ems(0)}
        heights = spread(node["em"]["rowspacing"], len(rows) - 1)
        options["row_gap"] = ems(max(heights, default=0))
        if any(rules.values()):
            options["augment"] = call("", **rules, stroke=THIN)
        made = call("math.mat", *written, **options)
        made = styled(rows[0] if rows else node, made)
        framed = node.get("frame") == "solid"
        return box(node, made, stroke=THIN, pad=ems(0.3)) if framed else made

    def cell(self, node: Node, side: str, left: float, right: float) -> Typst:
        """A cell with its part of the gaps, and where it is aligned."""
        if side != node["columnalign"]:
            # The first and the last line of many.
            left, right = (0, 4) if node["columnalign"] == "left" else (4, 0)
        return row_of(
            POINT if side == "left" else NOTHING,
            space(left),
            styled(node, self.row(node) or Typst("[]")),
            space(right),
            POINT if side == "right" else NOTHING,
        )
