"""An nbconvert exporter that makes a PDF with Typst instead of TeX.

Everything it needs comes from pip (``typst`` and ``pypandoc_binary``). What a
cell holds is data: it reaches Typst escaped, and Typst reads files only from
a temporary folder with the notebook's own pictures.
"""

import base64
import binascii
import contextlib
import copy
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import typst
from nbconvert.exporters import TemplateExporter
from nbconvert.preprocessors import Preprocessor
from nbconvert.utils.exceptions import ConversionException
from nbformat import NotebookNode
from nbformat.v4 import new_output
from traitlets import Unicode, default
from traitlets.config import Config

from submission import SubmissionError, markdown
from submission.markdown import GFM, ContentError, Node, breakable
from submission.notebook import (
    ANSI,
    DEMO_BANNER,
    check_name,
    describe,
    is_demo,
    put_name,
    shorten,
)
from submission.screen import Screen

# Longer outputs are cut: nobody reads more on paper.
MAX_PRINTED = 30_000
TYPST = "text/vnd.typst"
PICTURES = {
    "application/pdf": ".pdf",
    "image/svg+xml": ".svg",
    "image/png": ".png",
    "image/jpeg": ".jpg",
}
# "<IPython.core.display.HTML object>" stands for something left out.
OBJECT = re.compile(r"<[\w.]+ (?:object(?: at 0x[0-9a-f]+)?|display_id=.*)>")
FORMULA = re.compile(
    r"(?s)\$\$(?P<a>.+)\$\$|\$(?P<b>.+)\$|\\\[(?P<c>.+)\\\]"
    r"|(?P<d>\\begin\{(?:equation|align|gather)\*?\}.+\})"
)


CONTROL = r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]"


class ExportError(ConversionException):
    """The PDF would not show what the notebook says; names the cell."""


def quote(text: str) -> str:
    """A Typst string literal on one line; control characters made visible."""
    text = ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    text = text.encode("utf-8", "backslashreplace").decode()
    text = re.sub(
        CONTROL,
        lambda match: f"\\x{ord(match[0]):02x}",
        text,
    )
    return json.dumps(text, ensure_ascii=False)


def typst_function(name: str, *texts: str) -> str:
    """A call of one of the template's functions."""
    return f"#{name}({', '.join(quote(text) for text in texts)})"


def typst_image(function: str, name: str, alt: str) -> str:
    """A picture in one of the template's functions."""
    return f"#{function}(image({quote(name)}, alt: {quote(alt)}))"


@dataclass
class Text:
    """A piece of Markdown, HTML or TeX and the place its Typst goes to."""

    cell: int
    source: str
    reader: str
    target: NotebookNode
    key: str
    blocks: list[Node] = field(default_factory=list)


class TypstPreprocessor(Preprocessor):
    """Replace what the cells hold by Typst, ready for the template."""

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        """Convert all cells of a notebook.

        Raises:
            ExportError: a text or picture cannot come out as it should.
        """
        self.doc = resources["typst"]
        self.texts: list[Text] = []
        language = nb.metadata.get("language_info", {}).get("name", "python")
        try:
            for cell in nb.cells:
                index = cell.metadata.typst_index
                if cell.metadata.get("transient", {}).get("remove_source"):
                    cell.source = ""
                if cell.cell_type == "raw":
                    cell.source = typst_function("out-stdout", cell.source)
                elif cell.cell_type == "markdown":
                    self.texts.append(
                        Text(index, cell.source, GFM, cell, "source")
                    )
                elif cell.cell_type == "code":
                    outputs = [
                        self._output(out, index) for out in cell.outputs
                    ]
                    cell.outputs = [out for out in outputs if out is not None]
                    if cell.source.strip():
                        function = (
                            "code-above" if cell.outputs else "code-cell"
                        )
                        cell.source = typst_function(
                            function, language, breakable(cell.source.strip())
                        )
            self._convert(nb)
        except ContentError as error:
            raise ExportError(
                f"{self.doc['where'][error.index]}: {error}"
            ) from error
        return nb, resources

    def _output(self, out: NotebookNode, index: int) -> NotebookNode | None:
        """One output as Typst, or None where there is nothing to print."""
        if out.output_type == "stream":
            function = "out-stdout" if out.name == "stdout" else "out-stderr"
            # Jupyter keeps every state of a progress bar, or its last one.
            screen = Screen()
            screen.feed(as_text(out.text))
            return printed(function, screen.text())
        if out.output_type == "error":
            return printed("out-error", "\n".join(out.traceback))
        data = out.data
        if any("javascript" in mime or "widget" in mime for mime in data):
            return None
        for mime, suffix in PICTURES.items():
            if mime in data:
                name = self._save(content(data[mime], mime, index), suffix)
                return typst_output(typst_image("figure-block", name, ""))
        formula = FORMULA.fullmatch(as_text(data.get("text/latex")).strip())
        if formula:
            tex = next(filter(None, formula.groups()))
            job = Text(index, "", "", typst_output(""), TYPST)
            math = {"t": "Math", "c": [{"t": "DisplayMath"}, tex]}
            job.blocks = [{"t": "Para", "c": [math]}]
        elif "<table" in as_text(data.get("text/html")):
            html = as_text(data["text/html"])
            job = Text(index, html, "html", typst_output(""), TYPST)
        elif "text/markdown" in data:
            text = as_text(data["text/markdown"])
            job = Text(index, text, GFM, typst_output(""), TYPST)
        else:
            text = as_text(data.get("text/plain"))
            return (
                None
                if OBJECT.fullmatch(text)
                else printed("out-stdout", text)
            )
        output = job.target
        job.target = output.data
        self.texts.append(job)
        return output

    def _convert(self, nb: NotebookNode) -> None:
        """Send all texts through pandoc together."""
        for reader in (GFM, "html"):
            jobs = [job for job in self.texts if job.reader == reader]
            sources = [markdown.protect(job.source) for job in jobs]
            try:
                trees = markdown.read(sources, reader)
            except ContentError as error:
                error.index = jobs[error.index].cell
                raise
            for job, blocks in zip(jobs, trees, strict=True):
                job.blocks = blocks
                if reader == GFM:
                    if control := re.search(CONTROL, job.source):
                        raise ContentError(
                            job.cell,
                            "the control character "
                            f"U+{ord(control[0]):04X} cannot be printed; "
                            "delete it.",
                        )
                    markdown.check(job.cell, blocks)
                else:
                    job.blocks = data_tables(blocks)
        self._title(nb)
        self._headings()
        for job in self.texts:
            job.blocks = [
                self._picture_block(block, job) for block in job.blocks
            ]
            for node in markdown.nodes(job.blocks):
                if node["t"] == "Image":
                    name, alt = self._picture(node, job)
                    call = typst_image("inline-picture", name, alt)
                    node.update(t="RawInline", c=["typst", call])
        try:
            converted = markdown.write([job.blocks for job in self.texts])
        except ContentError as error:
            error.index = self.texts[error.index].cell
            raise
        for job, text in zip(self.texts, converted, strict=True):
            job.target[job.key] = text

    def _title(self, nb: NotebookNode) -> None:
        """Make the first cell's first main heading the document's title."""
        cells = [job for job in self.texts if job.key == "source"]
        if not cells or cells[0].target is not nb.cells[0]:
            return
        blocks = []
        for block in cells[0].blocks:
            words = markdown.plain(block)
            if (
                block["t"] == "Header"
                and block["c"][0] == 1
                and not self.doc["titled"]
            ):
                self.doc.update(title=words, titled=True)
                blocks += wrapped("title-block", block["c"][2])
            elif block["t"] == "Para" and words == self.doc["author"] != "":
                blocks += wrapped("author-block", block["c"])
            else:
                blocks.append(block)
        cells[0].blocks = blocks

    def _headings(self) -> None:
        """Number the levels from one, and let links find the headings."""
        headings = [
            node
            for job in self.texts
            for node in markdown.nodes(job.blocks)
            if node["t"] == "Header"
        ]
        top = min((node["c"][0] for node in headings), default=1)
        anchors: dict[str, str] = {}
        for number, node in enumerate(headings):
            node["c"][0] -= top - 1
            node["c"][1] = [f"heading-{number}", [], []]
            words = markdown.plain(node["c"][2])
            anchors.setdefault(markdown.slug(words), f"#heading-{number}")
            # Typst spells formulas in its own way.
            math = any(n["t"] == "Math" for n in markdown.nodes(node))
            self.doc["headings"].append("" if math else words)
        for job in self.texts:
            for node in markdown.nodes(job.blocks):
                if node["t"] == "Link" and node["c"][2][0].startswith("#"):
                    target = unquote(node["c"][2][0][1:])
                    if found := anchors.get(markdown.slug(target)):
                        node["c"][2][0] = found
                    else:
                        node.update(t="Span", c=[["", [], []], node["c"][1]])

    def _picture_block(self, block: Node, job: Text) -> Node:
        """A paragraph that is just a picture is a figure of its own."""
        if block["t"] == "Para" and [n["t"] for n in block["c"]] == ["Image"]:
            name, alt = self._picture(block["c"][0], job)
            return markdown.typst(typst_image("figure-block", name, alt))
        return block

    def _picture(self, node: Node, job: Text) -> tuple[str, str]:
        """Fetch the file that a text shows; return its name and words."""
        _, words, (url, _) = node["c"]
        alt = markdown.plain(words)
        target = unquote(url)
        if target.startswith("attachment:"):
            attached = job.target.get("attachments", {})
            bundle = attached.get(target.removeprefix("attachment:"), {})
            for mime, suffix in PICTURES.items():
                if mime in bundle:
                    data = content(bundle[mime], mime, job.cell)
                    return self._save(data, suffix), alt
        folder = Path(self.doc["folder"]).resolve()
        path = Path(folder, target).resolve()
        if (
            path.is_relative_to(folder)
            and path.suffix.lower() in (*PICTURES.values(), ".jpeg")
            and path.is_file()
        ):
            return self._save(path.read_bytes(), path.suffix.lower()), alt
        raise ContentError(
            job.cell,
            f"the picture {target[:80]} is not a PNG, JPEG, SVG or PDF file "
            "in the notebook's folder.",
        )

    def _save(self, data: bytes, suffix: str) -> str:
        """Keep a picture for Typst's folder; return its name there."""
        files = self.doc["files"]
        name = f"picture-{len(files)}{suffix}"
        files[name] = data
        return name


def typst_output(text: str) -> NotebookNode:
    """An output that the template prints as it is."""
    return new_output("display_data", {TYPST: text})


def printed(function: str, text: str) -> NotebookNode | None:
    """An output of plain text."""
    text = shorten(ANSI.sub("", text), MAX_PRINTED).rstrip().lstrip("\n")
    if not text.strip():
        return None
    return typst_output(typst_function(function, breakable(text)))


def wrapped(function: str, inlines: list[Node]) -> list[Node]:
    """Running text as the argument of one of the template's functions."""
    return [
        markdown.typst(f"#{function}["),
        {"t": "Plain", "c": inlines},
        markdown.typst("]"),
    ]


def data_tables(blocks: list[Node]) -> list[Node]:
    """What a data frame's HTML holds, its numbers flush right."""
    flat = []
    for block in blocks:
        if block["t"] == "Div":
            flat += data_tables(block["c"][1])
        else:
            flat.append(block)
    for node in markdown.nodes(flat):
        if node["t"] == "Table":
            for column in node["c"][2]:
                if column[0]["t"] == "AlignDefault":
                    column[0] = {"t": "AlignRight"}
        elif node["t"] == "Image":
            node.update(t="Span", c=[["", [], []], node["c"][1]])
    return flat


def as_text(data: str | list[str] | None) -> str:
    """A MIME bundle's text, which may be stored as lines."""
    return "".join(data) if isinstance(data, list) else data or ""


def content(data: str | list[str], mime: str, index: int) -> bytes:
    """A picture's bytes.

    Raises:
        ContentError: it is not what its MIME type says.
    """
    text = as_text(data)
    if mime == "image/svg+xml":
        return text.encode()
    try:
        return base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError) as error:
        raise ContentError(
            index, f"a picture ({mime}) is damaged; run the cell again."
        ) from error


class TypstPDFExporter(TemplateExporter):
    """Export a notebook to PDF with Typst: no TeX, no browser."""

    export_from_notebook = "PDF via Typst"
    output_mimetype = "application/pdf"

    author = Unicode(
        help="Who hands in; the notebook's file name if it is such a name."
    ).tag(config=True)
    banner = Unicode(
        help="A warning on the first page and in every page's header."
    ).tag(config=True)
    lang = Unicode("en", help="The text's language, for hyphenation.").tag(
        config=True
    )

    @default("file_extension")
    def _file_extension_default(self) -> str:
        return ".pdf"

    @default("template_extension")
    def _template_extension_default(self) -> str:
        return ".typ.j2"

    @default("template_name")
    def _template_name_default(self) -> str:
        return "typst"

    @default("extra_template_basedirs")
    def _extra_template_basedirs_default(self) -> list[str]:
        return [str(Path(__file__).parent / "templates")]

    @property
    def default_config(self) -> Config:
        """Honour the tags that Jupyter and Jupyter Book hide cells by."""
        config = Config(
            {
                "TagRemovePreprocessor": {
                    "enabled": True,
                    "remove_cell_tags": both("remove_cell", "hide_cell"),
                    "remove_input_tags": both("remove_input", "hide_input"),
                    "remove_all_outputs_tags": both(
                        "remove_output", "hide_output"
                    ),
                }
            }
        )
        merged = super().default_config.copy()
        merged.merge(config)
        return merged

    def default_filters(self) -> Iterator[tuple[str, Any]]:
        """The stock filters and the one our template needs."""
        yield from super().default_filters()
        yield "typst_string", quote

    def from_notebook_node(
        self,
        nb: NotebookNode,
        resources: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[bytes, dict[str, Any]]:
        """Convert a notebook to a PDF.

        Returns:
            The PDF, and nbconvert's resources; in them, ``headings`` lists
            what the PDF's outline has ('' for a heading with a formula),
            ``pictures`` counts its different pixel images.

        Raises:
            ExportError: the PDF would not show what the notebook says; the
                message names the cell.
        """
        nb = copy.deepcopy(nb)
        resources = self._init_resources(resources)
        metadata = resources["metadata"]
        author = self.author
        if not author:
            with contextlib.suppress(SubmissionError):
                author = check_name(metadata.get("name", ""))
        if author:
            put_name(nb, author)
        for index, cell in enumerate(nb.cells):
            cell.metadata["typst_index"] = index
        resources["typst"] = {
            "title": metadata.get("name", ""),
            "titled": False,
            "author": author,
            "banner": self.banner or DEMO_BANNER * is_demo(nb),
            "lang": self.lang,
            "folder": metadata.get("path") or ".",
            "where": [describe(nb, i) for i in range(len(nb.cells))],
            "headings": [],
            "files": {},
        }
        source, resources = super().from_notebook_node(
            nb, resources, **kwargs
        )
        doc = resources.pop("typst")
        resources["headings"] = doc["headings"]
        resources["pictures"] = len(
            {
                data
                for name, data in doc["files"].items()
                if name.endswith((".png", ".jpg", ".jpeg"))
            }
        )
        return typeset(source, doc["files"], doc["where"]), resources


def both(*names: str) -> set[str]:
    """Each tag in Jupyter's spelling and in nbconvert's."""
    return {*names, *(name.replace("_", "-") for name in names)}


def typeset(source: str, files: dict[str, bytes], where: list[str]) -> bytes:
    """Compile a document in a folder of its own.

    Args:
        source: the Typst document, with a line ``// cell N`` above each cell.
        files: the pictures.
        where: how to name each cell to a person.

    Raises:
        ExportError: Typst complains, or a character is in no font.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        main = Path(folder, "main.typ")
        main.write_text(source, "utf-8")
        missing = ""
        # The fonts inside typst first: they are the same on every machine.
        for bundled_only in (True, False):
            compiler = typst.Compiler(
                str(main), root=folder, ignore_system_fonts=bundled_only
            )
            try:
                pdf, warnings = compiler.compile_with_warnings(format="pdf")
            except typst.TypstError as error:
                raise ExportError(
                    located(error.diagnostic, source, where)
                ) from error
            # pandoc writes some symbols by their former names.
            warnings = [w for w in warnings if "deprecated" not in w.message]
            if warnings:
                raise ExportError(
                    located(warnings[0].diagnostic, source, where)
                )
            if source.isascii():
                return pdf
            missing = missing_characters(compiler)
            if not missing:
                return pdf
    raise ExportError(located(missing, source, where))


def missing_characters(compiler: typst.Compiler) -> str:
    """What Typst says about characters that no font has ('' if none).

    Typst prints an empty box for such a character without a word, except
    under the archive standard, which forbids it.
    """
    try:
        compiler.compile(format="pdf", pdf_standards=["a-2b"])
    except typst.TypstError as error:
        for complaint in error.diagnostic.split("\n\n"):
            if "could not be displayed" in complaint:
                return complaint
    return ""


def located(diagnostic: str, source: str, where: list[str]) -> str:
    """A complaint of Typst with the cell it is about."""
    message = diagnostic.strip().splitlines()[0]
    message = re.sub(r"^(error|warning): (PDF/A-2b error: )?", "", message)
    message = re.sub(r" with font .*", " with any font", message)
    # Among the lines of a chain of calls, the cell's own stands last.
    lines = re.findall(r"main\.typ:(\d+):", diagnostic)
    above = source.splitlines()[: max(map(int, lines), default=0)]
    # A picture's own fault is told with its file, not with the cell.
    if picture := re.search(r"─ \S*?(picture-\d+\.\w+):", diagnostic):
        above = source.partition(f'"{picture[1]}"')[0].splitlines()
    cells = re.findall(r"(?m)^// cell (\d+)$", "\n".join(above))
    place = where[int(cells[-1])] if cells else "the PDF"
    return f"{place}: {message}"
