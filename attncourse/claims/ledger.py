"""The ledger: what four texts state, one claim a row of data/claims.csv."""

from __future__ import annotations

import csv
import importlib.resources
import re
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
        id: "C001" and on, in the order of the ledger.
        texts: Which texts say it, such as ("chapter E", "chapter V").
        topic: The ledger's keyword.
        chapter: The chapter of the course that handles it, as two digits.
        claim: The statement in few words.
        parameters: The numbers it is made for, such as {"n": 4096, "w": 256}; a setting that is
            no single number stays a string.
        printed: The value in the text.
        unit: The unit of `printed`, and of what is found if that is a number.
        kind: "arithmetic", "timing", "complexity", "empirical-quality", "experiment",
            "definition" or "hardware-fact".
        formula: How to recompute it from the parameters; empty where it is no arithmetic.
        verdict: One of `VERDICTS`.
        note: Why.
        against: The ids of the claims that it contradicts, if "inconsistent".
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
    verdict: str
    note: str
    against: tuple[str, ...]


def get(id: str) -> Claim:
    """Return one claim of the ledger.

    Raises:
        KeyError: There is no such id.
    """
    try:
        return LEDGER[id]
    except KeyError:
        first, *_, last = LEDGER
        raise KeyError(f"claims.get: ids run from {first} to {last}, got {id!r}") from None


def find(
    *,
    topic: str | None = None,
    chapter: str | None = None,
    verdict: str | None = None,
    text: str | None = None,
    words: str = "",
) -> list[Claim]:
    """Return the claims that fit every given word, in the ledger's order.

    Args:
        topic: Such as "window definition".
        chapter: The course's chapter that handles the claim, such as "04".
        verdict: One of `VERDICTS`.
        text: Which of `TEXTS` says it, such as "chapter E".
        words: All of them stand in the claim, its id, topic or note, in any order and case.

    An empty word is as good as none.

    Raises:
        ValueError: A word that no claim of the ledger has.
    """
    wanted = {"topic": topic, "chapter": chapter, "verdict": verdict}
    wanted = {field: word for field, word in wanted.items() if word}
    for field, word in wanted.items():
        known = sorted({getattr(claim, field) for claim in LEDGER.values()})
        if word not in known:
            raise ValueError(f"claims.find: {field} must be one of {known}, got {word!r}")
    if text and text not in TEXTS.values():
        raise ValueError(f"claims.find: text must be one of {list(TEXTS.values())}, got {text!r}")
    return [
        claim
        for claim in LEDGER.values()
        if all(getattr(claim, field) == word for field, word in wanted.items())
        and (not text or text in claim.texts)
        and all(
            word in f"{claim.id} {claim.claim} {claim.topic} {claim.note}".lower()
            for word in words.lower().split()
        )
    ]


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
                    verdict=row["verdict"],
                    note=_note(row["note"]),
                    against=tuple(row["against"].split()),
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


LEDGER = _ledger()
