"""How HTML looks in a browser: its style sheets, as far as paper can show.

`css_inline` finds what a style sheet's rules mean and writes it into the
tags' ``style``, `tinycss2` reads that.
"""

import re
from functools import lru_cache
from pathlib import Path

import css_inline
import tinycss2
from bs4 import BeautifulSoup, Tag
from jupyter_core.paths import jupyter_path

from typstpdf.cells import address

Look = dict[str, str]
SHEET = Path(__file__).with_name("page.css").read_text()
# nbconvert's own, of which the colours of terminals and alerts are taken.
CLASSIC = jupyter_path("nbconvert/templates/classic/static/style.css")
CLASSIC = next(path for path in map(Path, CLASSIC) if path.exists())
COLOURS = re.compile(r"\.(?:ansi|alert)-[a-z-]+ \{[^}]*\}")
STYLE = re.compile(r"(?is)<style\b[^>]*>(.*?)</style>")
PRINT = re.compile(r"@media\s+print\s*\{((?:[^{}]*\{[^{}]*\})*\s*)\}")
# Not those that stand in a picture's address.
SVG = re.compile(r"(?s)(?<!,)<svg\b([^>]*)>.*?</svg>")
# In names that have a shorter one, which is then the only one.
LONGER = r"(?<=background)-(color|image)(?=\s*:)|page-(?=break)"
LONGER = re.compile(rf"{LONGER}|(?<=list-style)-type|(?<=decoration)-line")
HIDDEN = re.compile(
    r"(?i)(?<![\w-])(display:\s*none|visibility:\s*(hidden|collapse)"
    r"|(opacity|max-height|font-size):\s*0(%|px)?|clip:\s*rect"
    r"|clip-path:\s*inset\((50|100)%\)|left:\s*-\d{4,}px)"
    r"\s*(;|\(|$|!)"
)


def parse(pages: list[str]) -> list[Tag]:
    """Pieces of HTML as a browser reads them, with all their style sheets.

    Drawings become pictures.
    """
    # The same sheet stands in every table that pandas writes.
    sheets = [SHEET, *COLOURS.findall(CLASSIC.read_text())]
    sheets += STYLE.findall("".join(pages))
    css = PRINT.sub(r"\1", "\n".join(dict.fromkeys(sheets)))
    htmls = [SVG.sub(drawing, inlined(page, css)) for page in pages]
    return [BeautifulSoup(html, "html.parser") for html in htmls]


def inlined(html: str, css: str) -> str:
    """HTML with a style sheet in its tags, complete as a browser reads it."""
    inliner = css_inline.CSSInliner(load_remote_stylesheets=False)
    try:
        return inliner.inline_fragment(html, css)
    except css_inline.InlineError:
        # It takes no style that a browser understands in part only.
        page = BeautifulSoup(html, "html.parser")
        for tag in page.select("[style]"):
            look = declared(tag["style"]).items()
            tag["style"] = "; ".join(f"{name}: {text}" for name, text in look)
        return inliner.inline_fragment(str(page), css)


def drawing(found: re.Match) -> str:
    """A drawing as a picture."""
    return f'<img src="{address(found[0])}"{found[1]}>'


@lru_cache(maxsize=10_000)
def declared(style: str) -> Look:
    """The declarations of a tag's ``style``."""
    return {
        item.lower_name: tinycss2.serialize(item.value).strip().lower()
        for item in tinycss2.parse_blocks_contents(LONGER.sub("", style))
        if item.type == "declaration"
    }


def look_of(tag: Tag) -> Look:
    """How a tag looks: what its attributes say, then the style sheets."""
    return tag.attrs | declared(tag.get("style", ""))
