"""An nbconvert exporter that makes a PDF with Typst: no TeX, no browser.

Cells become HTML (`typstpdf.cells`), `Page` puts right what paper cannot
show, pandoc turns it into Typst, and Typst sets it in the look of
``page.typ``. It reads files only from a temporary folder that holds the
notebook's own pictures.
"""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pypandoc
import typst
from bs4 import Tag
from nbconvert.exporters import Exporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbconvert.utils.exceptions import ConversionException
from nbformat import NotebookNode
from traitlets import Unicode

from typstpdf.cells import MEDIA, show_cell, words

# Typst of our own passes pandoc as a word that no notebook can hold; capital,
# as in a heading's label, which pandoc writes small, it must not be found.
MARK = f"Q{uuid.uuid4().hex.upper()}Q"
MARKED = re.compile(f"{MARK}(\\w*?){MARK}")
# A formula that pandoc left as words, which begin with an escaped dollar.
BEYOND = re.compile(r'#formula\("((?:[^"\\]|\\.)*)", \w+\)\[\\')
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
PICTURE_FILE = re.compile(r"(?i).+\.(pdf|svg|png|jpe?g|gif|webp)")
LINK = re.compile(r"(?i)(https?|ftp|mailto):|[^:]+([/?#]|$)|#.")
WIDTH = re.compile(r"(?<![-\w])width: *([1-9]\d{0,4})[.\d]*(?:(%)|px|$|;)")
CALLOUT = {"typst:fill": "luma(246)", "typst:inset": "1em"}
# The fonts inside typst come first: they are the same on every machine.
OWN_FONTS = "ignore_system_fonts"
NO_GLYPH = re.compile(r'the text `"(.+?)"` could not be displayed')
ESCAPED = re.compile(r"\\u\{(\w+)\}")
PICTURE = re.compile(r'(?:image\("|─ .*)(picture-\d+)')


class TypstPDFExporter(Exporter):
    """Export a notebook to PDF with Typst: no TeX, no browser."""

    export_from_notebook = "PDF via Typst"
    output_mimetype = "application/pdf"
    file_extension = ".pdf"

    author = Unicode(
        help="Who wrote it; default: the notebook's metadata ``authors``."
    ).tag(config=True)
    banner = Unicode(help="A warning on every page.").tag(config=True)
    lang = Unicode("en", help="The text's language.").tag(config=True)

    def from_notebook_node(
        self,
        nb: NotebookNode,
        resources: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[bytes, dict[str, Any]]:
        """Convert a notebook to a PDF, without what its tags hide.

        Returns:
            The PDF, and nbconvert's resources; in them, ``warnings`` lists
            what had to be shown differently, by cell. They are logged too.

        Raises:
            ConversionException: Typst refuses the notebook as a whole.
        """
        nb, resources = super().from_notebook_node(nb, resources, **kwargs)
        nb, _ = CoalesceStreamsPreprocessor().preprocess(nb, resources)
        name = resources["metadata"].get("name", "")
        authors = nb.metadata.get("authors", [])
        author = self.author or ", ".join(a["name"] for a in authors)
        pieces = [p for i in range(len(nb.cells)) for p in show_cell(nb, i)]
        headline = take_title(pieces[0], author) if pieces else ""
        page = Page(pieces, Path(resources["metadata"].get("path") or "."))
        title = headline or name or "Notebook"
        pdf = page.compile(title, headline, author, self.banner, self.lang)
        resources["warnings"] = list(page.warnings)
        for warning in page.warnings:
            self.log.warning(warning)
        return pdf, resources


def take_title(piece: Tag, author: str) -> str:
    """Cut out the title, and the author's name below, for the template."""
    heading = piece.select_one(":scope > h1:first-child")
    below = piece.select_one(":scope > h1:first-child + *")
    if below and words(below) == author:
        below.decompose()
    return words(heading.extract()) if heading else ""


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
    return MARKED.sub(lambda m: bytes.fromhex(m[1]).decode(), typst.decode())


class Page:
    """A notebook's pieces, turned from HTML into Typst, then into a PDF.

    All at once, as starting pandoc takes longer than converting a cell.

    Attributes:
        warnings: a line for each thing that paper shows differently.
    """

    def __init__(self, pieces: list[Tag], folder: Path) -> None:
        self.folder = folder.resolve()
        self.heading = ""
        self.levels: list[str] = []
        self.parts: dict[str, str] = {}
        self.where: dict[str, str] = {}
        self.pictures: dict[str, bytes] = {}
        self.warnings: dict[str, None] = {}
        html = ""
        for number, piece in enumerate(pieces):
            self._prepare(piece)
            between = mark(f"\0{number} ")
            html += f"<p>{between}</p>{piece.decode_contents()}"
        for number, part in re.findall("\0(\\d+) ([^\0]*)", pandoc(html)):
            where = pieces[int(number)]["where"]
            self.where[name := f"part-{number}.typ"] = where
            self.parts[name] = f'#import "page.typ": *{part}'
            for tex in BEYOND.findall(part):
                self._warn(where, f"the formula {tex} is printed as TeX")

    def _warn(self, where: str, what: str) -> None:
        """Say what is shown differently: once, and in one line."""
        self.warnings[" ".join(f"{where}: {what}".split())] = None

    def _prepare(self, piece: Tag) -> None:
        """Put right what pandoc would not, or paper does not show."""
        if "lost" in piece.attrs:
            self._warn(piece["where"], piece["lost"])
        for tag in piece(True):
            for name in [name for name in tag.attrs if "typst:" in name]:
                del tag[name]  # pandoc would write it on as code
            empty_media = tag.name in MEDIA and not words(tag)
            if tag.name in ("img", "svg") or empty_media:
                self._set_picture(piece["where"], tag)
            if tag.name == "a" and not LINK.match(tag.get("href", "")):
                del tag["href"]
            elif tag.name in HEADINGS and words(tag):
                self.heading = words(tag)
                # A screen reader would miss a level that is left out.
                above = [level for level in self.levels if level < tag.name]
                self.levels = [*above, tag.name]
                tag.name = f"h{len(self.levels)}"
            elif tag.name in ("summary", "textarea", *HEADINGS):
                tag.name = "p"
            elif tag.name in ("script", "math"):
                tex = (tag.string or words(tag)).strip() or "empty formula"
                block = "display" in f"{tag.get('type')} {tag.get('display')}"
                call = f"#formula({quote(tex)}, {str(block).lower()})["
                tag.insert_before(mark(call))
                tag.insert_after(mark("];"))
            elif tag.name == "input" and tag.get("type") == "checkbox":
                tag.replace_with("☒ " if tag.has_attr("checked") else "☐ ")
            elif "alert" in tag.get("class", []):
                tag.attrs |= CALLOUT
            elif "dataframe" in tag.get("class", []):
                for cell in tag(["td", "th"]):
                    cell["style"] = "text-align: right"

    def _set_picture(self, where: str, tag: Tag) -> None:
        address = tag.get("src") or tag.get("data", "")
        alt = tag.get("alt", "").strip()
        if tag.name == "svg":
            tag["xmlns"] = "http://www.w3.org/2000/svg"
            tag["xmlns:xlink"] = "http://www.w3.org/1999/xlink"
            data = str(tag).encode()
        else:
            data = self._fetch(address) if tag.name == "img" else None
        if data is None:
            kind = "picture" if tag.name == "img" else tag.name
            self._warn(where, f"a link stands for the {kind} {address[:80]}")
            tag.name, tag.attrs = "a", {"href": address}
            tag.string = alt or address.partition(";base64")[0][:200]
            return
        self.pictures[name := f"picture-{len(self.pictures)}"] = data
        alt = quote(alt or self.heading or "picture")
        centred = bool(tag.find_parent(["center", "figure"]))
        found = WIDTH.search(f"{tag.get('style')}; width: {tag.get('width')}")
        # A pixel of CSS is 1/96 inch.
        width = found[1] + (found[2] or "pt * 0.75") if found else "auto"
        # On a line of its own, which Typst quotes if it cannot read it.
        typst = f'#picture(\nimage("{name}", alt: {alt}),\n'
        typst += f"{width}, {str(centred).lower()});"
        tag.replace_with(mark(typst))

    def _fetch(self, address: str) -> bytes | None:
        """A picture's bytes; None if it is elsewhere."""
        if address.startswith("data:"):
            data = unquote(address.partition(",")[2])
            with contextlib.suppress(ValueError):
                return base64.b64decode("".join(data.split()), validate=True)
            return data.encode()
        with contextlib.suppress(OSError, ValueError):
            path = Path(self.folder, unquote(address)).resolve()
            inside = path.is_relative_to(self.folder)
            if inside and PICTURE_FILE.fullmatch(path.name):
                return path.read_bytes()
        return None

    def compile(self, *settings: str) -> bytes:
        """Compile it with the template's settings, mended where need be.

        Raises:
            ConversionException: even so, Typst refuses it.
        """
        main = f"#show: report.with({', '.join(map(quote, settings))})\n\n"
        main += "\n\n".join(f'#include "{name}"' for name in self.parts)
        self.parts["main.typ"] = f'#import "page.typ": *\n{main}'
        options = {OWN_FONTS: True, "pdf_standards": ["ua-1"]}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "main.typ")
            shutil.copy(Path(__file__).with_name("page.typ"), folder)
            for name, data in self.pictures.items():
                Path(folder, name).write_bytes(data)
            while True:
                for name, part in self.parts.items():
                    Path(folder, name).write_bytes(part.encode())
                try:
                    return typst.compile(path, root=folder, **options)
                except typst.TypstError as error:
                    message = error.diagnostic
                if NO_GLYPH.search(message) and options.pop(OWN_FONTS, False):
                    continue
                if "embedding PDFs" not in message and self._mend(message):
                    continue
                if not options.pop("pdf_standards", None):
                    raise ConversionException(message)
                self._warn("not for screen readers", message.splitlines()[0])

    def _mend(self, message: str) -> bool:
        """Replace what Typst refuses by what it can set, if anything."""
        before = self.parts.copy()
        message = ESCAPED.sub(lambda m: chr(int(m[1], 16)), message)
        for text in NO_GLYPH.findall(message):
            spelt = "".join(f"«U+{ord(char):04X}»" for char in text)
            self._swap(text, spelt, f"no font has {spelt}")
        for name in PICTURE.findall(message):
            self._swap(f'image("{name}",', "damaged(", "a picture is damaged")
        refused = re.search(r"part-\d+\.typ", message)
        source = self.parts[refused[0]] if refused else "#raw"
        if self.parts == before and not source.startswith("#raw"):
            new = f"#raw({quote(source)}, block: true)"
            self._swap(source, new, "what Typst refuses is shown as source")
        return self.parts != before

    def _swap(self, old: str, new: str, warning: str) -> None:
        for name, part in self.parts.items():
            if old in part:
                self.parts[name] = part.replace(old, new)
                self._warn(self.where.get(name, "the title"), warning)
