"""Markdown, HTML tables and TeX formulas to Typst, through pandoc.

All of a notebook's texts go through pandoc in two calls (to its syntax tree
and on to Typst), because starting pandoc costs more than converting a cell.
In between, the tree is searched for what pandoc would drop or print literally
without a word.
"""

import functools
import json
import os
import re
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pypandoc

Node = dict[str, Any]

# GitHub's Markdown is what Jupyter shows, plus its dollar mathematics. A cell
# that starts with a rule is not metadata, and Jupyter leaves :smile: alone.
GFM = "gfm+tex_math_dollars-emoji-yaml_metadata_block"
# Stands for an escaped dollar sign while pandoc reads: afterwards every other
# dollar sign in running text is a formula that went wrong.
ESCAPED_DOLLAR = "\ufdd0"


class ContentError(ValueError):
    """A text that would not come out in the PDF as it is in Jupyter."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


def pandoc_path() -> str:
    """The pandoc that came with pip: one on PATH may not know Typst."""
    files = Path(pypandoc.__file__).parent / "files"
    bundled = files / ("pandoc.exe" if os.name == "nt" else "pandoc")
    return str(bundled) if bundled.exists() else pypandoc.get_pandoc_path()


def _pandoc(arguments: list[str], text: str = "") -> tuple[str, list[Node]]:
    """Run pandoc; return its output and its warnings about the content."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log.json")
        done = subprocess.run(
            # The sandbox keeps pandoc from opening files a text names.
            [pandoc_path(), "--sandbox", f"--log={log}", *arguments],
            input=text.encode(),
            capture_output=True,
        )
        if done.returncode:
            raise RuntimeError(f"pandoc failed: {done.stderr.decode()}")
        messages = json.loads(log.read_text("utf-8") or "[]")
    serious = [m for m in messages if m["verbosity"] in ("WARNING", "ERROR")]
    return done.stdout.decode(), serious


def read(texts: Sequence[str], reader: str) -> list[list[Node]]:
    """Read each text on its own; return each one's blocks.

    Raises:
        ContentError: pandoc warns about one of the texts.
    """
    if not texts:
        return []
    separator = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as folder:
        between = Path(folder, "separator")
        between.write_text(separator, "utf-8")
        files: list[str] = []
        for number, text in enumerate(texts):
            path = Path(folder, str(number))
            path.write_bytes(text.encode())
            files += [str(path), str(between)]
        # Each file for itself: a fence left open ends with its cell.
        tree, warnings = _pandoc(
            ["-f", reader, "-t", "json", "--file-scope", *files]
        )
    if warnings and len(texts) == 1:
        raise ContentError(0, warnings[0]["pretty"])
    if warnings:
        for index, text in enumerate(texts):
            try:
                read([text], reader)
            except ContentError as error:
                raise ContentError(index, str(error)) from error
    parts: list[list[Node]] = [[]]
    for block in json.loads(tree)["blocks"]:
        if block.get("c") == [{"t": "Str", "c": separator}]:
            parts.append([])
        else:
            parts[-1].append(block)
    _strip_attributes(parts)
    return parts[:-1]


def _strip_attributes(tree: Any) -> None:  # noqa: ANN401
    """Drop key-value attributes: pandoc writes "typst:…" ones as code."""
    match tree:
        case [str(), [*classes], [*_]] if all(
            isinstance(name, str) for name in classes
        ):
            tree[2] = []
        case list():
            for part in tree:
                _strip_attributes(part)
        case {"c": content}:
            _strip_attributes(content)


def write(parts: Sequence[list[Node]]) -> list[str]:
    """Turn each list of blocks into Typst.

    Raises:
        ContentError: a formula is beyond pandoc.
    """
    separator = f"// {uuid.uuid4().hex}"
    blocks: list[Node] = []
    for part in parts:
        blocks += [*part, typst(separator)]
    document = {"pandoc-api-version": _api(), "meta": {}, "blocks": blocks}
    text, warnings = _pandoc(
        ["-f", "json", "-t", "typst", "--wrap=none"], json.dumps(document)
    )
    for warning in warnings:
        formula = warning.get("contents", "")
        for index, part in enumerate(parts):
            if any(is_math(node, formula) for node in nodes(part)):
                short = " ".join(formula.split())
                raise ContentError(
                    index,
                    f"the formula {short} cannot be typeset: "
                    + " ".join(warning.get("message", "").split()[-12:]),
                )
        raise ContentError(0, warning["pretty"])
    return [part.strip() for part in text.split(separator)[:-1]]


@functools.cache
def _api() -> list[int]:
    """The version of the syntax tree that this pandoc speaks."""
    tree, _ = _pandoc(["-f", "gfm", "-t", "json"])
    return json.loads(tree)["pandoc-api-version"]


def typst(text: str) -> Node:
    """A block of Typst of our own (a text cannot make one)."""
    return {"t": "RawBlock", "c": ["typst", text]}


def is_math(node: Node, formula: str) -> bool:
    """Whether the node is this formula."""
    return node["t"] == "Math" and node["c"][1].strip() == formula.strip()


def nodes(tree: Any) -> Iterator[Node]:  # noqa: ANN401
    """All nodes of a pandoc tree, parents first."""
    if isinstance(tree, dict):
        if "t" in tree:
            yield tree
        tree = tree.get("c", [])
    if isinstance(tree, list):
        for part in tree:
            yield from nodes(part)


def plain(tree: Any, *, verbatim: bool = True) -> str:  # noqa: ANN401
    """The words of a tree, with or without code and formulas."""
    words = []
    for node in nodes(tree):
        if node["t"] == "Str":
            words.append(node["c"])
        elif node["t"] in ("Space", "SoftBreak", "LineBreak"):
            words.append(" ")
        elif node["t"] in ("Code", "Math"):
            words.append(node["c"][1] if verbatim else " ")
    return "".join(words)


def slug(heading: str) -> str:
    """How Jupyter and GitHub both shorten a heading to a link target."""
    return re.sub(r"[^\w-]", "", heading.strip().replace(" ", "-")).lower()


VERBATIM_OR_MATH = re.compile(
    r"""(?msx)
    ^[ ]{0,3}(?P<fence>`{3,}|~{3,}).*?(?:^[ ]{0,3}(?P=fence)|\Z)
    | (?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)
    | (?P<dollar>\\\$)
    | \\.
    | ^(?P<before>[^>\n]*?)\$\$(?P<math>(?:(?!\n[ ]*\n)[^$%])+)\$\$
    """
)


def breakable(text: str) -> str:
    """Allow line breaks in words that are wider than half a line."""
    return re.sub(
        r"\S{40,}",
        lambda match: re.sub(r"(.{5})(?=.)", "\\1\u200b", match[0]),
        text,
    )


def protect(text: str) -> str:
    """Mark escaped dollar signs and put display formulas on one line.

    Jupyter looks for formulas first, pandoc for lists: a line of a formula
    that starts with a plus sign would be an item of one.
    """

    def mend(match: re.Match[str]) -> str:
        if match["dollar"]:
            return ESCAPED_DOLLAR
        if match["math"]:
            before = protect(match["before"])
            return f"{before}$${' '.join(match['math'].split())}$$"
        return match[0]

    return VERBATIM_OR_MATH.sub(mend, text)


def check(index: int, blocks: list[Node]) -> None:
    """Refuse what would vanish from the PDF or stay literal TeX in it.

    Mends in place what has one clear meaning: escaped dollar signs, ``<br>``
    and HTML comments.

    Raises:
        ContentError: raw HTML, or TeX outside a formula.
    """
    for node in nodes(blocks):
        kind = node["t"]
        if kind in ("RawInline", "RawBlock"):
            html = node["c"][1].strip()
            if re.fullmatch(r"<br\s*/?>", html):
                replacement = "LineBreak"
            elif re.fullmatch(r"(?s)<!--.*?-->", html):
                replacement = "Space"
            else:
                first = html.splitlines()[0][:60] if html else html
                raise ContentError(
                    index,
                    f"HTML does not reach the PDF: {first}\n"
                    "Write it in Markdown, or in backticks if it is meant "
                    "literally.",
                )
            if kind == "RawInline":
                node.update(t=replacement, c=None)
            else:
                node.update(t="Plain", c=[])
        if kind in ("Para", "Plain", "Header"):
            _check_words(index, plain(node["c"], verbatim=False))
    _restore(blocks)


def _check_words(index: int, words: str) -> None:
    """Refuse formulas that pandoc did not recognise as such."""
    if words.count("$") > 1:
        around = words[max(words.index("$") - 10, 0) :][:50].strip()
        raise ContentError(
            index,
            f"a formula is not recognised: …{around}…\n"
            "No space just inside $…$, no blank line inside $$…$$; an "
            "amount of money is written \\$5.",
        )
    if command := re.search(r"\\[A-Za-z]+(?:\{\w*\*?\})?", words):
        raise ContentError(
            index,
            f"{command[0]} stands outside a formula.\n"
            "Put it into $…$ or $$…$$, or in backticks if it is meant "
            "literally.",
        )


def _restore(tree: Any) -> None:  # noqa: ANN401
    """Turn the marks for escaped dollar signs back."""
    for node in nodes(tree):
        content = node.get("c")
        if node["t"] == "Str":
            node["c"] = breakable(content.replace(ESCAPED_DOLLAR, "$"))
        elif node["t"] in ("Code", "CodeBlock"):
            content[1] = breakable(content[1].replace(ESCAPED_DOLLAR, r"\$"))
        elif node["t"] == "Math":
            content[1] = content[1].replace(ESCAPED_DOLLAR, r"\$")
        elif node["t"] in ("Link", "Image"):
            content[2] = [
                part.replace(ESCAPED_DOLLAR, "$") for part in content[2]
            ]
