"""An nbconvert exporter that makes a PDF with Typst: no TeX, no browser.

Cells become text or HTML (`typstpdf.cells`), HTML is looked at as a browser
would (`typstpdf.looks`) and written as calls of Typst functions
(`typstpdf.write`), formulas as MathJax reads them (`typstpdf.mathml`), and
Typst sets it all in the look of ``page.typ``. It reads files only from a
temporary folder that holds the notebook's own pictures.
"""

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typst
from bs4 import Tag
from nbconvert.exporters import Exporter
from nbconvert.utils.exceptions import ConversionException
from nbformat import NotebookNode
from traitlets import Unicode

from typstpdf.cells import CONTROL, named, show_cell
from typstpdf.looks import parse, styles
from typstpdf.mathml import typeset
from typstpdf.write import (
    HEADINGS,
    Formula,
    Refused,
    Writer,
    call,
    slug,
    words,
)

NO_GLYPH = re.compile(r'the text `"(.+?)"` could not be displayed')
ESCAPED = re.compile(r"\\u\{(\w+)\}")
PICTURE = re.compile(r'(?:image\("|─ .*)(picture-\d+)')
DELIMITED = re.compile(
    r"(?s)\$\$(.*)\$\$|\$(.*)\$|\\{1,2}[([](.*?)\\{1,2}[)\]]"
)
# The fonts inside typst come first: they are the same on every machine.
Options = dict[str, Any]
OWN_FONTS = "ignore_system_fonts"


class TypstPDFExporter(Exporter):
    """Export a notebook to PDF with Typst: no TeX, no browser."""

    export_from_notebook = "PDF via Typst"
    output_mimetype = "application/pdf"
    file_extension = ".pdf"

    title = Unicode(
        help="Its title; default: the first heading, or the file's name."
    ).tag(config=True)
    author = Unicode(
        help="Who wrote it; default: the notebook's metadata ``authors``."
    ).tag(config=True)
    banner = Unicode(help="A warning on every page.").tag(config=True)
    lang = Unicode(
        help="The text's language; default: the metadata's, or English."
    ).tag(config=True)

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
        about = resources["metadata"]
        author = self.author or authors(nb.metadata.get("authors"))
        lang = self.lang or str(nb.metadata.get("lang", "en"))
        lang = lang[:2].lower() if re.match("[A-Za-z]{2}", lang) else "en"
        page = Page(nb, author, Path(about.get("path") or "."))
        title = self.title or str(nb.metadata.get("title", ""))
        title = title or page.title or about.get("name") or "Notebook"
        pdf = page.compile(title, author, self.banner, lang)
        resources["warnings"] = list(page.warnings)
        for warning in page.warnings:
            self.log.warning(warning)
        return pdf, resources


def authors(found: object) -> str:
    """The names in a notebook's metadata, whatever their form."""
    people = found if isinstance(found, list) else [found] if found else []
    names = [p.get("name", "") if isinstance(p, dict) else p for p in people]
    return ", ".join(str(name) for name in names if name)


class Page:
    """A notebook as Typst, changed until Typst takes it.

    Attributes:
        title: the words of the first heading, if it stands at the top.
        warnings: a line for each thing that paper shows differently.
    """

    def __init__(self, nb: NotebookNode, author: str, folder: Path) -> None:
        self.pieces = [
            (part, parse(CONTROL.sub(named, part.html)))
            for index in range(len(nb.cells))
            for part in show_cell(nb, index)
        ]
        bodies = [body for _, body in self.pieces]
        self.folder = folder
        self.headline = take_title(bodies[0], author) if bodies else None
        self.title = words(self.headline) if self.headline else ""
        bodies = [*([self.headline] if self.headline else []), *bodies]
        self.formulas = typed([tag for b in bodies for tag in formulas(b)])
        self.looks = styles(bodies)
        self.anchors = anchors(bodies)
        self.warnings: dict[str, None] = {}

    def compile(
        self, title: str, author: str, banner: str, lang: str
    ) -> bytes:
        """Compile it with the template's settings, changed where need be.

        Raises:
            ConversionException: even so, Typst refuses it.
        """
        refused = Refused()
        options: Options = {OWN_FONTS: True, "pdf_standards": ["ua-1"]}
        while True:
            made = self.write(refused, [title, author, banner, lang])
            try:
                pdf = made.compile(made.parts, options)
            except typst.TypstError as error:
                message = error.diagnostic
            else:
                self.warnings |= made.writer.warnings
                return pdf
            if NO_GLYPH.search(message) and options.pop(OWN_FONTS, False):
                continue
            known = "embedding PDFs" not in message
            if known and self.refuse(refused, message, made, options):
                continue
            if not options.pop("pdf_standards", None):
                raise ConversionException(message)
            first = message.splitlines()[0]
            self.warnings[f"not for screen readers: {first}"] = None

    def write(self, refused: Refused, settings: list[str]) -> "Written":
        """All of it as Typst, without what was refused."""
        writer = Writer(
            self.folder, self.looks, self.formulas, self.anchors, refused
        )
        headline = self.headline and writer.inside(self.headline)
        title, *rest = settings
        report = call("report.with", title, headline, *rest)
        report = writer.spell(report)
        parts = [
            writer.write(part, body, number in refused.parts)
            for number, (part, body) in enumerate(self.pieces)
        ]
        return Written(report, parts, writer)

    def refuse(
        self,
        refused: Refused,
        message: str,
        made: "Written",
        options: Options,
    ) -> bool:
        """Note what Typst did not take; False if that is not found."""
        message = ESCAPED.sub(lambda m: chr(int(m[1], 16)), message)
        signs = set("".join(NO_GLYPH.findall(message))) - refused.signs
        pictures = set(PICTURE.findall(message)) - refused.pictures
        refused.signs |= signs
        refused.pictures |= pictures
        if signs or pictures:
            return True
        place = re.search(r"part-(\d+)\.typ", message)
        numbers = {int(place[1])} if place else set(range(len(made.parts)))
        for number in sorted(numbers - refused.parts):
            if made.fails(made.parts[number], options):
                refused.parts.add(number)
                return True
        return False


@dataclass
class Written:
    """A notebook as Typst, and the one who wrote it."""

    report: str
    parts: list[str]
    writer: Writer

    def compile(self, parts: list[str], options: Options) -> bytes:
        """Compile parts in a folder that holds nothing but them.

        Typst looks for packages in an empty folder, too.
        """
        main = f'#import "page.typ": *\n#show: {self.report}\n'
        with tempfile.TemporaryDirectory() as place:
            folder, packages = Path(place, "notebook"), Path(place, "none")
            folder.mkdir()
            packages.mkdir()
            shutil.copy(Path(__file__).with_name("page.typ"), folder)
            for name, data in self.writer.pictures.items():
                Path(folder, name).write_bytes(data)
            for number, part in enumerate(parts):
                name = f"part-{number}.typ"
                main += f'#include "{name}"\n'
                source = f'#import "page.typ": *\n#{part or "[]"}\n'
                Path(folder, name).write_bytes(source.encode())
            path = folder / "main.typ"
            path.write_bytes(main.encode())
            options = {"root": folder, "package_path": packages} | options
            return typst.compile(path, **options)

    def fails(self, part: str, options: Options) -> bool:
        """Whether Typst refuses a part alone."""
        try:
            self.compile([part], options)
        except typst.TypstError:
            return True
        return False


def take_title(body: Tag, author: str) -> Tag | None:
    """Cut out the title, and the author's name below, for the template."""
    heading = body.select_one(":scope > h1:first-child")
    below = body.select_one(":scope > h1:first-child + *")
    if author and below and words(below) == author:
        below.decompose()
    return heading and heading.extract()


def formulas(body: Tag) -> list[Tag]:
    """The formulas of a text, where Jupyter looks for them."""
    found = body.select('script[type^="math/tex"]')
    for tag in [*found]:
        if tag.find_parent(class_=["tex2jax_ignore", "mathjax_ignore"]):
            tag.replace_with(tag.string or "")
            found.remove(tag)
    return found


def typed(tags: list[Tag]) -> dict[int, Formula]:
    """Formulas by the ``id()`` of their tags."""
    pairs = []
    for tag in tags:
        tex = (tag.string or "").strip()
        block = "display" in tag["type"] or tex.startswith(
            ("$$", "\\[", "\\\\[", "\\begin")
        )
        if found := DELIMITED.fullmatch(tex):
            tex = next(filter(None, found.groups()), "")
        pairs.append((tex, block))
    return dict(zip(map(id, tags), typeset(pairs), strict=True))


def anchors(bodies: list[Tag]) -> dict[str, int]:
    """Where links within the document lead: a name, and a tag's ``id()``."""
    places: dict[str, int] = {}
    for body in bodies:
        for tag in body(HEADINGS):
            said = "".join(tag.find_all(string=True))
            places.setdefault(slug(said.replace("$", "")), id(tag))
    for body in bodies:
        for tag in body.select("[id], a[name]"):
            places.setdefault(tag.get("id", tag.get("name")), id(tag))
    return places
