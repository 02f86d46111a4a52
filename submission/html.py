"""Markdown and HTML as Jupyter shows them, to Typst.

nbconvert's renderer turns Markdown into the HTML that Jupyter shows, `Page`
puts right what paper cannot show, and pandoc turns it into Typst: the whole
notebook at once, as starting pandoc takes longer than converting a cell.
"""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pypandoc
from bs4 import BeautifulSoup, Tag
from nbconvert.filters.markdown_mistune import (
    IPythonRenderer,
    MarkdownWithMath,
)

# Typst of our own passes pandoc as a word that no notebook can hold; capital,
# as in a heading's label, which pandoc writes small, it must not be found.
MARK = f"Q{uuid.uuid4().hex.upper()}Q"
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# A formula that pandoc left as words, which begin with an escaped dollar.
BEYOND = re.compile(r'#formula\("((?:[^"\\]|\\.)*)", \w+\)\[\\')
IN_HTML = re.compile(r"(?s)(?<!\\)\$\$(.+?)\$\$|(?<!\\)\$([^$\n]+)\$")
UNSEEN = ':is(style, title, script:not([type^="math/tex"])):not(svg *)'
MEDIA = ("iframe", "embed", "object", "video", "audio")
PICTURE_FILE = re.compile(r"(?i).+\.(pdf|svg|png|jpe?g|gif|webp)")
LINK = re.compile(r"(?i)(https?|ftp|mailto):|[^:]+([/?#]|$)|#.")
WIDTH = re.compile(r"(?<![-\w])width: *([1-9]\d{0,4})[.\d]*(%|px|$|;)")
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
        """Code for Typst to colour, below a language that nobody knows."""
        html = BeautifulSoup(super().block_code(code, info), "html5lib")
        language = (info or "").strip().partition(" ")[0]
        return preformatted(html.get_text().rstrip(), language)

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


def mark(typst: str) -> str:
    """A word that becomes this Typst behind pandoc."""
    return f"{MARK}{typst.encode().hex()}{MARK}"


def pandoc(html: str) -> str:
    """Turn HTML into Typst."""
    # The one that came with pip: another on PATH may not know Typst.
    files = Path(pypandoc.__file__).parent / "files"
    program = shutil.which("pandoc", path=files)
    # The sandbox keeps pandoc from opening files a text names.
    options = ["--sandbox", "--quiet", "--wrap=none", "--preserve-tabs"]
    options += ["--from=html+gfm_auto_identifiers", "--to=typst"]
    typst = subprocess.check_output([program, *options], input=html.encode())
    return re.sub(
        f"{MARK}(\\w*?){MARK}",
        lambda match: bytes.fromhex(match[1]).decode(),
        typst.decode(),
    )


@dataclass
class Piece:
    """What a cell or one of its outputs shows."""

    where: str  # the cell, for a person
    html: str
    attachments: dict[str, Any] = field(default_factory=dict)
    warning: str = ""

    @cached_property
    def body(self) -> Tag:
        """The HTML as a browser reads it, without what it does not show."""
        html = CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", self.html)
        body = BeautifulSoup(f"<body>{html}", "html5lib").body
        for tag in body.select(UNSEEN):
            tag.decompose()
        return body

    def shows(self) -> bool:
        """Whether there is anything to see."""
        return bool(
            words(self.body) or self.body(["img", "svg", "hr", *MEDIA])
        )


class Page:
    """A notebook's pieces, turned from HTML into Typst.

    Attributes:
        files: each piece in Typst (``part-0.typ``, …), in their order, and
            each picture (``picture-0``, …).
        where: how to name the cell of each file to a person.
        warnings: a line for each thing that paper shows differently.
    """

    def __init__(self, pieces: list[Piece], folder: Path) -> None:
        self.folder = folder.resolve()
        self.heading = ""
        self.levels: list[int] = []
        self.files: dict[str, bytes] = {}
        self.where: dict[str, str] = {}
        self.warnings: list[str] = []
        html = ""
        for number, piece in enumerate(pieces):
            self._prepare(piece)
            html += f"<p>{MARK}{number}</p>{piece.body.decode_contents()}"
        for numbered in pandoc(html).split(MARK)[1:]:
            number, part = re.fullmatch(r"(?s)(\d+)(.*)", numbered).groups()
            where = pieces[int(number)].where
            self.where[name := f"part-{number}.typ"] = where
            self.files[name] = f'#import "report.typ": *{part}'.encode()
            for tex in BEYOND.findall(part):
                self.warn(where, f"the formula {tex} is printed as TeX")

    def warn(self, where: str, what: str) -> None:
        """Say what is shown differently: once, and in one line."""
        line = " ".join(f"{where}: {what}".split())
        if line not in self.warnings:
            self.warnings.append(line)

    def replace(self, name: str, data: bytes, warning: str) -> bool:
        """Exchange a file for what can be set; whether that is new."""
        if new := self.files[name] != data:
            self.files[name] = data
            self.warn(self.where.get(name, "the title"), warning)
        return new

    def _prepare(self, piece: Piece) -> None:
        """Put right what pandoc would not, or paper does not show."""
        if piece.warning:
            self.warn(piece.where, piece.warning)
        for tag in piece.body(True):
            for name in [name for name in tag.attrs if "typst:" in name]:
                del tag[name]  # pandoc would write it on as code
            classes = tag.get("class", [])
            empty_media = tag.name in MEDIA and not words(tag)
            if tag.name in ("img", "svg") or empty_media:
                self._set_picture(piece, tag)
            if tag.name == "a" and not LINK.match(tag.get("href", "")):
                del tag["href"]
            elif re.fullmatch("h[1-6]", tag.name):
                self._number(tag)
            elif tag.name in ("script", "math"):
                tex = (tag.string or words(tag)).strip() or "empty formula"
                block = "display" in f"{tag.get('type')} {tag.get('display')}"
                call = f"#formula({quote(tex)}, {str(block).lower()})["
                tag.insert_before(mark(call))
                tag.insert_after(mark("];"))
            elif tag.name == "input" and tag.get("type") == "checkbox":
                tag.replace_with("☒ " if tag.has_attr("checked") else "☐ ")
            elif tag.name in ("summary", "textarea"):
                tag.name = "p"
            elif "alert" in classes:
                tag.attrs |= CALLOUT
            elif "dataframe" in classes:
                for cell in tag(["td", "th"]):
                    cell["style"] = "text-align: right"

    def _number(self, tag: Tag) -> None:
        """A screen reader would miss a level that is left out."""
        self.heading = words(tag)
        if not self.heading:
            tag.name = "p"
            return
        level = int(tag.name[1])
        self.levels = [upper for upper in self.levels if upper < level]
        self.levels.append(level)
        tag.name = f"h{len(self.levels)}"

    def _set_picture(self, piece: Piece, tag: Tag) -> None:
        address = tag.get("src") or tag.get("data", "")
        alt = tag.get("alt", "").strip()
        if tag.name == "svg":
            tag["xmlns"] = "http://www.w3.org/2000/svg"
            tag["xmlns:xlink"] = "http://www.w3.org/1999/xlink"
            data = str(tag).encode()
        else:
            data = self._fetch(piece, address) if tag.name == "img" else None
        if data is None:
            kind = "picture" if tag.name == "img" else tag.name
            what = f"a link stands for the {kind} {address[:80]}"
            self.warn(piece.where, what)
            tag.name, tag.attrs = "a", {"href": address}
            tag.string = alt or address.partition(";base64")[0][:200]
            return
        name = f"picture-{len(self.files)}"
        self.files[name], self.where[name] = data, piece.where
        alt = quote(alt or self.heading or "picture")
        centred = bool(tag.find_parent(["center", "figure"]))
        asked = f"{tag.get('style')}; width: {tag.get('width')}"
        width = "auto"
        if found := WIDTH.search(asked):
            # A pixel of CSS is 1/96 inch.
            width = found[1] + ("%" if found[2] == "%" else "pt * 0.75")
        # On a line of its own, which Typst quotes if it cannot read it.
        typst = f"#picture(\nimage({quote(name)}, alt: {alt}),\n"
        typst += f"{width}, {str(centred).lower()});"
        tag.replace_with(mark(typst))

    def _fetch(self, piece: Piece, address: str) -> bytes | None:
        """A picture's bytes; None if it is elsewhere."""
        scheme, _, rest = address.partition(":")
        if scheme == "data":
            return decoded(unquote(rest.partition(",")[2]))
        if scheme == "attachment":
            bundle = piece.attachments.get(unquote(rest), {})
            return next(map(decoded, bundle.values()), None)
        with contextlib.suppress(OSError, ValueError):
            path = Path(self.folder, unquote(address)).resolve()
            inside = path.is_relative_to(self.folder)
            if inside and PICTURE_FILE.fullmatch(path.name):
                return path.read_bytes()
        return None


def decoded(data: str) -> bytes:
    """A drawing's text, or what base 64 holds; nothing if it is damaged."""
    if data.lstrip().startswith("<"):
        return data.encode()
    with contextlib.suppress(ValueError):
        return base64.b64decode(data)
    return b""
