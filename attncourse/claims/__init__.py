"""The ledger of claims: 480 statements from four texts, each with a verdict and its reason.

The texts are cited as survey, notes, chapter E ("Efficient Transformers") and chapter V
("Attention Variants and Mechanisms"). `recompute` works out a printed number from its formula;
`check` shows a learner what was printed, what comes out, and why.
"""

from __future__ import annotations

import ast
import csv
import html
import importlib.resources
import math
import operator
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

TEXTS = {"000": "survey", "001": "notes", "002": "chapter E", "003": "chapter V"}

# The verdicts of the ledger: a sign for the eye, and what the word means.
VERDICTS = {
    "holds": ("✓", "the number or statement is right as printed"),
    "imprecise": ("≈", "right in the main, but rounded, unqualified or in the wrong unit"),
    "inconsistent": ("≠", "contradicts another place of the same texts"),
    "wrong": ("✗", "does not come out"),
    "needs-measurement": ("…", "only a measurement can tell"),
    "needs-literature": ("…", "only the cited work can tell"),
    "unverifiable": ("?", "the texts do not say enough to test it"),
}


@dataclass(frozen=True)
class Claim:
    """One statement of the texts, and what the audit found.

    Attributes:
        id: "C001" to "C480".
        texts: Which texts say it, such as ("chapter E", "chapter V").
        topic: The ledger's keyword.
        chapter: The chapter of the course that handles it, as two digits.
        claim: The statement in few words.
        parameters: The numbers it is made for, such as {"n": 4096, "w": 256}; a setting that is
            no single number stays a string.
        printed: The value in the text.
        unit: The unit of `printed` and `computed`.
        kind: "arithmetic", "timing", "complexity", "empirical-quality", "experiment",
            "definition" or "hardware-fact".
        formula: How to recompute it from the parameters; empty where it is no arithmetic.
        computed: What the audit got; empty where it got no value.
        verdict: One of `VERDICTS`.
        note: Why.
    """

    id: str
    texts: tuple[str, ...]
    topic: str
    chapter: str
    claim: str
    parameters: MappingProxyType[str, float | str]
    printed: str
    unit: str
    kind: str
    formula: str
    computed: str
    verdict: str
    note: str


def get(id: str) -> Claim:
    """Return one claim of the ledger.

    Raises:
        KeyError: There is no such id.
    """
    try:
        return LEDGER[id]
    except KeyError:
        raise KeyError(f"claims.get: ids run from C001 to C480, got {id!r}") from None


def find(
    *, topic: str | None = None, chapter: str | None = None, verdict: str | None = None
) -> list[Claim]:
    """Return the claims that fit every given word, in the ledger's order.

    Args:
        topic: Such as "window definition".
        chapter: The course's chapter that handles the claim, such as "04".
        verdict: One of `VERDICTS`.

    Raises:
        ValueError: A word that no claim of the ledger has.
    """
    wanted = {"topic": topic, "chapter": chapter, "verdict": verdict}
    wanted = {field: word for field, word in wanted.items() if word is not None}
    for field, word in wanted.items():
        known = sorted({getattr(claim, field) for claim in LEDGER.values()})
        if word not in known:
            raise ValueError(f"claims.find: {field} must be one of {known}, got {word!r}")
    return [
        claim
        for claim in LEDGER.values()
        if all(getattr(claim, field) == word for field, word in wanted.items())
    ]


def recompute(id: str) -> float:
    """Work out a claim's number from its formula and parameters.

    Raises:
        KeyError: There is no such id.
        ValueError: The claim has no formula.
    """
    claim = get(id)
    if not claim.formula:
        raise ValueError(f"claims.recompute: {id} has no formula; its kind is {claim.kind}")
    return evaluate(claim.formula, claim.parameters)


def evaluate(formula: str, parameters: Mapping[str, float | str]) -> float:
    """Evaluate arithmetic over named numbers: + - * / // % **, and a few functions of one number.

    Args:
        formula: Such as "n*n*bytes/1e9".
        parameters: A number for each name in the formula.

    Raises:
        ValueError: Anything in the formula but arithmetic, or a name without a number.
    """
    return _value(ast.parse(formula, mode="eval").body, parameters)


class Checked:
    """A checked claim, as text and as a small HTML table."""

    def __init__(self, claim: Claim, found: str, why: str):
        """Keep the rows that both forms show."""
        sign, meaning = VERDICTS[claim.verdict]
        self.title = f"{claim.id} · {', '.join(claim.texts)} · {claim.topic}"
        self.rows = {
            "claim": claim.claim,
            "printed": _with_unit(claim.printed, claim.unit) or "no value",
            "found": found,
            "verdict": f"{sign} {claim.verdict}: {meaning}",
            "why": why,
        }
        self.rows = {name: text for name, text in self.rows.items() if text}

    def __str__(self) -> str:
        lines = [self.title]
        for name, text in self.rows.items():
            lines.append(
                textwrap.fill(
                    text,
                    width=96,
                    initial_indent=f"  {name:<9}",
                    subsequent_indent=" " * 11,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left;vertical-align:top">{name}</th>'
            f'<td style="text-align:left">{html.escape(text)}</td></tr>'
            for name, text in self.rows.items()
        )
        return (
            f'<table><caption style="text-align:left;font-weight:bold">{html.escape(self.title)}'
            f"</caption><tbody>{rows}</tbody></table>"
        )


def check(id: str, found: float | str | None = None, why: str | None = None) -> None:
    """Show what a text prints, what is found here, the verdict, and why.

    Args:
        id: Such as "C057".
        found: What the calling cell computed or measured; a number gets the claim's unit. If not
            given, the claim's formula is worked out.
        why: The reason in the chapter's words; the ledger's note if not given.

    Raises:
        KeyError: There is no such id.
    """
    claim = get(id)
    if found is None and claim.formula:
        found = recompute(id)
    if found is None:
        text = f"{claim.computed} (by the audit)" if claim.computed else "nothing to compute"
    else:
        text = found if isinstance(found, str) else _number(found)
        # A unit beside a printed word, such as "exceeds", does not fit the number found.
        text = _with_unit(text, claim.unit) if re.search(r"\d", claim.printed) else text
    checked = Checked(claim, text, claim.note if why is None else why)
    try:
        from IPython.display import display
    except ImportError:
        print(checked)
    else:
        display(checked)


def _ledger() -> MappingProxyType[str, Claim]:
    path = importlib.resources.files("attncourse") / "data" / "claims.csv"
    with path.open(encoding="utf-8") as file:
        return MappingProxyType(
            {
                row["id"]: Claim(
                    id=row["id"],
                    texts=tuple(TEXTS[name[:3]] for name in row["source_file"].split(";")),
                    topic=row["topic"],
                    chapter=row["chapter"],
                    claim=row["claim"],
                    parameters=MappingProxyType(_parameters(row["parameters"])),
                    printed=row["printed_value"],
                    unit=row["unit"],
                    kind=row["kind"],
                    formula=row["formula"],
                    computed=row["computed_value"],
                    verdict=row["verdict"],
                    note=_note(row["note"]),
                )
                for row in csv.DictReader(file)
            }
        )


def _parameters(text: str) -> dict[str, float | str]:
    parameters: dict[str, float | str] = {}
    for part in filter(None, text.split(";")):
        name, _, value = part.partition("=")
        try:
            parameters[name] = float(value) if re.search(r"[.e]", value) else int(value)
        except ValueError:
            parameters[name] = value
    return parameters


def _note(text: str) -> str:
    """Return a note without line numbers, its texts named as the course names them."""
    text = re.sub(r"^\[line [^\]]*\]\s*| \(lines? [^)]*\)", "", text)
    return re.sub(r"(?<![\d.,])00[0-3](?!\d|[.,]\d)", lambda found: TEXTS[found[0]], text)


_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_SIGNS: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    function.__name__: function
    for function in (
        *(math.sqrt, math.log, math.log2, math.log10, math.exp),
        *(math.ceil, math.floor, abs, round),
    )
}


def _value(node: ast.expr, parameters) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name) if isinstance(parameters.get(name), (int, float)):
            return parameters[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, parameters), _value(right, parameters))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _SIGNS:
            return _SIGNS[type(op)](_value(operand, parameters))
        case ast.Call(func=ast.Name(id=name), args=[part], keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](_value(part, parameters))
    raise ValueError(
        f"claims.evaluate: {ast.unparse(node)!r} is neither arithmetic nor one of "
        f"{sorted(parameters)}"
    )


def _number(value: float) -> str:
    """Return six significant digits, or a whole number in full, with thousands separated."""
    return f"{int(value):,}" if value == int(value) else f"{value:,.6g}"


def _with_unit(text: str, unit: str) -> str:
    """Return a number with its unit; words keep to themselves."""
    return f"{text} {unit}" if unit and re.fullmatch(r"[<>~]?[\d.,e+ -]+", text) else text


LEDGER = _ledger()
