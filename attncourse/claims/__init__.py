"""The ledger of claims: what four texts say, each with what comes out, a verdict and its reason.

The texts are cited as survey, notes, chapter E ("Efficient Transformers") and chapter V
("Attention Variants and Mechanisms"). `found` recomputes a claim's number or measures it; `check`
shows a learner what was printed, what comes out, and why.
"""

from __future__ import annotations

from attncourse.claims.arithmetic import evaluate
from attncourse.claims.card import Card, shown, with_unit
from attncourse.claims.finding import Found, found
from attncourse.claims.ledger import LEDGER, TEXTS, VERDICTS, Claim, find, get

__all__ = [
    "LEDGER",
    "TEXTS",
    "VERDICTS",
    "Claim",
    "Found",
    "check",
    "evaluate",
    "find",
    "found",
    "get",
    "recompute",
    "row",
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


def row(claim: Claim) -> dict[str, str]:
    """Return a claim as one row of a table, with what comes out for it."""
    result = found(claim.id)
    return {
        "id": claim.id,
        "text": ", ".join(claim.texts),
        "claim": claim.claim,
        "printed": with_unit(claim.printed, claim.unit),
        "found": shown(claim, result.value) if result else "",
        "verdict": f"{VERDICTS[claim.verdict][0]} {claim.verdict}",
    }


def check(id: str, value: float | str | None = None, why: str | None = None) -> None:
    """Show what a text prints, what is found here and with what setting, the verdict, and why.

    Args:
        id: Such as "C057".
        value: What the calling cell computed or measured, instead of what `found` would; a number
            gets the claim's unit.
        why: The reason in the chapter's words; the ledger's note if not given.

    Raises:
        KeyError: There is no such id.
    """
    claim, setting = get(id), ""
    if value is None and (result := found(id)):
        value, setting = result.value, result.setting
    card = Card(claim, shown(claim, value), setting, claim.note if why is None else why)
    try:
        from IPython.display import display
    except ImportError:
        print(card)
    else:
        display(card)
