"""Markdown and HTML as Jupyter shows them, to Typst.

nbconvert's renderer turns Markdown into the HTML that Jupyter shows, `Page`
puts right what paper cannot show, and pandoc turns it into Typst: the whole
notebook at once, as starting pandoc takes longer than converting a cell.
"""

import base64
import contextlib
import json
import os
import re
import subprocess
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import pypandoc
from bs4 import BeautifulSoup, Comment, Tag
from nbconvert.filters.markdown_mistune import (
    IPythonRenderer,
    MarkdownWithMath,
)

# Spelt out; among them the marks of `Page`.
CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0\ufdd1]"
)
PLACE = re.compile("\ufdd0(\\d+)\ufdd1")
# A formula that pandoc left as words, which begin with an escaped dollar.
BEYOND = re.compile(r'#formula\("((?:[^"\\]|\\.)*)", \w+\)\[\\')
IN_HTML = re.compile(r"(?s)(?<!\\)\$\$(.+?)\$\$|(?<!\\)\$([^$\n]+)\$")
MEDIA = ("iframe", "embed", "object", "video", "audio")
PICTURE_FILE = re.compile(r"(?i).+\.(pdf|svg|png|jpe?g|gif|webp)")
LINK = re.compile(r"(?i)(https?|ftp|mailto):|[^:]+([/?#]|$)|#.")
CALLOUT = {"typst:fill": "luma(246)", "typst:inset": "1em"}


class Renderer(IPythonRenderer):
    """Jupyter's Markdown as HTML that pandoc understands."""

    def inline_math(self, body: str, kind: str = "math/tex") -> str:
        """Pandoc knows a formula by the mark that MathJax once gave it."""
        tex = body.replace("</", "< /")
        return f'<script type="{kind}">{tex}</script>'

    def block_math(self, body: str) -> str:
        """A displayed formula."""
        return self.inline_math(body, "math/tex; mode=display")

    def latex_environment(self, name: str, body: str) -> str:
        r"""A formula in ``\begin`` and ``\end`` instead of dollars."""
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def block_html(self, html: str) -> str:
        """HTML; Jupyter finds formulas in it, too."""
        return IN_HTML.sub(
            lambda m: (
                self.block_math(m[1]) if m[1] else self.inline_math(m[2])
            ),
            html,
        )

    def block_code(self, code: str, info: str | None = None) -> str:
        """Code for Typst to colour."""
        return preformatted(code, (info or "").partition(" ")[0])

    def _embed_image_or_attachment(self, src: str) -> str:
        return src  # Page fetches it, and only from the notebook's folder


def render(markdown: str) -> str:
    """What Jupyter shows of a Markdown text: HTML."""
    renderer = Renderer(escape=False, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer).render(markdown)


def preformatted(text: str, kind: str) -> str:
    """Code in a language, or an output as the template calls it."""
    return f'<pre class="{escape(kind)}">\n{escape(text)}</pre>\n'


def words(tag: Tag) -> str:
    """What a tag says, in one line."""
    return " ".join(tag.get_text(" ").split())


def quote(text: str) -> str:
    """A Typst string literal."""
    return json.dumps(text, ensure_ascii=False)


def pandoc(html: str) -> str:
    """Turn HTML into Typst."""
    # The one that came with pip: another on PATH may not know Typst.
    files = Path(pypandoc.__file__).parent / "files"
    program = files / ("pandoc.exe" if os.name == "nt" else "pandoc")
    # The sandbox keeps pandoc from opening files a text names.
    options = ["--sandbox", "--quiet", "--wrap=none", "--preserve-tabs"]
    options += ["--from=html+gfm_auto_identifiers", "--to=typst"]
    command = [program, *options]
    done = subprocess.run(
        command, input=html.encode(), stdout=subprocess.PIPE, check=True
    )
    return done.stdout.decode()


@dataclass
class Piece:
    """What a cell or one of its outputs shows, as HTML."""

    where: str  # the cell, for a person
    html: str
    attachments: dict[str, Any] = field(default_factory=dict)
    warning: str = ""

    @cached_property
    def body(self) -> Tag:
        """The HTML as a browser reads it, without what it does not show."""
        html = CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", self.html)
        body = BeautifulSoup(f"<body>{html}", "html5lib").body
        for tag in body(True):
            formula = tag.get("type", "").startswith("math/tex")
            if tag.name in ("script", "style", "title") and not formula:
                tag.decompose()
            # pandoc would write such an attribute on as code.
            for name in [
                name for name in tag.attrs or {} if "typst:" in name
            ]:
                del tag[name]
        for comment in body(string=lambda text: isinstance(text, Comment)):
            comment.extract()
        return body

    def shows(self) -> bool:
        """Whether there is anything to see."""
        return bool(words(self.body) or self.body(["img", "svg", "hr"]))


class Page:
    """A notebook's pieces, turned from HTML into Typst.

    Attributes:
        title: the heading that begins the notebook, or ''.
        files: each piece in Typst (``part-0.typ``, …) and each picture
            (``picture-0.typ``, which shows ``picture-0``, …).
        where: how to name the cell of each file to a person.
        warnings: a line for each thing that paper shows differently.
    """

    def __init__(
        self, pieces: list[Piece], folder: Path, author: str
    ) -> None:
        self.folder = folder.resolve()
        self.title = self.heading = ""
        self.levels: list[int] = []
        self.inserts: list[str] = []
        self.files: dict[str, bytes] = {}
        self.where: dict[str, str] = {}
        self.warnings: list[str] = []
        between = uuid.uuid4().hex
        if pieces:
            self._take_title(pieces[0].body, author)
        html = [self._html(piece) for piece in pieces]
        typst = pandoc(f"<p>{between}</p>".join(html))
        typst = PLACE.sub(lambda match: self.inserts[int(match[1])], typst)
        for piece, part in zip(pieces, typst.split(between), strict=False):
            self._add("part", part, piece)
            for tex in BEYOND.findall(part):
                self._warn(piece, f"the formula {tex} is printed as TeX")

    def _add(self, kind: str, typst: str, piece: Piece) -> str:
        """Keep a file; return its name."""
        name = f"{kind}-{len(self.files)}.typ"
        self.files[name] = f'#import "report.typ": *\n{typst}'.encode()
        self.where[name] = piece.where
        return name

    def replace(self, name: str, data: bytes, warning: str) -> None:
        """Exchange a file for what can be set."""
        where = self.where.get(name, "the title")
        self.files[name] = data
        self.warnings.append(f"{where}: {warning}")

    def _warn(self, piece: Piece, what: str) -> None:
        self.warnings.append(f"{piece.where}: {what}")

    def _insert(self, typst: str) -> str:
        """What stands for Typst of our own while pandoc works."""
        self.inserts.append(typst)
        return f"\ufdd0{len(self.inserts) - 1}\ufdd1"

    def _take_title(self, body: Tag, author: str) -> None:
        """The template prints both, not always where the notebook does."""
        heading = body.find(True)
        if heading and heading.name == "h1":
            self.title = words(heading)
            below = heading.find_next_sibling(True)
            heading.decompose()
            if below and words(below) == author:
                below.decompose()

    def _html(self, piece: Piece) -> str:
        """A piece as HTML that pandoc reads well."""
        if piece.warning:
            self._warn(piece, piece.warning)
        for tag in piece.body(True):
            classes = tag.get("class", [])
            if tag.name in MEDIA and not words(tag):
                address = tag.get("src") or tag.get("data", "")
                tag.name, tag.attrs, tag.string = (
                    "a",
                    {"href": address},
                    address,
                )
            if re.fullmatch("h[1-6]", tag.name):
                self._set_heading(tag)
            elif tag.name in ("script", "math"):
                self._set_formula(tag)
            elif tag.name in ("img", "svg"):
                self._set_picture(piece, tag)
            elif tag.name == "input" and tag.get("type") == "checkbox":
                tag.replace_with("☒ " if tag.has_attr("checked") else "☐ ")
            elif tag.name == "summary":
                tag.name = "p"
            elif "alert" in classes:
                tag.attrs |= CALLOUT
            elif "dataframe" in classes:
                for cell in tag(["td", "th"]):
                    cell["style"] = "text-align: right"
        for link in piece.body("a"):
            if not LINK.match(link.get("href", "")):
                del link["href"]
        return piece.body.decode_contents()

    def _set_heading(self, tag: Tag) -> None:
        self.heading = words(tag)
        # A screen reader would miss a level that is left out.
        level = int(tag.name[1])
        self.levels = [upper for upper in self.levels if upper < level]
        self.levels.append(level)
        tag.name = f"h{len(self.levels)}" if self.heading else "p"

    def _set_formula(self, tag: Tag) -> None:
        tex = (tag.string or words(tag)).strip()
        block = "display" in f"{tag.get('type')} {tag.get('display')}"
        call = f"#formula({quote(tex)}, {str(block).lower()})["
        tag.insert_before(self._insert(call))
        tag.insert_after(self._insert("];"))

    def _set_picture(self, piece: Piece, tag: Tag) -> None:
        address, alt = tag.get("src", ""), tag.get("alt", "").strip()
        if tag.name == "svg":
            tag["xmlns"] = "http://www.w3.org/2000/svg"
            data = str(tag).encode()
        else:
            data = self._fetch(piece, address)
        if data is None:
            self._warn(piece, f"a link stands for the picture {address[:80]}")
            tag.name = "span" if tag.find_parent("a") else "a"
            tag.attrs, tag.string = {"href": address}, alt or address[:200]
            return
        name = f"picture-{len(self.files)}"
        centred = bool(tag.find_parent(["center", "figure"]))
        alt = quote(alt or self.heading or "picture")
        arguments = [
            f"image({quote(name)}, alt: {alt})",
            f"width: {width(tag)}",
            f"centred: {str(centred).lower()}",
        ]
        typst = f"#picture({', '.join(arguments)})"
        file = self._add("picture", typst, piece)
        self.files[name], self.where[name] = data, piece.where
        tag.replace_with(self._insert(f'#include "{file}";'))

    def _fetch(self, piece: Piece, address: str) -> bytes | None:
        """A picture's bytes; None if it is elsewhere."""
        scheme, _, rest = address.partition(":")
        if scheme == "data":
            head, _, data = rest.partition(",")
            plain = unquote_to_bytes(data)
            return decoded(plain) if head.endswith(";base64") else plain
        if scheme == "attachment":
            bundle = piece.attachments.get(unquote(rest), {})
            return next(map(decoded, bundle.values()), None)
        with contextlib.suppress(OSError, ValueError):
            path = Path(self.folder, unquote(address)).resolve()
            inside = path.is_relative_to(self.folder)
            if inside and PICTURE_FILE.fullmatch(path.name):
                return path.read_bytes()
        return None


def decoded(data: str | bytes) -> bytes:
    """A drawing's text, or what base 64 holds; nothing if it is damaged."""
    if data.lstrip()[:1] in ("<", b"<"):
        return data.encode() if isinstance(data, str) else data
    try:
        return base64.b64decode(data)
    except ValueError:
        return b""


def width(tag: Tag) -> str:
    """The width that HTML asks for, in Typst's words."""
    asked = f"{tag.get('style')}; width: {tag.get('width')}"
    found = re.search(
        r"(?<![-\w])width: *([1-9]\d{0,4})[.\d]*(%|px|$|;)", asked
    )
    if not found:
        return "auto"
    # A pixel of CSS is 1/96 inch.
    return f"{found[1]}%" if found[2] == "%" else f"{found[1]}pt * 0.75"
