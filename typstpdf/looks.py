"""How HTML looks in a browser: its style sheets, as far as paper can show.

`tinycss2` reads declarations, `soupsieve` finds what a selector means.
"""

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

import soupsieve
import tinycss2
import tinycss2.color4
from bs4 import BeautifulSoup, Tag
from soupsieve import SelectorSyntaxError

Look = dict[str, str]
KNOWN = re.compile(
    r"display|visibility|opacity|clip(-path)?|(max-)?(width|height)|color"
    r"|background(-color)?|font-(weight|style|size)|text-(align|decoration)"
    r"|text-decoration-line|float|direction|border|list-style(-type)?"
    r"|(page-)?break-(before|after|inside)"
)
# What elements and attributes look like without any style sheet.
ELEMENTS = {
    "center": {"text-align": "center"},
    "figure": {"text-align": "center"},
    "mark": {"background-color": "#ff0"},
}
NEVER = "template noscript script style title head datalist option select"
for name in (*NEVER.split(), "button"):
    ELEMENTS[name] = {"display": "none"}
COLOURS = dict(
    black="#3e424d", red="#c7322f", green="#007427", yellow="#a5722f",
    blue="#1d6fb8", magenta="#a03196", cyan="#258f8f", white="#8a8d91",
)  # fmt: skip
CLASSES = {
    "ansi-bold": {"font-weight": "bold"},
    "ansi-underline": {"text-decoration": "underline"},
    "ansi-default-inverse-fg": {"color": "#fff"},
    "ansi-default-inverse-bg": {"background-color": "#000"},
    "alert": {"background-color": "#f6f6f6"},
    "alert-info": {"background-color": "#e3eef9"},
    "alert-success": {"background-color": "#e3f3e1"},
    "alert-warning": {"background-color": "#fdf3e3"},
    "alert-danger": {"background-color": "#fdeaea"},
}
for name, colour in COLOURS.items():
    for end in ("", "-intense"):
        CLASSES[f"ansi-{name}{end}-fg"] = {"color": colour}
        CLASSES[f"ansi-{name}{end}-bg"] = {"background-color": colour}
ATTRIBUTES = {"align": "text-align", "bgcolor": "background-color"}
ATTRIBUTES |= {name: name for name in ("width", "height", "color")}
ATTRIBUTES["dir"] = "direction"


def styles(bodies: list[Tag]) -> dict[int, Look]:
    """What the style sheets say, by the ``id()`` of a tag."""
    found: list[tuple[tuple[int, ...], str, Look]] = []
    for body in bodies:
        for sheet in body("style"):
            if not sheet.find_parent("svg"):
                found += rules("".join(sheet.find_all(string=True)))
    looks: dict[int, Look] = defaultdict(dict)
    # The same rule stands in every table that pandas writes.
    unique = {(rank, where): look for rank, where, look in found}
    for (_, where), look in sorted(unique.items(), key=lambda r: r[0][0]):
        with contextlib.suppress(SelectorSyntaxError, NotImplementedError):
            selector = soupsieve.compile(where)
            for tag in (tag for b in bodies for tag in selector.select(b)):
                looks[id(tag)] |= look
    return looks


def rules(sheet: str) -> Iterator[tuple[tuple[int, ...], str, Look]]:
    """A style sheet's rules: rank, selector and declarations."""
    options = {"skip_comments": True, "skip_whitespace": True}
    for rule in tinycss2.parse_stylesheet(sheet, **options):
        if rule.type == "error":
            continue
        where = tinycss2.serialize(rule.prelude)
        if rule.type == "at-rule" and where.strip() == "print":
            yield from rules(tinycss2.serialize(rule.content or []))
        if rule.type == "qualified-rule":
            look = declared(tinycss2.serialize(rule.content))
            rank = [len(re.findall(sign, where)) for sign in ("#", r"[.:[]")]
            rank.append(len(re.findall(r"(?<![\w.#:-])[a-z]", where)))
            if look:
                yield tuple(rank), where, look


@cache
def declared(text: str) -> Look:
    """The declarations that paper can show."""
    options = {"skip_comments": True, "skip_whitespace": True}
    return {
        item.lower_name: tinycss2.serialize(item.value).strip().lower()
        for item in tinycss2.parse_blocks_contents(text, **options)
        if item.type == "declaration" and KNOWN.fullmatch(item.lower_name)
    }


def look_of(tag: Tag, sheets: dict[int, Look]) -> Look:
    """All that is known of a tag's look, the last word last."""
    look = dict(ELEMENTS.get(tag.name, {}))
    if tag.has_attr("hidden"):
        look["display"] = "none"
    for name in tag.get("class", []):
        look |= CLASSES.get(name, {})
    for name in ATTRIBUTES.keys() & tag.attrs.keys():
        value = str(tag[name]).strip().lower()
        unit = name in ("width", "height") and value.isdecimal()
        name = "float" if name == "align" and tag.name == "img" else name
        look[ATTRIBUTES.get(name, name)] = value + "px" * unit
    look |= sheets.get(id(tag), {})
    return look | declared(tag.get("style", ""))


def hidden(look: Look) -> bool:
    """Whether a browser does not show it."""
    return (
        look.get("display") == "none"
        or look.get("visibility") in ("hidden", "collapse")
        or look.get("opacity") in ("0", "0%")
        or look.get("max-height") in ("0", "0px")
        or look.get("clip", "").startswith("rect(")
        or look.get("clip-path") in ("inset(50%)", "inset(100%)")
    )


def colour(value: str) -> tuple[float, ...] | None:
    """Red, green, blue and opacity, from 0 to 1; None if there is none."""
    found = tinycss2.color4.parse_color(value)
    if found is None or isinstance(found, str):
        return None
    rgb = tuple(min(max(part or 0, 0), 1) for part in found.to("srgb"))
    return rgb if rgb[3] else None


def ground(look: Look) -> list[tuple[tuple[float, ...], float]]:
    """The colour behind it, or the colours of a bar with their places.

    Places are parts of the width, from 0 to 1; of one colour, 0.
    """
    value = look.get("background-color") or look.get("background", "")
    if "gradient" not in value:
        words = re.findall(r"[\w#-]+(?:\([^)]*\))?", value)
        return [(found, 0) for word in words if (found := colour(word))][:1]
    stops = re.findall(r"([\w#-]+(?:\([^)]*\))?) +([\d.]+)%", value)
    clear = (1, 1, 1, 0)
    return [
        (colour(name) or clear, min(float(place) / 100, 1))
        for name, place in stops
    ]


def parse(html: str) -> Tag:
    """HTML as a browser reads it."""
    return BeautifulSoup(f"<body>{html}", "html5lib").body
