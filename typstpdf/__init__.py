"""An nbconvert exporter that makes a PDF with Typst: no TeX, no browser.

Cells become HTML (`typstpdf.cells`), with the looks that a browser gives it
(`typstpdf.looks`), and that becomes calls of Typst functions
(`typstpdf.write`); formulas go their own way (`typstpdf.tex`). Typst sets it
all in the look of ``page.typ``.
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
from typstpdf.looks import parse
from typstpdf.tex import Formula, typeset
from typstpdf.write import EMPTY, Writer, call, words

TEMPLATE = Path(__file__).with_name("page.typ").read_bytes()
NO_GLYPH = re.compile(r'the text `"(.+?)"` could not be displayed')
ESCAPED = re.compile(r"\\u\{(\w+)\}")
PICTURE = re.compile(r'(?:image\("|─ .*)(picture-\d+)')
PART = re.compile(r"part-\d+\.typ")
IMPORT = '#import "page.typ": *\n'
# Where Jupyter does not look for formulas.
NO_FORMULAS = "code, pre, .tex2jax_ignore, .mathjax_ignore"
DELIMITED = re.compile(
    r"(?s)\$\$(.*)\$\$|\$(.*)\$|\\{1,2}[([](.*?)\\{1,2}[)\]]"
)


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
        lang = self.lang or str(nb.metadata.get("lang", ""))
        lang = lang[:2].lower() if re.match("[A-Za-z]{2}", lang) else "en"
        cells = [
            (html, describe(nb, index))
            for index in range(len(nb.cells))
            for html in show_cell(nb, index)
        ]
        bodies = parse([html for html, _ in cells])
        headline = take_title(bodies, author)
        title = self.title or str(nb.metadata.get("title", ""))
        title = title or (words(headline) if headline else "")
        title = title or about.get("name") or "Notebook"

        every = [body for body in (headline, *bodies) if body]
        folder = Path(about.get("path") or ".")
        writer = Writer(folder, formulas(every))
        head = writer.write("the title", headline) if headline else EMPTY
        report = call("report.with", title, head, author, self.banner, lang)
        files = {"main.typ": f"#show: {report}\n"}
        wheres, plain = {"main.typ": "the title"}, {}
        for number, (_, where) in enumerate(cells):
            name, body = f"part-{number}.typ", bodies[number]
            wheres[name] = where
            files["main.typ"] += f'#include "{name}"\n'
            files[name] = f"#{writer.write(where, body)}\n"
            words_of_it = call("output", call("raw", body.get_text()))
            plain[name] = f"#{words_of_it}\n"
        pdf = compile_all(files, plain, wheres, writer)
        resources["warnings"] = list(writer.warnings)
        for warning in writer.warnings:
            self.log.warning(warning)
        return pdf, resources


def authors(found: object) -> str:
    """The names in a notebook's metadata, whatever their form."""
    people = found if isinstance(found, list) else [found] if found else []
    names = [p.get("name", "") if isinstance(p, dict) else p for p in people]
    return ", ".join(str(name) for name in names if name)


def take_title(bodies: list[Tag], author: str) -> Tag | None:
    """Cut out the title, and the author's name below, for the template."""
    first, below, *_ = [
        *(bodies[0](True, recursive=False) if bodies else []),
        None,
        None,
    ]
    if not first or first.name != "h1":
        return None
    if author and below and words(below) == author:
        below.decompose()
    return first.extract()


def formulas(bodies: list[Tag]) -> dict[int, Formula]:
    """The formulas of a notebook by the ``id()`` of their tags, typeset."""
    tags, pairs = [], []
    for body in bodies:
        for tag in body.select(f":is({NO_FORMULAS}) tex"):
            tag.unwrap()
        for tag in body("tex"):
            tex = tag.get_text().strip()
            if tex == "\\$":
                tag.replace_with("$")
                continue
            block = tex.startswith(("$$", "\\[", "\\\\[", "\\begin"))
            if found := DELIMITED.fullmatch(tex):
                tex = next(filter(None, found.groups()), "")
            tags.append(tag)
            pairs.append((tex, block))
    return dict(zip(map(id, tags), typeset(pairs), strict=True))


def compile_all(
    files: dict[str, str],
    plain: dict[str, str],
    wheres: dict[str, str],
    writer: Writer,
) -> bytes:
    """Compile the files, changed until Typst takes them.

    Raises:
        ConversionException: even so, Typst refuses them.
    """
    # The fonts inside typst come first: they are the same everywhere.
    options: dict[str, Any] = {"ignore_system_fonts": True}
    options["pdf_standards"] = ["ua-1"]
    while True:
        sources = {n: f"{IMPORT}{text}".encode() for n, text in files.items()}
        sources |= {"page.typ": TEMPLATE}
        try:
            with tempfile.TemporaryDirectory() as place:
                for name, data in writer.pictures.items():
                    Path(place, name).write_bytes(data)
                options |= {"root": place, "package_path": place}
                return typst.compile(sources, **options)
        except typst.TypstError as error:
            said = ESCAPED.sub(lambda m: chr(int(m[1], 16)), error.diagnostic)
        if NO_GLYPH.search(said) and options.pop("ignore_system_fonts", None):
            continue
        known = "embedding PDFs" not in said
        changed = False
        for name, text in [*files.items()]:
            writer.where = wheres[name]
            files[name] = mended(text, said, writer) if known else text
            changed |= files[name] != text
        part = PART.search(said)
        if known and not changed and part and part[0] in plain:
            files[part[0]] = plain.pop(part[0])
            writer.where = wheres[part[0]]
            writer.warn("what Typst refuses is shown as source")
            changed = True
        if changed:
            continue
        if not options.pop("pdf_standards", None):
            raise ConversionException(said)
        first = said.splitlines()[0]
        writer.warnings[f"not for screen readers: {first}"] = None


def mended(source: str, said: str, writer: Writer) -> str:
    """A source without the signs and the pictures that Typst names."""
    signs = {*"".join(NO_GLYPH.findall(said))}.intersection(source)
    names = {sign: f"«U+{ord(sign):04X}»" for sign in signs}
    if names:
        writer.warn(f"no font has {' '.join(names.values())}")
    for picture in PICTURE.findall(said):
        if f'image("{picture}"' in source:
            writer.warn("a picture is damaged")
            source = source.replace(
                f'image("{picture}"', f'damaged("{picture}"'
            )
    return source.translate(str.maketrans(names))
