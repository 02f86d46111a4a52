r"""Formulas: TeX as MathJax reads it, set by pandoc and Typst.

`Book.expand` replaces macros: a definition holds from there on, for all later
formulas of the notebook. `Reader` takes out what pandoc does not know or gets
wrong (``mathjax.toml``, environments, colours, delimiters, words, numbers):
each becomes one private-use character in the TeX, which stands for a template
of Typst around other pieces of TeX. pandoc writes all pieces of a notebook at
once, and `Reader.typst` puts them together. Nothing of a formula gets into
Typst but through pandoc, as a number, or as a string literal.
"""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pypandoc
from tinycss2.color3 import parse_color

KNOWN = tomllib.loads(
    Path(__file__).with_name("mathjax.toml").read_text(encoding="utf-8")
)
# Commands that pandoc sets, with so many arguments.
for pairs in ("arguments", "signs", "arrows"):
    words = KNOWN[pairs].split()
    KNOWN[pairs] = dict(zip(words[::2], words[1::2], strict=True))
ARGUMENTS = {name: int(n) for name, n in KNOWN["arguments"].items()}
# Between numerator and denominator: delimiters, and whether there is a line.
FRACTIONS = {
    "\\over": ("", "", True),
    "\\above": ("", "", True),
    "\\atop": ("", "", False),
    "\\choose": ("\\(", "\\)", False),
    "\\brace": ("\\{", "\\}", False),
    "\\brack": ("\\[", "\\]", False),
}
DELIMITED = {
    "pmatrix": ("\\(", "\\)"),
    "bmatrix": ("\\[", "\\]"),
    "Bmatrix": ("\\{", "\\}"),
    "vmatrix": ("\\|", "\\|"),
    "Vmatrix": ("\\‖", "\\‖"),
    "cases": ("\\{", ""),
    "dcases": ("\\{", ""),
    "rcases": ("", "\\}"),
    "drcases": ("", "\\}"),
}
NUMBERED = {"equation", "align", "eqnarray", "flalign", "alignat", "gather"}
NUMBERED |= {"multline"}
PAIRS = {"align", "aligned", "split", "eqnarray", "flalign", "alignat"}
PAIRS |= {"alignedat"}
DISPLAYED = NUMBERED | PAIRS | {"gathered", "multlined", "dcases", "drcases"}
DISPLAYED |= {"displaymath", "math", "subequations"}
SMALL = {"smallmatrix", "substack", "subarray"}
ENVIRONMENTS = DISPLAYED | SMALL | set(DELIMITED) | {"array", "matrix"}
DEFINITIONS = re.compile(
    r"\\((re)?newcommand|providecommand|[gex]?def|let|DeclareMathOperator"
    r"|(re)?newenvironment)"
)
UNITS = {
    "ex": (0.43, "em"),
    "mu": (1 / 18, "em"),
    "px": (0.75, "pt"),
    "pc": (12, "pt"),
    "bp": (1, "pt"),
}
LENGTH = re.compile(
    r"\s*=?\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*(em|ex|pt|px|cm|mm|in|mu|pc|bp)\s*"
)
BIG = re.compile(r"\\(big|Big|bigg|Bigg)([lrm]?)")
BIG_SIZES = {"big": 1.2, "Big": 1.8, "bigg": 2.4, "Bigg": 3}
BIG_CLASS = {"l": "opening", "r": "closing", "m": "relation"}
TOKEN = re.compile(
    r"(\\[A-Za-z]+)\s*|(\\.|#\d)|%[^\n]*\n?\s*|(\s)\s*|(.)", re.DOTALL
)
# What no formula may hold: controls, our own characters, none at all.
FORBIDDEN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\uf8ff\ufdd0-\ufdef\ufffe\uffff]"
)
FIRST, LAST = 0xE000, 0xF8FF
# Typst keeps blanks beside a bar.
BAR = re.compile(r" *(\\\|) *")
# Signs that Typst would take for more than themselves.
SIGN = re.compile(r"(?<!\\)([{}√∛∜])")
# Names that pandoc 3.9 writes and Typst 0.15 dropped.
DROPPED = {
    "sect.double": "⋒",
    "sect.big": "⋂",
    "sect.sq": "⊓",
    "sect": "∩",
    "times.circle.big": "⨂",
    "times.circle": "⊗",
    "dot.circle.big": "⨀",
    "dot.circle": "⊙",
    "minus.circle": "⊖",
    "dash.circle": "⊝",
}
NAME = re.compile(
    rf"(?<![\w.])({'|'.join(map(re.escape, DROPPED))})(?![^\W_])"
)
CHEMISTRY = re.compile(
    r"(?P<arrow><=>>?|<->|->|<-|=)(\[(?P<over>[^]]*)\])?"
    r"(\[(?P<under>[^]]*)\])?"
    r"|(?<=[A-Za-z)\]}])(?P<count>\d+)|\^(?P<up>\{[^}]*\}|\d*[-+]?)"
    r"|_(?P<down>\{[^}]*\}|\w)"
    r"|(?<=[A-Za-z\d)\]}])(?P<charge>[-+])(?![A-Za-z\d(])"
    r"|(?<=\s)(?P<falls>v)(?!\S)|(?P<word>[A-Za-z]+)"
    r"|(?P<tex>\$[^$]*\$|\\[A-Za-z]+)"
    r"|(?P<dot>[*.])|(?P<gap>\s+)|(?P<other>.)"
)
REACTIONS = {
    "->": ("\\longrightarrow ", "\\xrightarrow"),
    "<-": ("\\longleftarrow ", "\\xleftarrow"),
    "<->": ("\\longleftrightarrow ", "\\xleftrightarrow"),
    "=": ("=", "\\xlongequal"),
}
# A formula that does not end has no more tokens or deeper groups than this.
MAX_TOKENS = 20_000
MAX_DEPTH = 40


class CannotSetError(ValueError):
    """A formula that cannot be set."""


# TeX that ends too early, or nests too deep, cannot be set either.
CANNOT = (CannotSetError, IndexError, RecursionError)


@dataclass
class Formula:
    """A formula of the notebook.

    Attributes:
        tex: its source as it stands in the notebook.
        block: whether it is displayed.
        typst: math source; "" prints nothing, None cannot be set.
        number: what stands at the right margin, such as "(1)".
    """

    tex: str
    block: bool
    typst: str | None = None
    number: str = ""


@dataclass
class Macro:
    """A macro: what follows its name, its replacement, the default."""

    pattern: list[str]
    body: list[str]
    default: list[str] | None = None


def tokens_of(tex: str) -> list[str]:
    """TeX as commands and characters, without comments."""
    found = TOKEN.finditer(tex)
    found = (m[1] or m[2] or (m[3] and " ") or m[4] for m in found)
    return [token for token in found if token]


# Below, `todo` are tokens in reverse: the next one is popped.
def skip(todo: list[str], signs: str = " ") -> str:
    """Drop what means nothing here; the token that is next."""
    while todo and todo[-1] in signs:
        todo.pop()
    return todo[-1] if todo else ""


def argument(todo: list[str]) -> list[str]:
    """Take an argument: a group or a token."""
    if skip(todo) in ("", "}"):
        raise CannotSetError("an argument is missing")
    return enclosed(todo, "{", "}") if todo[-1] == "{" else [todo.pop()]


def option(todo: list[str]) -> list[str] | None:
    """Take an optional argument."""
    if skip(todo) != "[":
        return None
    taken, depth = [todo.pop()], 0
    while depth or todo[-1] != "]":
        depth += (todo[-1] == "{") - (todo[-1] == "}")
        taken.append(todo.pop())
    todo.pop()
    return taken[1:]


def enclosed(todo: list[str], start: str, end: str) -> list[str]:
    """Take what stands between the sign that is next and its end."""
    taken, depth = [], 0
    while not taken or depth:
        taken.append(todo.pop())
        depth += (taken[-1] == start) - (taken[-1] == end)
    return taken[1:-1]


def star(todo: list[str]) -> bool:
    """Take a star."""
    return skip(todo) == "*" and bool(todo.pop())


def group(tokens: list[str]) -> list[str]:
    """Tokens in braces."""
    return ["{", *tokens, "}"]


def plain(tokens: list[str]) -> str:
    """Words that are not set, such as a label."""
    words = (token.lstrip("\\") for token in tokens if token not in "{}$")
    return "".join(words).strip()


def literal(text: str) -> str:
    """A Typst string."""
    return json.dumps(text, ensure_ascii=False)


def split(tokens: list[str], *signs: str) -> list[list[str]]:
    """Cut at signs that stand in no group or environment."""
    pieces, depth = [[]], 0
    for token in tokens:
        depth += token in ("{", "\\begin", "\\left")
        depth -= token in ("}", "\\end", "\\right")
        if token in signs and not depth:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


class Book:
    """What formulas share.

    Attributes:
        macros: by their names, those of environments too.
        labels: the numbers that they mean.
        last: the last automatic number.
    """

    def __init__(self) -> None:
        self.macros: dict[str, Macro] = {}
        self.labels: dict[str, str] = {}
        self.last = 0
        self.expand(KNOWN["macros"])

    def expand(self, tex: str) -> list[str]:
        """Replace macros, and learn those that are defined."""
        todo, done = tokens_of(tex)[::-1], []
        for _ in range(MAX_TOKENS):
            if not todo:
                return done
            token = todo.pop()
            body = [token]
            if DEFINITIONS.fullmatch(token):
                self._define(token, todo)
                continue
            if token in ("\\begin", "\\end"):
                name = argument(todo)
                token += plain(name)
                body += group(name)
            if token in self.macros:
                body = self._fill(self.macros[token], todo)
                before = next((t for t in done[::-1] if t != " "), "")
                # MathJax takes a macro for one argument.
                if before in ("^", "_") or before[1:] in ARGUMENTS:
                    body = group(body)
                todo += body[::-1]
            elif token not in ("\\global", "\\long"):
                done += body
            if len(todo) > MAX_TOKENS:
                break
        raise CannotSetError("a macro has no end")

    def _define(self, kind: str, todo: list[str]) -> None:
        starred = star(todo)
        name = plain(argument(todo))
        name = name if "environment" in kind else f"\\{name}"
        macro = Macro([], [])
        if kind.endswith("def"):
            while todo[-1] != "{":
                macro.pattern.append(todo.pop())
        elif kind == "\\let":
            skip(todo, " =")
            other = todo.pop()
            macro = self.macros.get(other, Macro([], [other]))
        elif kind == "\\DeclareMathOperator":
            macro.body = ["\\operatorname", *"*"[:starred]]
        else:
            count = plain(option(todo) or ["0"])
            macro.pattern = [f"#{n + 1}" for n in range(int(count[:1]))]
            macro.default = option(todo)
        if kind == "\\DeclareMathOperator":
            macro.body += group(argument(todo))
        elif kind != "\\let":
            macro.body = argument(todo)
        if "environment" in kind:
            self.macros[f"\\end{name}"] = Macro([], argument(todo))
            name = f"\\begin{name}"
        if kind != "\\providecommand" or name not in self.macros:
            self.macros[name] = macro

    @staticmethod
    def _fill(macro: Macro, todo: list[str]) -> list[str]:
        """A macro's replacement with the arguments that follow."""
        given: dict[str, list[str]] = {}
        pattern = macro.pattern[::-1]
        if macro.default is not None and pattern:
            found = option(todo)
            given[pattern.pop()] = macro.default if found is None else found
        while pattern:
            sign = pattern.pop()
            until = pattern[-1] if pattern else "#"
            if sign[0] != "#":
                if todo.pop() != sign:
                    raise CannotSetError("a macro is not used as defined")
            elif until[0] == "#":
                given[sign] = argument(todo)
            else:
                given[sign] = []
                while todo[-1] != until:
                    one = todo[-1] == "{"
                    found = argument(todo)
                    given[sign] += group(found) if one else found
        return [t for sign in macro.body for t in given.get(sign, [sign])]


class Reader:
    """A formula, rewritten for pandoc.

    Attributes:
        pieces: the TeX that pandoc must write.
        number: what stands at the right margin.
    """

    def __init__(self, book: Book, tex: str, block: bool) -> None:
        self.book = book
        self.top = int(block)
        self.parts: list[tuple[str, list[str]]] = []
        self.pieces: set[str] = set()
        self.number = self.tag = ""
        self.names: list[str] = []
        self.depth = 0
        tokens = book.expand(tex)
        if len(split(tokens, "\\\\", "&")) > 1:
            # Rows without an environment.
            kind = "aligned" if len(split(tokens, "&")) > 1 else "gathered"
            self.root = self.piece([*self.table(kind, tokens)])
        else:
            self.root = self.piece(tokens)

    def typst(self, tex: str, written: dict[str, str | None]) -> str:
        """A piece as Typst, with its parts in their places.

        Raises:
            CannotSetError: pandoc does not know something in it.
        """
        typst = written[tex] if tex else ""
        if typst is None:
            raise CannotSetError(tex)

        def fill(found: re.Match) -> str:
            template, texs = self.parts[ord(found[2]) - FIRST]
            if template.startswith("ref"):
                known = self.book.labels.get(template[4:], "???")
                return literal(f"({known})" if template[3] == "(" else known)
            if not texs and '"' in template:
                return template  # Typst keeps blanks beside words
            inner = [self.typst(tex, written) for tex in texs]
            if texs:
                template = re.sub(
                    r"\{(\d+)\}", lambda m: inner[int(m[1])], template
                )
            return found[1] + template + found[3]

        return re.sub("( ?)([\ue000-\uf8fe])( ?)", fill, typst)

    def part(self, template: str, *pieces: list[str]) -> str:
        """A character that stands for Typst around pieces."""
        texs = [self.piece(tokens) for tokens in pieces]
        self.parts.append((template, texs))
        if len(self.parts) > LAST - FIRST:
            raise CannotSetError("too long")
        return chr(FIRST + len(self.parts) - 1)

    def piece(self, tokens: list[str]) -> str:
        """Tokens as TeX that pandoc shall write."""
        tex = self.convert(tokens).strip()
        tex = f"{{}}{tex}" if tex[:1] in ("^", "_", "'") else tex
        self.pieces.add(tex)
        return tex

    def convert(self, tokens: list[str]) -> str:
        """Tokens as TeX that pandoc reads right."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CannotSetError("too deep")
        todo, out = tokens[::-1], []
        for sign in FRACTIONS.keys() & set(tokens):
            if len(both := split(tokens, sign)) > 1:
                todo, out = [], [self.fraction(sign, *both[:2])]
        while todo:
            out.append(self._next(todo, out))
        self.depth -= 1
        return "".join(out)

    def _next(self, todo: list[str], out: list[str]) -> str:
        """Rewrite the next command; `out` is what stands before it."""
        token = todo.pop()
        name = token[1:]
        if token == "{":
            todo.append(token)
            return self.group(todo)
        if token in ("^", "_"):
            return f"{token}{self.group(todo)}"
        if token in KNOWN["spaces"]:
            return self.part(f"#h({KNOWN['spaces'][token]}em);")
        if token in ("\\&", '"'):
            return self.part(literal(token[-1]))
        if token in ("\\|", "\\Vert", "\\lVert", "\\rVert"):
            kind = {"l": "opening", "r": "closing"}.get(name[0], "normal")
            return self.part(f"#math.class({literal(kind)}, $\\‖$);")
        if found := BIG.fullmatch(token):
            size, sign = BIG_SIZES[found[1]], self.delimiter(todo)
            call = f"math.lr(size: {size}em, ${sign}$)"
            if found[2]:
                call = f"math.class({literal(BIG_CLASS[found[2]])}, {call})"
            return self.part(f"#{call};")
        if len(token) == 1 or not name.isalpha():
            return token
        if name in ARGUMENTS:
            index = option(todo) if name == "sqrt" else None
            index = "" if index is None else f"[{self.convert(index)}]"
            inner = [self.group(todo) for _ in range(ARGUMENTS[name])]
            return f"{token}{index}{''.join(inner)}"
        if template := KNOWN["typst"].get(name):
            option(todo)
            count = 1 + int(max(re.findall(r"\{(\d)\}", template)))
            return self.part(
                template, *[argument(todo) for _ in range(count)]
            )
        if name == "displaystyle" and self.depth == self.top:
            return self.convert(rest(todo))
        if name in KNOWN["styles"]:
            return self.part(KNOWN["styles"][name], rest(todo))
        if name in KNOWN["texts"]:
            return self.words(argument(todo), KNOWN["texts"][name])
        if name in KNOWN["signs"]:
            return KNOWN["signs"][name]
        if name in KNOWN["arrows"]:
            below = option(todo)
            above = self.convert(["\\,", *argument(todo), "\\,"])
            below = self.convert(["\\,", *below, "\\,"]) if below else ""
            arrow = f"#math.stretch(sym.{KNOWN['arrows'][name]});"
            return f"{self.part(arrow)}_{{{below}}}^{{{above}}}"
        if name in ("limits", "nolimits"):
            call = "limits" if name == "limits" else "scripts"
            base = out.pop() if out else ""
            return self.part(f"#math.{call}(${{0}}$);", [base])
        rewrite = getattr(self, f"_do_{name}", None)
        return rewrite(todo) if rewrite else f"{token} "

    def group(self, todo: list[str]) -> str:
        """An argument in braces; what nests deep would take pandoc hours."""
        inner = argument(todo)
        if self.depth < 6:
            return f"{{{self.convert(inner)}}}"
        return f"{{{self.part('#${0}$;', inner)}}}"

    def fraction(self, sign: str, above: list[str], below: list[str]) -> str:
        r"""``a \over b`` and its like."""
        start, end, line = FRACTIONS[sign]
        if sign == "\\above":
            todo = below[::-1]
            line = not self.length(todo).startswith("0.0")
            below = todo[::-1]
        return self.stack(above, below, start, end, line)

    def stack(
        self,
        above: list[str],
        below: list[str],
        start: str,
        end: str,
        line: bool,
    ) -> str:
        """One above the other."""
        call = "math.frac(${0}$, ${1}$)"
        if not line:
            call = "math.mat(delim: none, row-gap: 0.3em, (${0}$,), (${1}$,))"
        if start or end:
            call = f"math.lr(${start} #{call}; {end}$)"
        return self.part(f"#{call};", above, below)

    def delimiter(self, todo: list[str]) -> str:
        r"""The sign behind ``\left`` and its like."""
        skip(todo)
        token = todo.pop()
        if token not in KNOWN["delimiters"]:
            raise CannotSetError(f"{token} is no delimiter")
        return KNOWN["delimiters"][token]

    def length(self, todo: list[str]) -> str:
        """A length as Typst writes it."""
        braced = skip(todo) == "{"
        inner = argument(todo)[::-1] if braced else todo
        found = LENGTH.match("".join(inner[:-25:-1]))
        if not found:
            raise CannotSetError("no length")
        if not braced:
            del todo[len(todo) - found.end() :]
        factor, unit = UNITS.get(found[2], (1, found[2]))
        value = max(-99.0, min(99.0, float(found[1]) * factor))
        return f"{value:.3f}{unit}"

    def words(self, tokens: list[str], alphabet: str) -> str:
        """Words, with formulas between dollars."""
        todo, out, said = tokens[::-1], [], ""
        while todo or said:
            token = todo.pop() if todo else "\\relax"
            if len(token) == 1 and token != "$":
                said += {"~": "\xa0", "{": "", "}": ""}.get(token, token)
                continue
            if token != "$" and token[1] in "_%#&{}$ \\":
                said += token[1].replace("\\", " ")
                continue
            if said:
                text = f"#math.{alphabet}(${literal(said)}$);"
                out.append(self.part(text if alphabet else literal(said)))
                said = ""
            if token in ("$", "\\("):
                inner = []
                while todo[-1] not in ("$", "\\)"):
                    inner.append(todo.pop())
                todo.pop()
                out.append(f"{{{self.convert(inner)}}}")
            elif token[1:] in KNOWN["texts"]:
                own = KNOWN["texts"][token[1:]] or alphabet
                out.append(self.words(argument(todo), own))
            elif token != "\\relax":
                todo.append(token)
                out.append(self._next(todo, out))
        return f"{{{''.join(out)}}}"

    def colour(self, todo: list[str]) -> str:
        """A colour as Typst; one that is unknown is black."""
        model, value = plain(option(todo) or []), plain(argument(todo))
        if model == "HTML":
            value = f"#{value}"
        elif model in ("rgb", "RGB", "gray"):
            scale = 1 if model == "RGB" else 255
            parts = re.findall(r"\d*\.?\d+", value)[:3] or ["0"]
            parts = [f"{float(part) * scale:.0f}" for part in parts * 3]
            value = f"rgb({','.join(parts[:3])})"
        found = parse_color(value)
        parts = found[:3] if isinstance(found, tuple) else (0, 0, 0)
        return f"rgb({', '.join(f'{100 * part:.4g}%' for part in parts)})"

    def _do_textcolor(self, todo: list[str]) -> str:
        call = f"#text(fill: {self.colour(todo)}, ${{0}}$);"
        return self.part(call, argument(todo))

    def _do_color(self, todo: list[str]) -> str:
        """Of the group behind it (MathJax 2), or of all that follows."""
        call = f"#text(fill: {self.colour(todo)}, ${{0}}$);"
        own = skip(todo) == "{"
        return self.part(call, argument(todo) if own else rest(todo))

    def _do_style(self, todo: list[str]) -> str:
        """CSS, of which only the colour is set."""
        found = re.search("(?i)color *: *([^;]+)", plain(argument(todo)))
        todo += group([*(found[1] if found else "black")])[::-1]
        return self._do_textcolor(todo)

    def _do_colorbox(self, todo: list[str], stroke: str = "none") -> str:
        box = f"#box(stroke: {stroke}, fill: {self.colour(todo)}"
        box = f"{box}, inset: 3pt, baseline: 3pt, ${{0}}$);"
        return self.part(box, ["\\text", *group(argument(todo))])

    def _do_fcolorbox(self, todo: list[str]) -> str:
        return self._do_colorbox(todo, self.colour(todo))

    def _do_bbox(self, todo: list[str]) -> str:
        option(todo)
        return self.convert(group(argument(todo)))

    def _do_enclose(self, todo: list[str]) -> str:
        kind = plain(argument(todo))
        option(todo)
        box = "box(stroke: 0.5pt, inset: 3pt, baseline: 3pt, radius: {}, $"
        box = box.format("50%" if "circle" in kind else "0%")
        box = "math.cancel($" if "strike" in kind else box
        return self.part(f"#{box}{{0}}$);", argument(todo))

    def _do_left(self, todo: list[str]) -> str:
        todo.append("\\left")
        inner = enclosed(todo, "\\left", "\\right")[::-1]
        start, end = self.delimiter(inner), self.delimiter(todo)
        return self.part(f"#math.lr(${start} {{0}} {end}$);", inner[::-1])

    def _do_middle(self, todo: list[str]) -> str:
        return self.part(f"#math.mid(${self.delimiter(todo)}$);")

    def _do_hspace(self, todo: list[str]) -> str:
        star(todo)
        return self.part(f"#h({self.length(todo)});")

    _do_kern = _do_hskip = _do_mskip = _do_mkern = _do_mspace = _do_hspace

    def _do_raise(self, todo: list[str], sign: str = "-") -> str:
        move = f"#box(move(dy: {sign}({self.length(todo)}), ${{0}}$));"
        return self.part(move, argument(todo))

    def _do_lower(self, todo: list[str]) -> str:
        return self._do_raise(todo, "")

    def _do_rule(self, todo: list[str]) -> str:
        option(todo)
        size = f"width: {self.length(todo)}, height: {self.length(todo)}"
        return self.part(f"#box({size}, fill: black);")

    def _do_operatorname(self, todo: list[str]) -> str:
        limits = str(star(todo)).lower()
        name = argument(todo)
        words = "".join(name).replace(" ", "")
        body = "math.upright(${0}$)"
        if re.fullmatch("[A-Za-z0-9-]+", words):
            body, name = literal(words), None
        call = f"#math.op({body}, limits: {limits});"
        return self.part(call, name) if name is not None else self.part(call)

    def _do_genfrac(self, todo: list[str]) -> str:
        start, end, width, _ = (argument(todo) for _ in range(4))
        ends = [self.delimiter(sign) if sign else "" for sign in (start, end)]
        line = not plain(width).startswith("0")
        return self.stack(argument(todo), argument(todo), *ends, line)

    def _do_not(self, todo: list[str]) -> str:
        sign = argument(todo)
        if sign in (["="], ["<"], [">"], ["\\in"], ["\\equiv"], ["\\sim"]):
            return f"\\not{sign[0]} "
        strike = '#math.class("relation", math.cancel(${0}$));'
        return self.part(strike, sign)

    def _do_unicode(self, todo: list[str]) -> str:
        option(todo)
        digits = plain(argument(todo))
        code = re.fullmatch("x([0-9A-Fa-f]{1,5})|([0-9]{1,6})", digits)
        if not code:
            raise CannotSetError("no character")
        sign = chr(int(code[1], 16) if code[1] else int(code[2]))
        return self.part(literal(FORBIDDEN.sub("\ufffd", sign)))

    def _do_verb(self, todo: list[str]) -> str:
        end, words = todo.pop(), ""
        while todo[-1] != end:
            words += todo.pop()
        todo.pop()
        return self.part(f"#math.mono(${literal(words)}$);")

    def _do_ce(self, todo: list[str]) -> str:
        """A chemical formula (mhchem)."""
        tex = chemistry("".join(argument(todo)))
        return "{{}" + self.convert(tokens_of(tex)) + "}"

    def _do_tag(self, todo: list[str]) -> str:
        starred = star(todo)
        self.tag = plain(argument(todo))
        self.number = self.tag if starred else f"({self.tag})"
        return self.named()

    def _do_label(self, todo: list[str]) -> str:
        self.names.append(plain(argument(todo)))
        return self.named()

    def _do_notag(self, todo: list[str]) -> str:
        self.number = self.tag = "-"
        return ""

    _do_nonumber = _do_notag

    def named(self) -> str:
        """Let labels mean the number beside them; prints nothing."""
        if self.tag:
            self.book.labels |= dict.fromkeys(self.names, self.tag)
        return ""

    def _do_eqref(self, todo: list[str]) -> str:
        """A number, which may come later in the notebook."""
        return self.part(f"ref({plain(argument(todo))}")

    def _do_ref(self, todo: list[str]) -> str:
        return self.part(f"ref {plain(argument(todo))}")

    def _do_substack(self, todo: list[str]) -> str:
        return self.table("substack", argument(todo))

    def _do_begin(self, todo: list[str]) -> str:
        name = plain(argument(todo))
        todo.append("\\begin")
        inner = enclosed(todo, "\\begin", "\\end")
        argument(todo)
        return self.table(name, inner)

    def table(self, name: str, inner: list[str]) -> str:
        """An environment: rows and columns, and the rows' numbers."""
        starred, name = name.endswith("*"), name.rstrip("*")
        if name not in ENVIRONMENTS:
            raise CannotSetError(f"{name} is unknown")
        todo, spec = inner[::-1], ""
        if name in ("array", "aligned", "gathered", "alignedat", "subarray"):
            option(todo)
        if name in ("array", "subarray", "alignat", "alignedat"):
            spec = plain(argument(todo))
        cells, numbers, lines = [], [], []
        rows = split(todo[::-1], "\\\\")
        single = name in DISPLAYED - set(DELIMITED) and not any(
            token != " " for row in rows[1:] for token in row
        )
        for row in rows:
            row = row[::-1]
            if cells and row and row[-1] in "*[":
                star(row)
                option(row)
            while skip(row) in ("\\hline", "\\hdashline"):
                row.pop()
                lines.append(len(cells))
            if not skip(row):
                continue
            if name in NUMBERED:
                self.number, self.tag, self.names = "", "", []
            row = split(row[::-1], "&")
            line = self._line if single else self._row
            cells.append(line(name, spec, row))
            if name in NUMBERED and self.names and not (self.tag or starred):
                self.book.last += 1
                self.tag = str(self.book.last)
                self.number = f"({self.tag})"
                self.named()
            numbers.append(self.number.strip("-"))
        if name in NUMBERED:
            self.number = "".join(numbers) if len(cells) < 2 else ""
            if len(cells) > 1 and any(numbers):
                wide = max(map(len, cells))
                for row, number in zip(cells, numbers, strict=True):
                    row += [""] * (wide - len(row))
                    row.append(self.part(literal(number)))
        if single:
            return "".join(cell for row in cells for cell in row)
        return self._matrix(name, cells, spec, lines)

    def _line(self, name: str, spec: str, row: list[list[str]]) -> list[str]:
        """A row that stands alone, and may be broken into lines."""
        tokens = []
        for number, cell in enumerate(row):
            gap = name != "eqnarray" and number and number % 2 == 0
            tokens += (["\\qquad"] if gap and not spec else []) + cell
        if self.depth != self.top:
            return [self.part("#math.display(${0}$);", tokens)]
        self.top += 1
        return [self.convert(tokens)]

    def _row(self, name: str, spec: str, row: list[list[str]]) -> list[str]:
        """A row's cells, with the points at which they are aligned."""
        if name == "eqnarray" and len(row) > 2:
            row = [row[0], row[1] + row[2]]
        # Typst would make a matrix smaller than its line.
        style = "display" if name in DISPLAYED else "inline"
        style = "script" if name in SMALL else style
        style = f"#math.{style}(${{0}}$);"
        done = [self.part(style, cell) if cell else "" for cell in row]
        if name in PAIRS:
            pairs = zip(done[::2], [*done[1::2], ""], strict=False)
            return [self.part("&").join(pair) for pair in pairs]
        columns = re.findall("[lcr]", spec)
        columns = ["l"] * len(done) if "cases" in name else columns
        for number, side in enumerate(columns[: len(done)]):
            if side != "c":
                point = self.part("&")
                cell = done[number]
                done[number] = point + cell if side == "l" else cell + point
        return done

    def _matrix(
        self, name: str, cells: list[list[str]], spec: str, lines: list[int]
    ) -> str:
        """Rows of cells as Typst's matrix, with the rules of an array."""
        gaps = ("0.4em", "0.2em") if name in SMALL else ("1em", "0.4em")
        gaps = ("2em", "0.5em") if name in PAIRS else gaps
        gaps = ("0em", "0.5em") if name in ("alignat", "alignedat") else gaps
        options = f"delim: none, column-gap: {gaps[0]}, row-gap: {gaps[1]}"
        wide, bars = max(map(len, cells), default=0), []
        for number, part in enumerate(re.split("[lcr]", spec)):
            bars += [number] if "|" in part or ":" in part else []
        edges = {"left": 0 in bars, "right": wide in bars}
        edges |= {"top": 0 in lines, "bottom": len(cells) in lines}
        rules = [
            f"{kind}: ({', '.join(map(str, inside))},)"
            for kind, found, end in (
                ("vline", bars, wide),
                ("hline", lines, len(cells)),
            )
            if (inside := [n for n in found if 0 < n < end])
        ]
        if rules:
            options += f", augment: ({', '.join(rules)}, stroke: 0.5pt)"
        texs, call = [], f"math.mat({options}"
        for row in cells:
            places = [f"${{{len(texs) + n}}}$," for n in range(len(row))]
            call += f", ({''.join(places)})"
            texs += row
        call += ")"
        if name == "array" and any(edges.values()):
            sides = [f"{side}: 0.5pt" for side, on in edges.items() if on]
            sides = ", ".join(sides)
            box = f"box(stroke: ({sides}), inset: 3pt, baseline: 3pt"
            call = f"{box}, math.display({call}))"
        start, end = DELIMITED.get(name, ("", ""))
        if start or end:
            call = f"math.lr(${start} #{call}; {end}$)"
        return self.part(f"#{call};", *[[tex] for tex in texs])


def rest(todo: list[str]) -> list[str]:
    """Take all that is left."""
    taken = todo[::-1]
    todo.clear()
    return taken


def chemistry(source: str) -> str:
    """The common part of mhchem as TeX."""
    out = []
    for m in CHEMISTRY.finditer(source):
        if m["arrow"]:
            harpoons = ("\\rightleftharpoons ", "\\xrightleftharpoons")
            short, long = REACTIONS.get(m["arrow"], harpoons)
            over, under = (chemistry(m[k] or "") for k in ("over", "under"))
            stretched = f"{long}[{under}]{{{over}}}"
            out.append(stretched if over or under else short)
        elif m["count"] or m["down"]:
            out.append(f"_{{{(m['count'] or m['down']).strip('{}')}}}")
        elif m["up"] or m["charge"]:
            out.append(f"^{{{(m['up'] or m['charge']).strip('{}')}}}")
        elif m["falls"]:
            out.append("\\downarrow ")
        elif m["word"]:
            out.append(f"\\mathrm{{{m['word']}}}")
        elif m["tex"]:
            out.append(m["tex"].strip("$") + " ")
        elif m["other"] or m["dot"]:
            out.append("\\cdot " if m["dot"] else m["other"])
        elif m["up"] is not None:
            out.append("\\uparrow ")
    return "".join(out)


def pandoc(source: str, *options: str) -> str:
    """Run the pandoc that came with pip: another may not know Typst."""
    files = Path(pypandoc.__file__).parent / "files"
    program = shutil.which("pandoc", path=files)
    # The sandbox keeps pandoc from opening files a text names.
    command = [program, "--sandbox", "--quiet", "--wrap=none", *options]
    return subprocess.check_output(command, input=source.encode()).decode()


def write(pieces: Sequence[str]) -> dict[str, str | None]:
    """Pieces of TeX as math source of Typst, None where pandoc cannot."""
    blocks, end = [], chr(LAST)
    for tex in pieces:
        math = {"t": "Math", "c": [{"t": "DisplayMath"}, tex]}
        for inline in (math, {"t": "Str", "c": end}):
            blocks.append({"t": "Para", "c": [inline]})
    tree = {"pandoc-api-version": [1, 23], "meta": {}, "blocks": blocks}
    typst = pandoc(json.dumps(tree), "--from=json", "--to=typst")
    found = (piece.strip() for piece in typst.split(end))
    return {
        tex: corrected(piece[2:-2]) if piece[:2] == "$ " else None
        for tex, piece in zip(pieces, found, strict=False)
    }


def corrected(typst: str) -> str:
    """What pandoc wrote, without what Typst takes for something else."""
    typst = SIGN.sub(r"\\\1", BAR.sub(r"\1", typst))
    return NAME.sub(lambda m: DROPPED[m[1]], typst)


def typeset(formulas: Sequence[tuple[str, bool]]) -> list[Formula]:
    """Set a notebook's formulas, in their order.

    Args:
        formulas: TeX without dollars, and whether it is displayed.
    """
    book, readers = Book(), []
    done = [Formula(tex, block) for tex, block in formulas]
    for formula in done:
        try:
            tex = FORBIDDEN.sub("\ufffd", formula.tex)
            reader = Reader(book, tex, formula.block)
            readers.append((formula, reader))
        except CANNOT:
            continue
    pieces = {tex for _, reader in readers for tex in reader.pieces if tex}
    written = write(sorted(pieces))
    for formula, reader in readers:
        try:
            formula.typst = reader.typst(reader.root, written)
            formula.number = reader.number.strip("-")
        except CANNOT:
            continue
    return done
