"""A notebook is untrusted: nothing in it reaches out of its folder."""

import base64
import contextlib
import http.server
import io
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_notebook, new_output, new_raw_cell
from pypdf import PdfReader
from zoo import code, display, export, figure, markdown, pictures, text

from typstpdf import TypstPDFExporter

SECRET = "TopSecret4711"


class Trap(http.server.BaseHTTPRequestHandler):
    """Notes every request."""

    requests: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.requests.append(self.path)
        self.send_error(404)


@pytest.fixture
def url() -> Iterator[str]:
    """An address on loopback that nobody should ask for."""
    Trap.requests.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trap) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/a.png"
        server.shutdown()


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file beside the notebook's folder, which is the current one."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


def svg(reference: str) -> str:
    """A drawing that shows another file, in all the ways there are."""
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90"
        xmlns:xlink="http://www.w3.org/1999/xlink">
        <style>@import url("{reference}");
        @font-face {{font-family: x; src: url("{reference}")}}</style>
        <image href="{reference}" width="40" height="40"/>
        <image xlink:href="{reference}" width="40" height="40"/>
        <use href="{reference}#a"/><a href="{reference}"><text>a</text></a>
        <foreignObject><iframe src="{reference}"/></foreignObject>
        <rect width="9" height="9" fill="url({reference}#b)"/></svg>"""


def texts(target: str) -> Iterator[NotebookNode]:
    """Cells with Typst or TeX that would read a file or run a command."""
    for call in (
        f'#read("{target}") // gone /* gone */ $1',
        f'#image("{target}")',
        f'#include "{target}"',
        f"\\input{{{target}}}",
        f"\\includegraphics{{{target}}}",
        f"\\immediate\\write18{{touch executed; cat {target}}}",
        f"`touch executed; cat {target}`",
    ):
        yield from (
            markdown(call),
            markdown(f"`{call}`"),
            markdown(f"${call}$"),
            markdown(f"```{{=typst}}\n{call}\n```"),
            markdown(f"```{{=latex}}\n{call}\n```"),
            markdown(f"# {call}"),
            code("1", display(text_latex=f"${call}$")),
            code("2", display(text_markdown=call)),
            code(call, display(text_plain=call)),
            new_raw_cell(call),
        )


def references(target: str) -> Iterator[NotebookNode]:
    """Cells that would show another file."""
    html = (
        f'<table><tr><td>1<img src="{target}"><iframe src="{target}">'
        f'</iframe><object data="{target}"></object></td></tr></table>'
        # An attribute's name may look like code of Typst's own.
        '<table typst:fill="panic()"><td data-typst:text:fill="panic()">4.5'
        '</table><div typst:fill="panic()"><p>rows</p></div>'
        f'<link rel="stylesheet" href="{target}"><base href="{target}">'
        f'<embed src="{target}"><video src="{target}"></video>'
        f'<div style="background: url({target})" data-src="{target}">x</div>'
        f'<img srcset="{target}" src="file://{target}"><script '
        f'src="{target}"></script><meta http-equiv="refresh" content="0;'
        f'url={target}">{svg(target)}'
    )
    packed = base64.b64encode(svg(target).encode()).decode()
    drawing = {"image/svg+xml": svg(target)}
    attached = markdown("![words](attachment:a.svg)")
    attached["attachments"] = {"a.svg": drawing}
    yield from (
        markdown(f"![words]({target})"),
        markdown(f"inline ![words](<{target}>)"),
        markdown(f"![words][a]\n\n[a]: {target}"),
        markdown(f"[words]({target})"),
        markdown(f"![words](data:image/svg+xml;base64,{packed})"),
        markdown(html),
        markdown(f"---\nbibliography: {target}\n---\n\n[@a]"),
        attached,
        code("3", display(text_html=html)),
        code("4", new_output("display_data", data=drawing)),
    )


def test_no_cell_reads_fetches_or_runs(
    secret: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = secret.with_suffix(".png")
    picture.write_bytes(base64.b64decode(figure()))
    Path("link.png").symlink_to(picture)
    started = []
    popen = subprocess.Popen

    def noted(command: list[str], **options: object) -> subprocess.Popen:
        started.append(command[0])
        assert not options.get("shell")
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", noted)
    named = str(secret), "../secret.txt", url
    shown = str(picture), f"file://{picture}", url, "../secret.png"
    cells = [cell for target in named for cell in texts(target)]
    for target in (*shown, "link.png"):
        cells += references(target)
    # At the top of a notebook stand its title and settings.
    tops = [[c] for c in cells if c.source.startswith(("# ", "---"))]
    for some in (cells, *tops):
        reader, warnings = export(*some)
        assert SECRET not in text(reader) + str(reader.metadata)
        assert not sum(pictures(reader))
        # Typst would refuse what it found to be code.
        assert not [line for line in warnings if "refuses" in line]
    assert not Trap.requests
    assert not Path("executed").exists()
    assert not started
    # All that is seen where it does happen.
    Path("own.png").write_bytes(picture.read_bytes())
    reader, _ = export(markdown("![words](own.png)"), markdown(SECRET))
    assert sum(pictures(reader)) and SECRET in text(reader)
    with contextlib.suppress(OSError):
        urllib.request.urlopen(url)
    assert Trap.requests == ["/a.png"]


PAYLOADS = [
    "a```#(1+41)```",
    '"); #(1+41) //',
    "#(1+41)",
    "$#(1+41)$ \\u{23}(1+41)",
    '#import "@preview/cetz:0.3.0"',
]
NAMES = "class id style title align width height bgcolor color href name alt"
NAMES += " start type value lang dir data-language colspan rowspan typst:fill"
TAGS = "pre code p span div h2 td th li ol table a img input font svg video"


def hostile(payload: str) -> Iterator[NotebookNode]:
    """Cells with a payload where nobody looks."""
    quoted = escape(payload)
    attributes = " ".join(f'{name}="{quoted}"' for name in NAMES.split())
    html = "".join(f"<{tag} {attributes}>x</{tag}>" for tag in TAGS.split())
    html += f"<style>#a, {payload} {{color: {payload}}}</style>"
    html += f'<p style="color: {quoted}; width: {quoted}; float: left">x</p>'
    yield markdown(html)
    yield markdown(f"```{payload}\nx\n```\n\n# [x](<{payload}> '{quoted}')")
    for tex in (r"\tag{%s}", r"\label{%s}", r"\color{%s}{x}", r"\text{%s}"):
        for delimiter in ("$", "$$"):
            yield markdown(delimiter + tex % payload + delimiter)
    yield code("1", display(text_html=html))
    yield code("2", display(**{payload: "x"}))
    yield code("3", display(text_latex=f"\\begin{{{payload}}}x"))
    attached = markdown(f"![x](<attachment:{payload}>)")
    attached["attachments"] = {payload: {payload: figure()}}
    yield attached
    yield code("4", new_output("stream", name=payload, text="x"))
    yield code("5", new_output("error", traceback=["\x1b[31m" + payload]))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_of_a_notebook_is_typst(payload: str) -> None:
    nb = new_notebook(cells=[markdown(f"# {payload}"), *hostile(payload)])
    nb.metadata["language_info"] = {"name": payload}
    nb.metadata |= {"title": payload, "authors": [payload], "lang": payload}
    exporter = TypstPDFExporter()
    pdf, resources = exporter.from_notebook_node(nb, {"metadata": {}})
    reader = PdfReader(io.BytesIO(pdf))
    assert "42" not in text(reader) + str(reader.metadata)
    assert payload.split("(")[0] in reader.metadata.title
    assert not [w for w in resources["warnings"] if "refuses" in w]
