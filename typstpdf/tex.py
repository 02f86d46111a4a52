r"""Formulas: TeX as MathJax reads it, set by pandoc and Typst.

`expand` replaces macros: a definition holds from there on, for all later
formulas of the notebook. `Reader` takes out what pandoc does not know or
gets wrong (environments, colours, styles, stretching delimiters, text,
numbers): each becomes one private-use character in the TeX, which stands for
a template of Typst around other pieces of TeX. pandoc writes all pieces of a
notebook at once, and `Reader.typst` puts them together. Nothing of a formula
gets into Typst but through pandoc or as a literal.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pypandoc
from tinycss2.color3 import parse_color

PRIVATE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\uf8ff\ufdd0-\ufdef\ufffe\uffff]")
TOKEN = re.compile(r"(\\[A-Za-z]+)\s*|(\\.|#\d)|%[^\n]*\n?\s*|(\s)\s*|(.)", re.S)
LENGTH = re.compile(r"\s*=?\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*(em|ex|pt|px|cm|mm|in|mu|pc|bp)")
UNITS = {"ex": (0.43, "em"), "mu": (1 / 18, "em"), "px": (0.75, "pt"), "pc": (12, "pt"), "bp": (1, "pt")}
# Typst keeps blanks beside a bar.
BAR = re.compile(r" *(\\\|) *")
MAX_TOKENS = 20_000
MAX_DEPTH = 40

# Commands that are short for others.
PRELUDE = r"""
\def\bm{\boldsymbol}\def\pmb{\boldsymbol}\def\lt{<}\def\gt{>}\def\degree{^\circ}
\def\bra#1{\langle#1|}\def\ket#1{|#1\rangle}\def\braket#1{\langle#1\rangle}
\def\Bra#1{\left\langle#1\right|}\def\Ket#1{\left|#1\right\rangle}
\def\Braket#1{\left\langle#1\right\rangle}\def\set#1{\{#1\}}
\def\LaTeX{\mathrm{L\kern-.3em\raise.2em{\scriptsize A}\kern-.1em\TeX}}
\def\TeX{\mathrm{T\kern-.14em\lower.2em{E}\kern-.11em X}}
\def\dots{\ldots}\def\dotsc{\ldots}\def\dotso{\ldots}\def\dotsb{\cdots}
\def\dotsm{\cdots}\def\dotsi{\cdots}
\def\varlimsup{\operatorname*{\overline{lim}}}
\def\varliminf{\operatorname*{\underline{lim}}}
\def\varinjlim{\operatorname*{\underrightarrow{lim}}}
\def\varprojlim{\operatorname*{\underleftarrow{lim}}}
\def\injlim{\operatorname*{inj\,lim}}\def\projlim{\operatorname*{proj\,lim}}
\def\argmax{\operatorname*{argmax}}\def\argmin{\operatorname*{argmin}}
\def\bmod{\;\mathrm{mod}\;}\def\pmod#1{\quad(\mathrm{mod}\;#1)}
\def\mod#1{\quad\mathrm{mod}\;#1}\def\pod#1{\quad(#1)}
\def\iff{\;\Longleftrightarrow\;}\def\implies{\;\Longrightarrow\;}
\def\impliedby{\;\Longleftarrow\;}\def\And{\;\&\;}\def\strut{}\def\null{}
\def\hbar{\unicode{x210F}}\def\colon{\mathpunct{:}}\def\middot{\cdot}
\def\dfrac#1#2{{\displaystyle\frac{#1}{#2}}}
\def\tfrac#1#2{{\textstyle\frac{#1}{#2}}}
\def\cfrac{\futurelet}\def\dbinom#1#2{{\displaystyle\binom{#1}{#2}}}
\def\tbinom#1#2{{\textstyle\binom{#1}{#2}}}\def\square{\Box}
\def\fbox#1{\boxed{\text{#1}}}\def\root#1\of#2{\sqrt[#1]{#2}}
\def\cr{\\}\def\newline{\\}\def\mathstrut{}\def\lbrack{[}\def\rbrack{]}
"""
# Macros that pandoc knows, by how many arguments they take.
ARGUMENTS = {"frac": 2, "binom": 2}
ARGUMENTS |= dict.fromkeys(
    "sqrt hat widehat tilde widetilde bar vec dot ddot dddot ddddot acute"
    " grave check breve overline underline overbrace underbrace overbracket"
    " underbracket mathrm mathbf mathit mathbb mathsf mathtt mathfrak mathcal"
    " boldsymbol widecheck".split(), 1,
)  # fmt: skip
# Others: how many arguments, and the Typst around them.
LIMITS = "#math.attach(math.limits(${1}$), %s: ${0}$);"
CLASS = '#math.class("%s", math.class("normal", ${0}$));'
FRAME = "#box(stroke: 0.5pt, inset: 3pt, baseline: 3pt, ${0}$);"
COMMANDS = {
    "boxed": (1, FRAME.replace("${0}$", "math.display(${0}$)")),
    "overset": (2, LIMITS % "t"),
    "stackrel": (2, LIMITS % "t"),
    "underset": (2, LIMITS % "b"),
    "mathscr": (1, "#math.scr(${0}$);"),
    "cancel": (1, "#math.cancel(${0}$);"),
    "bcancel": (1, "#math.cancel(${0}$, inverted: true);"),
    "xcancel": (1, "#math.cancel(${0}$, cross: true);"),
    "cancelto": (2, "#math.cancel(${1}$);^({0})"),
    "phantom": (1, "#hide(${0}$);"),
    "hphantom": (1, "#box(height: 0pt, hide(${0}$));"),
    "vphantom": (1, "#box(width: 0pt, hide(${0}$));"),
    "smash": (1, "{0}"),
    "llap": (1, "#box(width: 0pt, align(right, ${0}$));"),
    "rlap": (1, "#box(width: 0pt, ${0}$);"),
    "mathring": (1, "#math.circle(${0}$);"),
    "overparen": (1, "#math.overparen(${0}$);"),
    "underparen": (1, "#math.underparen(${0}$);"),
    "overrightarrow": (1, "#math.accent(${0}$, sym.arrow.r);"),
    "overleftarrow": (1, "#math.accent(${0}$, sym.arrow.l);"),
    "overleftrightarrow": (1, "#math.accent(${0}$, sym.arrow.l.r);"),
    "underrightarrow": (1, "#math.attach(math.limits(${0}$), b: sym.arrow.r);"),
    "underleftarrow": (1, "#math.attach(math.limits(${0}$), b: sym.arrow.l);"),
    "mathop": (1, "#math.op(${0}$, limits: true);"),
    "mathrel": (1, CLASS % "relation"),
    "mathbin": (1, CLASS % "binary"),
    "mathord": (1, CLASS % "normal"),
    "mathopen": (1, CLASS % "opening"),
    "mathclose": (1, CLASS % "closing"),
    "mathpunct": (1, CLASS % "punctuation"),
    "mathinner": (1, "{0}"),
    "mathchoice": (4, "{1}"),
    "futurelet": (2, "#math.display(math.frac(math.display(${0}$), math.display(${1}$)));"),
}  # fmt: skip
# Declarations: the Typst around the rest of the group.
STYLES = {"displaystyle": "display", "textstyle": "inline"}
STYLES |= {"scriptstyle": "script", "scriptscriptstyle": "sscript"}
STYLES = {name: f"#math.{style}(${{0}}$);" for name, style in STYLES.items()}
SIZES = "tiny .5 Tiny .6 scriptsize .7 small .85 normalsize 1 large 1.2 Large 1.44 LARGE 1.73 huge 2.07 Huge 2.49"
STYLES |= {
    name: f"#text(size: {size}em, ${{0}}$);"
    for name, size in zip(*[iter(SIZES.split())] * 2, strict=True)
}
FONTS = {"rm": "mathrm", "bf": "mathbf", "it": "mathit", "mit": "mathit", "cal": "mathcal", "tt": "mathtt", "sf": "mathsf", "frak": "mathfrak", "scr": "mathscr", "bold": "mathbf"}
TEXTS = {"text": "", "textrm": "", "textnormal": "", "textup": "", "mbox": "", "hbox": "", "textbf": "bold", "textit": "italic", "texttt": "mono", "textsf": "sans"}
SPACES = {"\\!": -1 / 6, "\\,": 1 / 6, "\\thinspace": 1 / 6, "\\:": 2 / 9, "\\>": 2 / 9, "\\;": 5 / 18, "\\ ": 0.25, "~": 0.25, "\\quad": 1, "\\qquad": 2, "\\negthinspace": -1 / 6, "\\enspace": 0.5, "\\medspace": 2 / 9, "\\thickspace": 5 / 18, "\\negmedspace": -2 / 9, "\\negthickspace": -5 / 18, "\\space": 0.25, "\\nobreakspace": 0.25}
DELIMITERS = dict(zip(
    r"( ) [ ] / | \| \{ \} < > \langle \rangle \lbrace \rbrace \lfloor \rfloor"
    r" \lceil \rceil \vert \Vert \lvert \rvert \lVert \rVert \backslash"
    r" \uparrow \downarrow \updownarrow \Uparrow \Downarrow \Updownarrow"
    r" \ulcorner \urcorner \llcorner \lrcorner \lgroup \rgroup \lmoustache"
    r" \rmoustache \llbracket \rrbracket \lang \rang".split(),
    r"()[]/|‖{}⟨⟩⟨⟩{}⌊⌋⌈⌉|‖||‖‖\↑↓↕⇑⇓⇕⌜⌝⌞⌟⟮⟯⎰⎱⟦⟧⟨⟩", strict=True,
))  # fmt: skip
BIG = re.compile(r"\\(big|Big|bigg|Bigg)([lrm]?)")
BIG_SIZES = {"big": 1.2, "Big": 1.8, "bigg": 2.4, "Bigg": 3}
BIG_CLASS = {"l": "opening", "r": "closing", "m": "relation", "": "normal"}
ARROWS = {"rightarrow": "arrow.r", "leftarrow": "arrow.l", "leftrightarrow": "arrow.l.r", "Rightarrow": "arrow.r.double", "Leftarrow": "arrow.l.double", "Leftrightarrow": "arrow.l.r.double", "hookrightarrow": "arrow.r.hook", "hookleftarrow": "arrow.l.hook", "mapsto": "arrow.r.bar", "rightleftharpoons": "harpoons.rtlb", "longequal": "eq", "twoheadrightarrow": "arrow.r.twohead", "twoheadleftarrow": "arrow.l.twohead", "tofrom": "arrows.rl"}
# Environments: delimiters, and what stands in columns: aligned pairs "a",
# centred "c", from the left "l"; capital, in display style.
ENVIRONMENTS = dict.fromkeys("align aligned split eqnarray flalign".split(), ("", "", "A"))
ENVIRONMENTS |= dict.fromkeys("alignat alignedat xalignat".split(), ("", "", "A"))
ENVIRONMENTS |= dict.fromkeys("gather gathered multline multlined".split(), ("", "", "C"))
ENVIRONMENTS |= dict.fromkeys("matrix smallmatrix substack subarray array".split(), ("", "", "c"))
ENVIRONMENTS |= {"cases": ("{", "", "l"), "dcases": ("{", "", "L"), "rcases": ("", "}", "l"), "drcases": ("", "}", "L")}
ENVIRONMENTS |= {f"{name}matrix": (*pair, "c") for name, pair in {"p": "()", "b": "[]", "B": "{}", "v": "||", "V": "‖‖"}.items()}
PLAIN = ("equation", "displaymath", "math", "subequations")
NUMBERED = ("equation", "align", "eqnarray", "flalign", "alignat", "xalignat", "gather", "multline")
DEFINITIONS = ("newcommand renewcommand providecommand def gdef edef xdef let DeclareMathOperator newenvironment renewenvironment".split())
MARKS = {"\\ast": "*", "\\star": "⋆", "\\dagger": "†", "\\prime": "′", "\\ddagger": "‡"}
CHEMISTRY = re.compile(
    r"(?P<arrow><=>>?|<-->|<->|->|<-|=)(?:\[(?P<over>[^]]*)\])?(?:\[(?P<under>[^]]*)\])?"
    r"|(?<=[A-Za-z)\]}])(?P<count>\d+)|\^(?P<up>\{[^}]*\}|\d*[-+]?)|_(?P<down>\{[^}]*\}|\w)"
    r"|(?<=[A-Za-z\d)\]}])(?P<charge>[-+])(?![A-Za-z\d(])|(?P<word>[A-Za-z]+)|(?P<tex>\$[^$]*\$|\\[A-Za-z]+)"
    r"|(?P<dot>[*.])|(?P<gap>\s+)|(?P<other>.)"
)
CHEMICAL_ARROWS = {"->": "rightarrow", "<-": "leftarrow", "<->": "leftrightarrow", "=": "longequal"}


class CannotSet(Exception):  # noqa: N818
    """A formula that MathJax, or we, cannot set."""


@dataclass
class Formula:
    """A formula of the notebook.

    Attributes:
        tex: its source as it stands in the notebook.
        block: whether it is displayed.
        typst: math source; "" prints nothing, None cannot be set.
        number: what is printed at the right margin, such as "(1)".
    """

    tex: str
    block: bool
    typst: str | None
    number: str = ""


@dataclass
class Macro:
    """A macro: what follows its name, the default, the replacement."""

    pattern: list[str]
    body: list[str]
    default: list[str] | None = None


def tokens_of(tex: str) -> list[str]:
    """TeX as commands and characters, without comments."""
    found = (m[1] or m[2] or m[3] and " " or m[4] for m in TOKEN.finditer(tex))
    return [token for token in found if token]


def argument(todo: list[str]) -> list[str]:
    """Take a command's next argument off the (reversed) tokens."""
    while todo and todo[-1] == " ":
        todo.pop()
    if not todo:
        raise CannotSet("an argument is missing")
    if todo[-1] == "}":
        raise CannotSet("an argument is missing")
    return enclosed(todo, "{", "}") if todo[-1] == "{" else [todo.pop()]


def enclosed(todo: list[str], start: str, end: str) -> list[str]:
    """Take what stands between braces, or \\begin and \\end."""
    taken, depth = [], 0
    while todo:
        taken.append(token := todo.pop())
        depth += (token == start) - (token == end)
        if not depth:
            return taken[1:-1]
    raise CannotSet(f"{end} is missing")


def option(todo: list[str]) -> list[str] | None:
    """Take an optional argument in brackets."""
    while todo and todo[-1] == " ":
        todo.pop()
    if not todo or todo[-1] != "[":
        return None
    taken, depth = [], 0
    todo.pop()
    while todo:
        token = todo.pop()
        if token == "]" and not depth:
            return taken
        depth += (token == "{") - (token == "}")
        taken.append(token)
    raise CannotSet("] is missing")


def star(todo: list[str]) -> bool:
    """Take a star, if there is one."""
    return bool(todo and todo[-1] == "*" and todo.pop())


def plain(tokens: list[str]) -> str:
    """Words of TeX as a reader would see them."""
    words = (MARKS.get(t, t.lstrip("\\")) for t in tokens if t not in "{}$")
    return "".join(words).strip()


def literal(text: str) -> str:
    """A Typst string."""
    return json.dumps(text, ensure_ascii=False)


def split(tokens: list[str], *signs: str) -> list[list[str]]:
    """Cut at these signs where they stand in no group or environment."""
    pieces, depth = [[]], 0
    for token in tokens:
        if token in signs and not depth:
            pieces.append([])
            continue
        depth += token in ("{", "\\begin", "\\left")
        depth -= token in ("}", "\\end", "\\right")
        pieces[-1].append(token)
    return pieces


class Book:
    """What formulas share: macros, environments of their own, labels."""

    def __init__(self) -> None:
        self.macros: dict[str, Macro] = {}
        self.environments: dict[str, tuple[Macro, list[str]]] = {}
        self.labels: dict[str, str] = {}
        self.last = 0
        self.expand(PRELUDE)

    def expand(self, tex: str) -> list[str]:
        """Replace macros, and learn those that are defined."""
        todo, done = tokens_of(tex)[::-1], []
        for _ in range(MAX_TOKENS):
            if not todo:
                return done
            token = todo.pop()
            if token[1:] in DEFINITIONS and token[0] == "\\":
                self.define(token[1:], todo)
            elif token in ("\\global", "\\long"):
                pass
            elif token in ("\\begin", "\\end"):
                name = argument(todo)
                macro, end = self.environments.get(plain(name), (None, []))
                if not macro:
                    done += [token, "{", *name, "}"]
                elif token == "\\begin":
                    todo += self.fill(macro, todo)[::-1]
                else:
                    todo += end[::-1]
            elif token in self.macros:
                body = self.fill(self.macros[token], todo)
                # As an argument, it is one.
                before = next((t for t in reversed(done) if t != " "), "")
                if before in "^_" and before or before[1:] in ARGUMENTS:
                    body = ["{", *body, "}"]
                if len(todo) + len(body) > MAX_TOKENS:
                    break
                todo += body[::-1]
            else:
                done.append(token)
        raise CannotSet("a macro has no end")

    def define(self, kind: str, todo: list[str]) -> None:
        """Learn a macro from what follows ``\\newcommand`` and its like."""
        starred = star(todo)
        name = "".join(argument(todo)).strip()
        if kind.endswith("def"):
            pattern = []
            while todo and todo[-1] != "{":
                pattern.append(todo.pop())
            self.macros[name] = Macro(pattern, argument(todo))
        elif kind == "let":
            while todo and todo[-1] in " =":
                todo.pop()
            other = argument(todo)
            own = self.macros.get(other[0] if other else "")
            self.macros[name] = own or Macro([], other)
        elif kind == "DeclareMathOperator":
            stars = ["*"] if starred else []
            body = ["\\operatorname", *stars, "{", *argument(todo), "}"]
            self.macros[name] = Macro([], body)
        else:
            count = plain(option(todo) or [])
            default = option(todo)
            pattern = [f"#{n + 1}" for n in range(int(count or "0"[:2]))]
            macro = Macro(pattern, argument(todo), default)
            if kind.endswith("environment"):
                self.environments[name] = (macro, argument(todo))
            elif kind != "providecommand" or name not in self.macros:
                self.macros[name] = macro

    @staticmethod
    def fill(macro: Macro, todo: list[str]) -> list[str]:
        """Take a macro's arguments and put them into its replacement."""
        given: dict[str, list[str]] = {}
        pattern = macro.pattern[::-1]
        if macro.default is not None and pattern:
            found = option(todo)
            given[pattern.pop()] = macro.default if found is None else found
        while pattern:
            sign = pattern.pop()
            if sign[0] != "#":
                if not todo or todo.pop() != sign:
                    raise CannotSet("a macro is not used as defined")
            elif pattern and pattern[-1][0] != "#":
                given[sign] = []
                while todo and todo[-1] != pattern[-1]:
                    is_group = todo[-1] == "{"
                    inner = argument(todo) if is_group else [todo.pop()]
                    given[sign] += ["{", *inner, "}"] if is_group else inner
            else:
                given[sign] = argument(todo)
        return [t for sign in macro.body for t in given.get(sign, [sign])]


class Reader:
    """One formula, rewritten for pandoc."""

    def __init__(self, book: Book, tex: str, block: bool) -> None:
        self.book = book
        self.parts: list[tuple[str, list[str]]] = []
        self.pieces: set[str] = set()
        self.number = ""
        self.names: list[str] = []
        self.depth = 0
        self.root = self.piece(self.whole(book.expand(tex), block))

    def whole(self, tokens: list[str], block: bool) -> list[str]:
        """A formula of several rows without an environment gets one."""
        if len(split(tokens, "\\\\", "&")) > 1:
            kind = "aligned" if len(split(tokens, "&")) > 1 else "gathered"
            begin, end = ["\\begin", "{"], ["\\end", "{"]
            tokens = [*begin, *kind, "}", *tokens, *end, *kind, "}"]
        return tokens

    def piece(self, tokens: list[str]) -> str:
        """A piece of TeX for pandoc, which stands in a template."""
        tex = self.convert(tokens).strip()
        tex = f"{{}}{tex}" if tex[:1] in ("^", "_", "'") else tex
        self.pieces.add(tex)
        return tex

    def part(self, template: str, *pieces: list[str]) -> str:
        """A character that stands for Typst around pieces of TeX."""
        texs = [self.piece(tokens) for tokens in pieces]
        return self.placed(template, texs)

    def placed(self, template: str, texs: list[str]) -> str:
        if len(self.parts) >= 6000:
            raise CannotSet("too long")
        self.parts.append((template, texs))
        return chr(0xE000 + len(self.parts) - 1)

    def typst(self, tex: str, written: dict[str, str | None]) -> str:
        """A piece as Typst, with its parts.

        Raises:
            CannotSet: pandoc does not know something in it.
        """
        typst = written[tex] if tex else ""
        if typst is None:
            raise CannotSet(tex)

        def fill(found: re.Match) -> str:
            template, texs = self.parts[ord(found[2]) - 0xE000]
            if template.startswith("ref"):
                return literal(self.book.labels.get(template[3:], "???"))
            if not texs:
                # Typst keeps blanks beside words.
                words = '"' in template
                return template if words else found[1] + template + found[3]
            inner = [self.typst(tex, written) for tex in texs]
            filled = re.sub(r"\{(\d+)\}", lambda m: inner[int(m[1])], template)
            return found[1] + filled + found[3]

        return re.sub("( ?)([\ue000-\uf8ff])( ?)", fill, typst)

    def convert(self, tokens: list[str]) -> str:
        """TeX that pandoc reads right."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CannotSet("too deep")
        for sign in OVER:
            two = split(tokens, sign)
            if len(two) > 1:
                done = self.fraction(sign, *two[:2])
                break
        else:
            todo, out = tokens[::-1], []
            while todo:
                self.next(todo, out)
            done = "".join(out)
        self.depth -= 1
        return done

    def next(self, todo: list[str], out: list[str]) -> None:
        """Rewrite the next command or character."""
        token = todo.pop()
        name = token[1:] if len(token) > 1 else ""
        if token == "{":
            todo.append(token)
            out.append(f"{{{self.convert(argument(todo))}}}")
        elif token in ("^", "_"):
            out.append(f"{token}{{{self.convert(argument(todo))}}}")
        elif token in SPACES:
            out.append(self.part(f"#h({SPACES[token]:.3f}em);"))
        elif name in STYLES or name in FONTS:
            rest = todo[::-1]
            todo.clear()
            if name in STYLES:
                out.append(self.part(STYLES[name], rest))
            else:
                out.append(f"\\{FONTS[name]}{{{self.convert(rest)}}}")
        elif name in ARGUMENTS:
            choice = option(todo) if name == "sqrt" else None
            root = f"[{self.convert(choice)}]" if choice is not None else ""
            inner = [argument(todo) for _ in range(ARGUMENTS[name])]
            inner = "".join(f"{{{self.convert(arg)}}}" for arg in inner)
            out.append(f"{token}{root}{inner}")
        elif name in COMMANDS:
            count, template = COMMANDS[name]
            option(todo)
            inner = [argument(todo) for _ in range(count)]
            out.append(self.part(template, *inner))
        elif name in TEXTS:
            out.append(self.text(argument(todo), TEXTS[name]))
        elif found := BIG.fullmatch(token):
            size = BIG_SIZES[found[1]]
            sign = f"math.lr(size: {size}em, ${self.delimiter(todo)}$)"
            kind = BIG_CLASS[found[2]]
            out.append(self.part(f'#math.class("{kind}", {sign});'))
        elif name[:1] == "x" and name[1:] in ARROWS:
            below = option(todo)
            arrow = f"#math.stretch(sym.{ARROWS[name[1:]]});"
            wide = ["\\ ", *argument(todo), "\\ "]
            out.append(f"{self.part(arrow)}^{{{self.convert(wide)}}}")
            if below:
                wide = ["\\ ", *below, "\\ "]
                out.append(f"_{{{self.convert(wide)}}}")
        elif name in ("limits", "nolimits"):
            base = out.pop() if out else ""
            self.pieces.add(base := base.strip())
            call = "limits" if name == "limits" else "scripts"
            out.append(self.placed(f"#math.{call}(${{0}}$);", [base]))
        elif name in ("Vert", "lVert", "rVert", "|"):
            kind = {"lV": "opening", "rV": "closing"}.get(name[:2], "normal")
            out.append(self.part(f"#math.class({literal(kind)}, $\\‖$);"))
        elif token in ("\\&", '"'):
            out.append(self.part(literal(token[-1:])))
        elif hasattr(self, f"do_{name}"):
            out.append(getattr(self, f"do_{name}")(todo))
        else:
            out.append(f"{token} " if name.isalpha() else token)

    def fraction(self, sign: str, above: list[str], below: list[str]) -> str:
        """``a \\over b`` and its like."""
        start, end, line = OVER[sign]
        if sign == "\\above":
            todo = below[::-1]
            line = not self.length(todo).startswith("0")
            below = todo[::-1]
        return self.stack(above, below, start, end, line)

    def stack(self, above, below, start="", end="", line=True) -> str:
        body = "math.frac(${0}$, ${1}$)"
        if not line:
            body = "math.mat(delim: none, row-gap: 0.3em, (${0}$,), (${1}$,))"
        if start or end:
            body = f"math.lr(${start} #{body}; {end}$)"
        return self.part(f"#{body};", above, below)

    def delimiter(self, todo: list[str]) -> str:
        """The sign behind ``\\left`` and its like, escaped."""
        while todo and todo[-1] == " ":
            todo.pop()
        token = todo.pop() if todo else ""
        if token not in (".", *DELIMITERS):
            raise CannotSet(f"{token} is no delimiter")
        return "" if token == "." else "\\" + DELIMITERS[token]

    def length(self, todo: list[str]) -> str:
        """A length as Typst writes it."""
        braced = argument(todo)[::-1] if todo and todo[-1] == "{" else todo
        found = LENGTH.match("".join(braced[-1:-24:-1]))
        if not found:
            raise CannotSet("no length")
        taken = 0
        while taken < found.end():
            taken += len(braced.pop())
        if todo and todo[-1] == " ":
            todo.pop()
        factor, unit = UNITS.get(found[2], (1, found[2]))
        value = max(-999.0, min(999.0, float(found[1]) * factor))
        return f"{value:.3f}{unit}".replace("0.000", "0")

    def text(self, tokens: list[str], style: str = "") -> str:
        """Words, with formulas between dollars."""
        todo, words, out = tokens[::-1], "", []

        def flush() -> None:
            if words:
                call = f"#math.{style}(${literal(words)}$);"
                out.append(self.part(call if style else literal(words)))

        while todo:
            token = todo.pop()
            if token == "~" or token in "{}":
                words += "\xa0" if token == "~" else ""
                continue
            if token != "$" and (len(token) == 1 or token[1] in "_%#&{}$ "):
                words += token[-1]
                continue
            flush()
            words = ""
            if token in ("$", "\\("):
                inner = []
                while todo and (end := todo.pop()) not in ("$", "\\)"):
                    inner.append(end)
                out.append(f"{{{self.convert(inner)}}}")
            elif token[1:] in TEXTS:
                out.append(self.text(argument(todo), TEXTS[token[1:]] or style))
            else:
                todo.append(token)
                self.next(todo, out)
        flush()
        return f"{{{''.join(out)}}}"

    def rest(self, todo: list[str]) -> list[str]:
        rest = todo[::-1]
        todo.clear()
        return rest

    def colour(self, todo: list[str]) -> str:
        """A colour as Typst; one that is unknown is black."""
        model, value = plain(option(todo) or []), plain(argument(todo))
        numbers = [float(n) for n in re.findall(r"\d*\.?\d+", value)][:3]
        if model == "HTML":
            value = f"#{value}"
        elif model in ("rgb", "RGB", "gray") and numbers:
            scale = 1 if model == "RGB" else 255
            numbers = (numbers * 3)[:3]
            value = f"rgb({','.join(f'{n * scale:.0f}' for n in numbers)})"
        found = parse_color(value)
        rgb = found[:3] if isinstance(found, tuple) else (0, 0, 0)
        return f"rgb({', '.join(f'{100 * part:.4g}%' for part in rgb)})"

    def do_color(self, todo: list[str]) -> str:
        """Of the group behind it, or of all that follows."""
        call = f"#text(fill: {self.colour(todo)}, ${{0}}$);"
        group = bool(todo) and todo[-1] == "{"
        return self.part(call, argument(todo) if group else self.rest(todo))

    def do_textcolor(self, todo: list[str]) -> str:
        call = f"#text(fill: {self.colour(todo)}, ${{0}}$);"
        return self.part(call, argument(todo))

    def do_colorbox(self, todo: list[str]) -> str:
        call = f"box(fill: {self.colour(todo)}, inset: 2pt, baseline: 2pt"
        return self.part(f"#{call}, ${{0}}$);", self.boxed(todo))

    def do_fcolorbox(self, todo: list[str]) -> str:
        frame, ground = self.colour(todo), self.colour(todo)
        call = f"box(stroke: {frame}, fill: {ground}, inset: 3pt, baseline: 3pt"
        return self.part(f"#{call}, ${{0}}$);", self.boxed(todo))

    def boxed(self, todo: list[str]) -> list[str]:
        return ["\\text", "{", *argument(todo), "}"]

    def do_left(self, todo: list[str]) -> str:
        todo.append("\\left")
        inner = enclosed(todo, "\\left", "\\right")[::-1]
        start, end = self.delimiter(inner), self.delimiter(todo)
        call = f"#math.lr(${start} {{0}} {end}$);"
        return self.part(call, inner[::-1])

    def do_middle(self, todo: list[str]) -> str:
        return self.part(f"#math.mid(${self.delimiter(todo)}$);")

    def do_hspace(self, todo: list[str]) -> str:
        star(todo)
        return self.part(f"#h({self.length(todo)});")

    do_kern = do_hskip = do_mskip = do_mkern = do_mspace = do_hspace

    def do_raise(self, todo: list[str], sign: str = "-") -> str:
        if todo and todo[-1] == "box":
            todo.pop()
        move = f"#box(move(dy: {sign}({self.length(todo)}), ${{0}}$));"
        return self.part(move, argument(todo))

    def do_lower(self, todo: list[str]) -> str:
        return self.do_raise(todo, "")

    def do_rule(self, todo: list[str]) -> str:
        option(todo)
        width, height = self.length(todo), self.length(todo)
        size = f"width: {width}, height: {height}"
        return self.part(f"#box({size}, fill: black);")

    def do_tag(self, todo: list[str]) -> str:
        starred = star(todo)
        text = plain(argument(todo))
        self.number = text if starred else f"({text})"
        self.named()
        return ""

    def do_label(self, todo: list[str]) -> str:
        self.names.append(plain(argument(todo)))
        self.named()
        return ""

    def named(self) -> None:
        """A label means the number beside it."""
        if self.number:
            self.book.labels |= dict.fromkeys(self.names, self.number)

    def do_eqref(self, todo: list[str]) -> str:
        """A number, which is known when all formulas are read."""
        return self.part(f"ref{plain(argument(todo))}")

    do_ref = do_eqref

    def do_notag(self, todo: list[str]) -> str:
        self.number = "-"
        return ""

    do_nonumber = do_notag

    def do_require(self, todo: list[str]) -> str:
        argument(todo)
        return ""

    def do_displaylimits(self, todo: list[str]) -> str:
        return ""

    do_allowbreak = do_relax = do_hfill = do_displaylimits

    def do_style(self, todo: list[str]) -> str:
        """Of CSS, only the colour; classes and ids show nothing."""
        found = re.search("(?i)color *: *([^;]+)", plain(argument(todo)))
        if found:
            todo += f"}}{found[1][::-1]}{{"
            return self.do_textcolor(todo)
        return self.part("{0}", argument(todo))

    def do_class(self, todo: list[str]) -> str:
        argument(todo)
        return self.part("{0}", argument(todo))

    do_cssId = do_href = do_bbox = do_class

    def do_unicode(self, todo: list[str]) -> str:
        option(todo)
        code = plain(argument(todo)).replace("x", "0x", 1)
        try:
            sign = chr(int(code, 0))
        except (ValueError, OverflowError) as error:
            raise CannotSet("no character") from error
        return self.part(literal(PRIVATE.sub("\ufffd", sign)))

    def do_verb(self, todo: list[str]) -> str:
        end, words = todo.pop() if todo else "", ""
        while todo and todo[-1] != end:
            words += todo.pop()
        if not todo or not todo.pop():
            raise CannotSet("\\verb has no end")
        return self.part(f"#math.mono({literal(words)});")

    def do_operatorname(self, todo: list[str]) -> str:
        limits = str(star(todo)).lower()
        name = argument(todo)
        if re.fullmatch("[A-Za-z -]+", "".join(name)):
            words = literal("".join(name).replace(" ", ""))
            return self.part(f"#math.op({words}, limits: {limits});")
        call = f"#math.op(math.upright(${{0}}$), limits: {limits});"
        return self.part(call, name)

    def do_genfrac(self, todo: list[str]) -> str:
        signs = [argument(todo) for _ in range(4)]
        start, end = ((self.delimiter(s[::-1]) if s else "") for s in signs[:2])
        line = not "".join(signs[2]).startswith("0")
        above, below = argument(todo), argument(todo)
        return self.stack(above, below, start, end, line)

    def do_enclose(self, todo: list[str]) -> str:
        kind = plain(argument(todo))
        option(todo)
        if "strike" in kind:
            return self.part("#math.cancel(${0}$);", argument(todo))
        round_ = "radius: 50%, " if "circle" in kind else ""
        return self.part(FRAME.replace("inset", round_ + "inset"), argument(todo))

    def do_sideset(self, todo: list[str]) -> str:
        before, after = argument(todo), argument(todo)
        base = argument(todo)
        return self.convert(["{", "{", "}", *before, *base, *after, "}"])

    def do_substack(self, todo: list[str]) -> str:
        return self.table("substack", argument(todo))

    def do_not(self, todo: list[str]) -> str:
        sign = argument(todo)
        if NEGATED.get(sign[0]):
            return f"\\not{sign[0]} "
        return self.part('#math.class("relation", math.cancel(${0}$));', sign)

    def do_ce(self, todo: list[str]) -> str:
        return self.convert(tokens_of(chemistry("".join(argument(todo)))))

    do_cf = do_ce

    def do_begin(self, todo: list[str]) -> str:
        name = plain(argument(todo))
        todo.append("\\begin")
        inner = enclosed(todo, "\\begin", "\\end")
        if plain(argument(todo)) != name:
            raise CannotSet(f"\\end{{{name}}} is missing")
        return self.table(name.rstrip("*"), inner, name)

    def table(self, name: str, inner: list[str], full: str = "") -> str:
        """An environment; its rows may have numbers."""
        todo = inner[::-1]
        if name in ("array", "subarray", "alignat", "alignedat", "xalignat") or name == "array":
            option(todo)
            spec = plain(argument(todo))
        else:
            option(todo) if name in ("aligned", "gathered", "alignedat", "cases") else None
            spec = ""
        inner = todo[::-1]
        if name in PLAIN:
            rows = [[inner]]
        elif name not in ENVIRONMENTS:
            raise CannotSet(f"no environment {name}")
        else:
            rows = [split(row, "&") for row in split(inner, "\\\\")]
        start, end, kind = ENVIRONMENTS.get(name, ("", "", "C"))
        columns = re.findall("[lcr]", spec) if name in ("array", "subarray") else []
        outer, numbers, lines, cells = (self.number, self.names), [], [], []
        for row in rows:
            if numbers and row[0][:1] in (["*"], ["["]):
                left = row[0][::-1]
                star(left), option(left)
                row[0] = left[::-1]
            while (first := [t for t in row[0] if t != " "])[:1] in (["\\hline"], ["\\hdashline"]):
                lines.append(len(cells))
                row[0] = row[0][row[0].index(first[0]) + 1 :]
            if not any(t != " " for cell in row for t in cell):
                continue
            self.number, self.names = "", []
            cells.append(self.row(row, kind, columns, name))
            if name in NUMBERED:
                if not self.number and self.names and not full.endswith("*"):
                    self.book.last += 1
                    self.number = f"({self.book.last})"
                    self.named()
                numbers.append("" if self.number == "-" else self.number)
            else:
                numbers.append("")
                outer = (self.number or outer[0], self.names or outer[1])
        self.number, self.names = outer
        if name in PLAIN:
            self.number = numbers[0] if numbers else ""
            return cells[0][0] if cells else ""
        if len(cells) == 1:
            self.number = numbers[0] or self.number
        elif any(numbers):
            wide = max(map(len, cells))
            for row, number in zip(cells, numbers, strict=True):
                row += [""] * (wide - len(row)) + [self.part(literal(number))]
        return self.matrix(name, cells, (start, end), kind, lines, spec)

    def row(self, row, kind, columns, name) -> list[str]:
        """A row's cells, as TeX for pandoc that holds alignment points."""
        if name == "eqnarray" and len(row) > 2:
            row = [row[0], [*row[1], *row[2]]]
        done = []
        for number, cell in enumerate(row):
            style = "#math.display(${0}$);" if kind.isupper() else "{0}"
            done.append(self.part(style, cell))
        if kind == "A":
            point = self.part("&")
            pairs = zip(done[::2], [*done[1::2], ""], strict=False)
            return [point.join(pair) for pair in pairs]
        if columns or kind in "lL":
            point = self.part("&")
            for number, cell in enumerate(done):
                side = columns[number] if number < len(columns) else "c"
                side = "l" if kind in "lL" else side
                done[number] = {"l": point + cell, "r": cell + point}.get(side, cell)
        return done

    def matrix(self, name, cells, delimiters, kind, lines, spec) -> str:
        gap = {"A": "2em", "C": "1em"}.get(kind, "1em")
        if name in ("alignat", "alignedat", "xalignat"):
            gap = "0em"
        small = name in ("smallmatrix", "substack", "subarray")
        options = f"delim: none, column-gap: {gap if not small else '0.4em'}"
        options += f", row-gap: {'0.5em' if kind.isupper() else '0.2em' if small else '0.4em'}"
        if name == "array":
            bars, column = [], 0
            for sign in spec:
                column += sign in "lcr"
                bars += [column] if sign in "|:" else []
            wide = max(map(len, cells), default=1)
            inner = [bar for bar in bars if 0 < bar < wide]
            across = [line for line in lines if 0 < line < len(cells)]
            rules = [f"{n}: ({', '.join(map(str, v))},)" for n, v in (("vline", inner), ("hline", across)) if v]
            if rules:
                options += f", augment: ({', '.join(rules)}, stroke: 0.5pt)"
        texs, rows = [], []
        for row in cells:
            places = []
            for cell in row:
                places.append(f"${{{len(texs)}}}$")
                texs.append(cell)
                self.pieces.add(cell)
            rows.append(f"({', '.join(places)},)")
        call = f"math.mat({options}, {', '.join(rows)})"
        if name == "smallmatrix":
            call = f"text(size: 0.7em, $#{call};$)"
        start, end = ("\\" + d if d else "" for d in delimiters)
        if start or end:
            call = f"math.lr(${start} #{call}; {end}$)"
        return self.placed(f"#{call};", texs)


OVER = {
    "\\over": ("", "", True),
    "\\above": ("", "", True),
    "\\atop": ("", "", False),
    "\\choose": ("\\(", "\\)", False),
    "\\brace": ("\\{", "\\}", False),
    "\\brack": ("\\[", "\\]", False),
}
NEGATED = dict.fromkeys(["=", "\\in", "<", ">", "\\subset", "\\supset", "\\sim", "\\equiv"], True)


def chemistry(source: str) -> str:
    """The common part of mhchem as TeX."""
    out = []
    for m in CHEMISTRY.finditer(source):
        if m["arrow"]:
            name = CHEMICAL_ARROWS.get(m["arrow"], "rightleftharpoons")
            over, under = (chemistry(m[k] or "") for k in ("over", "under"))
            plain_arrow = not over and not under
            long = {"rightarrow": "\\longrightarrow ", "longequal": "="}
            out.append(long.get(name, f"\\{name} ") if plain_arrow else f"\\x{name}[{under}]{{{over}}}")
        elif m["count"]:
            out.append(f"_{{{m['count']}}}")
        elif m["up"] is not None:
            out.append(f"^{{{m['up'].strip('{}')}}}" if m["up"] else "\\uparrow ")
        elif m["down"]:
            out.append(f"_{{{m['down'].strip('{}')}}}")
        elif m["charge"]:
            out.append(f"^{{{m['charge']}}}")
        elif m["word"]:
            out.append(f"\\mathrm{{{m['word']}}}")
        elif m["tex"]:
            out.append(m["tex"].strip("$") + " ")
        elif m["dot"]:
            out.append("\\cdot ")
        elif not m["gap"]:
            out.append(m["other"])
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
    blocks, end = [], "\uf8ff"
    for tex in pieces:
        math = {"t": "Math", "c": [{"t": "DisplayMath"}, tex]}
        words = {"t": "Str", "c": end}
        blocks += [{"t": "Para", "c": [inline]} for inline in (math, words)]
    version = [1, 23, 1]
    tree = {"pandoc-api-version": version, "meta": {}, "blocks": blocks}
    typst = pandoc(json.dumps(tree), "--from=json", "--to=typst")
    found = (piece.strip() for piece in typst.split(end))
    return {
        tex: BAR.sub(r"\1", piece[2:-2]) if piece[:2] == "$ " else None
        for tex, piece in zip(pieces, found, strict=False)
    }


def typeset(formulas: Sequence[tuple[str, bool]]) -> list[Formula]:
    """Set a notebook's formulas, in their order.

    Args:
        formulas: TeX without dollars, and whether it is displayed.
    """
    book, readers, pieces = Book(), [], {}
    for tex, block in formulas:
        try:
            reader = Reader(book, PRIVATE.sub("\ufffd", tex), block)
            pieces |= dict.fromkeys(reader.pieces)
        except (CannotSet, RecursionError):
            reader = None
        readers.append(reader)
    written = write([piece for piece in pieces if piece])
    done = []
    for (tex, block), reader in zip(formulas, readers, strict=True):
        found = Formula(tex, block, None)
        if reader:
            try:
                found.typst = reader.typst(reader.root, written)
                found.number = reader.number.strip("-")
            except (CannotSet, RecursionError):
                pass
        done.append(found)
    return done
