"""An nbconvert exporter that makes a PDF with Typst: no TeX, no browser.

A cell becomes HTML (`show_cell`), HTML becomes Typst (`submission.html`), and
Typst sets it in the look of ``report.typ``. It reads files only from a
temporary folder that holds the notebook's own pictures.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import typst
from bs4 import Tag
from nbconvert.exporters import Exporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbconvert.utils.exceptions import ConversionException
from nbformat import NotebookNode
from traitlets import Unicode

from submission import SubmissionError, notebook
from submission.html import Page, Piece, preformatted, quote, render, words

# Longer outputs are cut: nobody reads more on paper.
MAX_PRINTED = 30_000
PICTURES = ("svg+xml", "png", "jpeg", "gif", "webp")
PICTURES = (*(f"image/{kind}" for kind in PICTURES), "application/pdf")
# "<IPython.core.display.HTML object>" stands for something left out.
OBJECT = re.compile(r"<[\w.]+ (?:object(?: at 0x[0-9a-f]+)?|display_id=.*)>")
NO_GLYPH = re.compile(r'the text `"(.+?)"` could not be displayed')
DAMAGED = b"""<svg xmlns="http://www.w3.org/2000/svg" width="150" height="30">
<rect width="150" height="30" fill="none" stroke="gray"/>
<text x="12" y="19" font-size="13">damaged picture</text></svg>"""


class TypstPDFExporter(Exporter):
    """Export a notebook to PDF with Typst: no TeX, no browser."""

    export_from_notebook = "PDF via Typst"
    output_mimetype = "application/pdf"
    file_extension = ".pdf"

    author = Unicode(
        help="Who hands in; the notebook's file name if it is such a name."
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
        author = self.author
        with contextlib.suppress(SubmissionError):
            author = author or notebook.check_name(name)
        if author:
            notebook.put_name(nb, author)
        pieces = [p for i in range(len(nb.cells)) for p in show_cell(nb, i)]
        headline = take_title(pieces[0].body, author) if pieces else ""
        page = Page(pieces, Path(resources["metadata"].get("path") or "."))
        title = headline or name or "Notebook"
        settings = (title, headline, author, self.banner, self.lang)
        pdf = compile_page(page, *settings)
        resources["warnings"] = page.warnings
        for warning in page.warnings:
            self.log.warning(warning)
        return pdf, resources


def take_title(body: Tag, author: str) -> str:
    """Cut out the title, and the author's name below, for the template."""
    heading = body.find(True)
    if not heading or heading.name != "h1":
        return ""
    below = heading.find_next_sibling(True)
    if below and words(below) == author:
        below.decompose()
    return words(heading.extract())


def show_cell(nb: NotebookNode, index: int) -> Iterator[Piece]:
    """What a cell shows, from top to bottom."""
    cell, where = nb.cells[index], notebook.describe(nb, index)
    language = nb.metadata.get("language_info", {}).get("name", "python")
    hidden = {tag.replace("hide_", "remove_") for tag in notebook.tags(cell)}
    if "remove_cell" in hidden:
        return
    if cell.cell_type == "markdown":
        attachments = cell.get("attachments", {})
        yield Piece(where, render(cell.source), attachments)
    elif cell.cell_type == "raw":
        yield Piece(where, preformatted(cell.source, "out-stdout"))
    else:
        outputs = [show_output(out, where) for out in cell.outputs]
        outputs *= "remove_output" not in hidden
        if cell.source.strip() and "remove_input" not in hidden:
            above = "above-" if any(out.shows() for out in outputs) else ""
            code = preformatted(cell.source.strip(), above + language)
            yield Piece(where, code)
        yield from outputs


def show_output(out: NotebookNode, where: str) -> Piece:
    """One output of a cell, in the best form that paper can show."""
    if out.output_type == "stream":
        return Piece(where, printed(out.text, f"out-{out.name}"))
    if out.output_type == "error":
        return Piece(where, printed("\n".join(out.traceback), "out-error"))
    for mime in PICTURES:
        if mime in out.data:
            about = out.metadata.get(mime) or {}
            alt = escape(str(about.get("alt") or ""))
            width = escape(str(about.get("width")))
            html = f'<img src="attachment:" alt="{alt}" width="{width}">'
            html += f"<figcaption>{alt}</figcaption>" if alt else ""
            kind = "figure" if alt else "center"
            picture = {"": {mime: out.data[mime]}}
            return Piece(where, f"<{kind}>{html}</{kind}>", picture)
    for mime in ("text/html", "text/markdown", "text/latex"):
        text = out.data.get(mime, "")
        piece = Piece(where, text if mime == "text/html" else render(text))
        if piece.shows():
            return piece
    plain = out.data.get("text/plain", "")
    piece = Piece(where, printed(plain, "out-stdout"))
    if re.search("javascript|widget|html", " ".join(out.data)):
        piece.warning = "of an output for a browser only the text is printed"
    return piece


def printed(text: str, kind: str) -> str:
    """An output of plain text."""
    text = notebook.ANSI.sub("", text).rstrip()
    if not text or OBJECT.fullmatch(text):
        return ""
    return preformatted(notebook.shorten(text, MAX_PRINTED), kind)


def compile_page(page: Page, *settings: str) -> bytes:
    """Compile a page with the template's settings, mended where need be.

    Raises:
        ConversionException: even so, Typst refuses it.
    """
    main = f"#show: report.with({', '.join(map(quote, settings))})\n\n"
    parts = [name for name in page.files if name.startswith("part-")]
    main += "\n\n".join(f'#include "{name}"' for name in parts)
    page.files["main.typ"] = f'#import "report.typ": *\n{main}'.encode()
    look = Path(__file__).with_name("report.typ")
    page.files[look.name] = look.read_bytes()
    # The fonts inside typst first: they are the same on every machine.
    own_fonts, standards = True, ["ua-1"]
    with tempfile.TemporaryDirectory() as folder:
        while True:
            for name, data in page.files.items():
                Path(folder, name).write_bytes(data)
            try:
                return typst.compile(
                    Path(folder, "main.typ"),
                    root=folder,
                    format="pdf",
                    pdf_standards=standards,
                    ignore_system_fonts=own_fonts,
                )
            except typst.TypstError as error:
                message = error.diagnostic
            if own_fonts and NO_GLYPH.search(message):
                own_fonts = False
            elif "embedding PDFs" not in message and mend(message, page):
                continue
            elif standards:
                standards = []
                reason = message.partition("\n")[0]
                page.warn("not for screen readers", reason)
            else:
                raise ConversionException(message)


def mend(message: str, page: Page) -> bool:
    """Replace what Typst complains about by what it can set, if anything."""
    mended = False
    message = re.sub(r"\\u\{(\w+)\}", lambda m: chr(int(m[1], 16)), message)
    for text in sorted(set(NO_GLYPH.findall(message))):
        spelt = "".join(f"«U+{ord(char):04X}»" for char in text)
        for name, data in page.files.items():
            if name.endswith(".typ"):
                data = data.replace(text.encode(), spelt.encode())
                mended |= page.replace(name, data, f"no font has {spelt}")
    picture = re.search(r'(?:image\("|─ .*)(picture-\d+)', message)
    part = re.search(r"part-\d+\.typ", message)
    if not mended and picture:
        return page.replace(picture[1], DAMAGED, "a picture is damaged")
    if not mended and part and not page.files[part[0]].startswith(b"#raw("):
        source = quote(page.files[part[0]].decode())
        data = f"#raw({source}, block: true)".encode()
        refused = "what Typst refuses is shown as source"
        return page.replace(part[0], data, refused)
    return mended
