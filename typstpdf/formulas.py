r"""Formulas, as MathJax draws them.

MathJax runs in QuickJS (``mathjax.entry.js``), once for a notebook: a macro
holds in later formulas, a label in all.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import quickjs

# For one formula, in seconds and bytes.
MAX_TIME, MAX_MEMORY = 2, 200_000_000
# Its width in em, its lines in SVG, whether the line must end behind it.
Drawing = tuple[float, str, bool]


@dataclass
class Formula:
    """A formula of the notebook.

    Attributes:
        tex: its source as it stands in the notebook.
        block: whether it is displayed.
        parts: what is printed, one after the other, between which a line may
            end; none for a definition. None: it cannot be set.
        number: what stands at the right margin, if anything.
        height: of every part and the number, in em.
        depth: how far they reach below the line, in em.
        unknown: commands that are printed as they are.
    """

    tex: str
    block: bool
    parts: list[Drawing] | None = None
    number: Drawing | None = None
    height: float = 0
    depth: float = 0
    unknown: list[str] = field(default_factory=list)


def typeset(formulas: Sequence[tuple[str, bool]]) -> list[Formula]:
    """Set a notebook's formulas: TeX, and whether it is displayed."""
    done = [Formula(tex, block) for tex, block in formulas]
    if not done:
        return done
    engine = quickjs.Context()
    engine.eval(Path(__file__).with_name("mathjax.js").read_text("utf-8"))
    engine.set_time_limit(MAX_TIME)
    engine.set_memory_limit(MAX_MEMORY)
    convert = engine.get("convert")
    waiting = list(range(len(done)))
    for _ in ("all", "with labels that come later"):
        for place in [*waiting]:
            formula = done[place]
            waiting.remove(place)
            try:
                found = json.loads(convert(place, formula.tex, formula.block))
            except quickjs.JSException:
                continue
            waiting += [place] * found.pop("again")
            vars(formula).update(found)
    return done
