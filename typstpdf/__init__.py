"""An nbconvert exporter that makes a PDF with Typst: no TeX, no browser.

Cells become HTML (`typstpdf.cells`), with the looks that a browser gives it
(`typstpdf.looks`), and that becomes calls of Typst functions
(`typstpdf.write`), with formulas as MathJax draws them
(`typstpdf.formulas`). Typst sets it all in the look of ``page.typ``.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

import typst
from bs4 import Tag
from nbconvert.exporters import Exporter
from nbconvert.utils.exceptions import ConversionException
from nbformat import NotebookNode
from traitlets import Unicode

from typstpdf.cells import describe, show_cell
from typstpdf.formulas import Formula, typeset
from typstpdf.looks import parse
from typstpdf.write import Writer, call, words

TEMPLATE = Path(__file__).with_name("page.typ").read_bytes()
NO_GLYPH = re.compile(r'the text `"(.+?)"` could not be displayed')
NO_FONT = re.compile(f"{NO_GLYPH.pattern}|missing codepoints")
ESCAPED = re.compile(r"\\u\{(\w+)\}")
PICTURE = re.compile(r'(?:image\("|─ .*)(picture-\d+)')
PART = re.compile(r"part-(\d+)\.typ")
# Where Jupyter does not look for formulas.
VERBATIM = "code, pre, .tex2jax_ignore, .mathjax_ignore"
DELIMITER = re.compile(r"\$\$?|\\{1,2}[([]|")


class TypstPDFExporter(Exporter):
    """Export a notebook to PDF with Typst: no TeX, no browser."""

    export_from_notebook = "PDF via Typst"
    output_mimetype = "application/pdf"
    file_extension = ".pdf"

    # By default what the notebook's metadata say; a title may also be the
    # first heading, or the file's name.
    title = Unicode(help="The PDF's title.").tag(config=True)
    author = Unicode(help="Who wrote it.").tag(config=True)
    banner = Unicode(help="A warning on every page.").tag(config=True)
    lang = Unicode(help="The text's language.").tag(config=True)

    def from_notebook_node(
        self,
        nb: NotebookNode,
        resources: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[bytes, dict[str, Any]]:
        """Convert a notebook to a PDF, without what its tags hide.

        In nbconvert's resources, ``warnings`` then lists what had to be shown
        differently, by cell. They are logged, too.
        """
        nb, resources = super().from_notebook_node(nb, resources, **kwargs)
        about, told = resources["metadata"], nb.metadata
        people = told.get("authors", [])
        names = [p.get("name") if isinstance(p, dict) else p for p in people]
        author = self.author or ", ".join(str(name) for name in names if name)
        lang = self.lang or str(told.get("lang", ""))
        lang = lang[:2].lower() if re.match("[A-Za-z]{2}", lang) else "en"
        wheres, pages = ["the title"], [""]
        for index in range(len(nb.cells)):
            shown = [*show_cell(nb, index)]
            wheres += [describe(nb, index)] * len(shown)
            pages += shown
        bodies = parse(pages)
        take_title(bodies, author)
        title = self.title or str(told.get("title", "")) or words(bodies[0])
        title = title or about.get("name") or "Notebook"
        writer = Writer(Path(about.get("path") or "."), formulas(bodies))
        parts = [*map(writer.write, wheres, bodies)]
        head = title, parts[0], author, self.banner, lang
        parts[0] = call("report.with", *head)
        pdf = compiled(parts, wheres, bodies, writer)
        resources["warnings"] = list(writer.warnings)
        for warning in writer.warnings:
            self.log.warning(warning)
        return pdf, resources


def take_title(bodies: list[Tag], author: str) -> None:
    """Move the title to the front, and drop the author's name below."""
    first = bodies[1].find(True, recursive=False) if bodies[1:] else None
    if first and first.name == "h1":
        below = first.find_next_sibling()
        if author and below and words(below) == author:
            below.decompose()
        bodies[0].extend(first.extract().contents[:])


def formulas(bodies: list[Tag]) -> dict[int, Formula]:
    """The formulas of a notebook by the ``id()`` of their tags, typeset."""
    tags, pairs = [], []
    for body in bodies:
        for tag in body.select(f":is({VERBATIM}) tex"):
            tag.unwrap()
        for tag in body("math"):
            tags.append(tag)
            pairs.append((str(tag), tag.get("display") == "block"))
        for tag in body("tex"):
            tex = tag.get_text().strip()
            if tex == "\\$":
                tag.replace_with("$")
                continue
            block = tex.startswith(("$$", "\\[", "\\\\[", "\\begin"))
            width = DELIMITER.match(tex).end()
            tex = tex[width : len(tex) - width]
            tags.append(tag)
            pairs.append((tex, block))
    found = typeset(pairs)
    for tag, formula in zip(tags, found, strict=True):
        if tag.name == "math":
            formula.tex = tag.get("alttext", words(tag))
    return dict(zip(map(id, tags), found, strict=True))


def compiled(
    parts: list[str], wheres: list[str], bodies: list[Tag], writer: Writer
) -> bytes:
    """The PDF of all parts, changed until Typst takes them."""
    # The fonts inside typst come first: they are the same everywhere.
    options: dict[str, Any] = {"ignore_system_fonts": True}
    options["pdf_standards"] = ["ua-1"]
    while True:
        files = {f"part-{n}.typ": f"#{part}" for n, part in enumerate(parts)}
        includes = [f'#include "{name}"\n\n' for name in files][1:]
        files["main.typ"] = f"#show: {parts[0]}\n{''.join(includes)}"
        for name, text in files.items():
            files[name] = f'#import "page.typ": *\n{text}\n'.encode()
        try:
            with tempfile.TemporaryDirectory() as place:
                files |= {"page.typ": TEMPLATE} | writer.pictures
                for name, data in files.items():
                    Path(place, name).write_bytes(data)
                options |= {"root": place, "package_path": place}
                return typst.compile(Path(place, "main.typ"), **options)
        except typst.TypstError as error:
            said = ESCAPED.sub(lambda m: chr(int(m[1], 16)), error.diagnostic)
        if NO_FONT.search(said) and options.pop("ignore_system_fonts", None):
            continue
        before = [*parts]
        if "embedding PDFs" not in said:
            for n, writer.where in enumerate(wheres):
                parts[n] = mended(parts[n], said, writer)
            if parts == before and (place := PART.search(said)):
                n = int(place[1])
                writer.where = wheres[n]
                parts[n] = writer.plain(bodies[n])
        if parts == before and not options.pop("pdf_standards", None):
            raise ConversionException(said)
        if parts == before:
            first = said.splitlines()[0]
            writer.warnings[f"not for screen readers: {first}"] = None


def mended(part: str, said: str, writer: Writer) -> str:
    """A part without the signs and the pictures that Typst names."""
    signs = {*"".join(NO_GLYPH.findall(said))}.intersection(part)
    names = {sign: f"«U+{ord(sign):04X}»" for sign in sorted(signs)}
    if names:
        writer.warn(f"no font has {' '.join(names.values())}")
    for picture in PICTURE.findall(said):
        if f'image("{picture}"' in part:
            writer.warn("a picture is damaged")
            part = part.replace(f'image("{picture}"', 'damaged("picture"')
    return part.translate(str.maketrans(names))
