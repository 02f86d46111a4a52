"""An nbconvert exporter that makes a PDF with Typst: no TeX, no browser.

A cell becomes HTML (`show_cell`), HTML becomes Typst (`submission.html`), and
Typst sets it in the look of ``report.typ``. It reads files only from a
temporary folder that holds the notebook's own pictures.
"""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import typst
from nbconvert.exporters import Exporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbconvert.utils.exceptions import ConversionException
from nbformat import NotebookNode
from traitlets import Unicode

from submission import SubmissionError
from submission.html import Page, Piece, preformatted, quote, render
from submission.notebook import (
    ANSI,
    check_name,
    describe,
    put_name,
    shorten,
    tags,
)

# Longer outputs are cut: nobody reads more on paper.
MAX_PRINTED = 30_000
PICTURES = ("svg+xml", "png", "jpeg", "gif", "webp", "pdf")
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

    author = Unicode(
        help="Who hands in; the notebook's file name if it is such a name."
    ).tag(config=True)
    banner = Unicode(help="A warning on every page.").tag(config=True)
    lang = Unicode("en", help="The text's language.").tag(config=True)

    def _file_extension_default(self) -> str:
        return ".pdf"

    def from_notebook_node(
        self,
        nb: NotebookNode,
        resources: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[bytes, dict[str, Any]]:
        """Convert a notebook to a PDF.

        Cells, inputs and outputs are left out by the tags that Jupyter and
        Jupyter Book know: ``remove-input``, ``hide_cell`` and the like.

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
            author = author or check_name(name)
        if author:
            put_name(nb, author)
        page = Page(
            [p for i in range(len(nb.cells)) for p in show_cell(nb, i)],
            Path(resources["metadata"].get("path") or "."),
            author,
        )
        title = page.title or name or "Notebook"
        pdf = compile_page(
            page, title, page.title, author, self.banner, self.lang
        )
        resources["warnings"] = list(dict.fromkeys(page.warnings))
        for warning in resources["warnings"]:
            self.log.warning(warning)
        return pdf, resources


def show_cell(nb: NotebookNode, index: int) -> Iterator[Piece]:
    """What a cell shows, from top to bottom."""
    cell, where = nb.cells[index], describe(nb, index)
    language = nb.metadata.get("language_info", {}).get("name", "python")
    hidden = {tag.replace("hide_", "remove_") for tag in tags(cell)}
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
    """One output of a cell."""
    if out.output_type == "stream":
        return Piece(where, printed(out.text, f"out-{out.name}"))
    if out.output_type == "error":
        return Piece(where, printed("\n".join(out.traceback), "out-error"))
    data = out.data
    for kind in PICTURES:
        mime = f"{'application' if kind == 'pdf' else 'image'}/{kind}"
        if mime in data:
            about = out.metadata.get(mime, {})
            alt, width = escape(about.get("alt", "")), about.get("width", "")
            html = f'<img src="attachment:" alt="{alt}" width="{width}">'
            caption = f"<figcaption>{alt}</figcaption>"
            kind = "figure" if alt else "center"
            html = f"<{kind}>{html}{caption if alt else ''}</{kind}>"
            return Piece(where, html, {"": {mime: data[mime]}})
    for mime in ("text/html", "text/markdown", "text/latex"):
        text = data.get(mime, "")
        piece = Piece(where, text if mime == "text/html" else render(text))
        if piece.shows():
            return piece
    piece = Piece(where, printed(data.get("text/plain", ""), "out-stdout"))
    if any(re.search("javascript|widget|html", mime) for mime in data):
        piece.warning = "of an output for a browser only the text is printed"
    return piece


def printed(text: str, kind: str) -> str:
    """An output of plain text."""
    text = "" if OBJECT.fullmatch(text) else ANSI.sub("", text).rstrip()
    return preformatted(shorten(text, MAX_PRINTED), kind) if text else ""


def compile_page(page: Page, *settings: str) -> bytes:
    """Compile a page in a folder of its own, with the template's settings.

    What Typst refuses is replaced, see `mend`, and noted in the warnings.

    Raises:
        ConversionException: even so, Typst refuses it.
    """
    parts = [name for name in page.files if name.startswith("part-")]
    main = '#import "report.typ": *\n#show: report.with('
    main += f"{', '.join(map(quote, settings))})\n\n"
    main += "\n\n".join(f'#include "{name}"' for name in parts)
    page.files["main.typ"] = main.encode()
    # The fonts inside typst first: they are the same on every machine.
    own_fonts, standards = True, ["ua-1"]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(Path(__file__).with_name("report.typ"), folder)
        while True:
            for name, data in page.files.items():
                Path(folder, name).write_bytes(data)
            compiler = typst.Compiler(
                str(Path(folder, "main.typ")),
                root=folder,
                ignore_system_fonts=own_fonts,
            )
            try:
                return compiler.compile(format="pdf", pdf_standards=standards)
            except typst.TypstError as error:
                message = error.diagnostic
            if own_fonts and NO_GLYPH.search(message):
                own_fonts = False
            elif standards and "embedding PDFs" in message:
                standards = []
                page.warnings.append("not for screen readers: a PDF in it")
            elif mend(message, page):
                continue
            elif standards:
                standards = []
                reason = message.partition("\n")[0]
                page.warnings.append(f"not for screen readers: {reason}")
            else:
                raise ConversionException(message)


def mend(message: str, page: Page) -> bool:
    """Replace what Typst complains about by what it can set.

    Characters in no font become their code points, a damaged picture becomes
    a note, at worst a part of the page becomes its own source.

    Returns:
        Whether anything was replaced.
    """
    before = page.files.copy()
    message = re.sub(r"\\u\{(\w+)\}", lambda m: chr(int(m[1], 16)), message)
    for text in sorted(set(NO_GLYPH.findall(message))):
        spelt = "".join(f"«U+{ord(char):04X}»" for char in text)
        for name, data in before.items():
            if name.endswith(".typ") and text.encode() in data:
                mended = page.files[name].replace(
                    text.encode(), spelt.encode()
                )
                page.replace(name, mended, f"no font has {spelt}")
    found = re.search(r"picture-\d+|part-\d+\.typ", message)
    if page.files == before and found:
        name = found[0]
        if name.startswith("picture"):
            page.replace(name, DAMAGED, "a picture is damaged")
        elif not page.files[name].startswith(b"#raw("):
            source = quote(page.files[name].decode())
            mended = f"#raw({source}, block: true)".encode()
            page.replace(
                name, mended, "what Typst refuses is shown as source"
            )
    return page.files != before
