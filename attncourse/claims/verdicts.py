"""What a verdict asks of the number that is found: the tests hold every claim to it."""

from __future__ import annotations

import re

from attncourse.claims.ledger import Claim

# A verdict without a number has to say so in its own name.
MAY_LACK = ("needs-literature", "unverifiable")


def agrees(printed: str, value: float) -> bool | None:
    """Return whether a number comes to what a text prints, to the digits that it prints.

    Zeros at the end of a whole number are no digits, within a twentieth: 3200 is 3221, and 100 is
    not 69. A range such as "2-4" holds what lies in it.

    Args:
        printed: The text's value, such as "25.8", "3200", "2-4" or "<1".
        value: In the same unit.

    Returns:
        None if `printed` is no number.
    """
    number = r"\d+(?:\.\d+)?"
    if within := re.fullmatch(rf"({number})-({number})", printed):
        return float(within[1]) <= value <= float(within[2])
    if below := re.fullmatch(rf"<({number})", printed):
        return value < float(below[1])
    if not re.fullmatch(rf"-?{number}", printed):
        return None
    _, point, decimals = printed.partition(".")
    zeros = 0 if point else len(printed) - len(printed.rstrip("0"))
    allowed = 10.0 ** (zeros - len(decimals)) / 2
    if zeros:
        allowed = min(allowed, abs(float(printed)) / 20)
    return abs(value - float(printed)) <= allowed * (1 + 1e-9)


def complaint(claim: Claim, found: bool, agrees: bool | None) -> str:
    """Say what of a claim's verdict does not fit what was found; nothing if all fits.

    Args:
        claim: The claim.
        found: Whether anything was found.
        agrees: Whether it is what the text says.
    """
    if not found:
        return "" if claim.verdict in MAY_LACK else f"{claim.verdict}, and nothing was found"
    if claim.verdict == "holds" and agrees is not True:
        return "holds, and what was found does not agree"
    if claim.verdict == "wrong" and agrees is not False:
        return "wrong, and what was found does not differ"
    if claim.verdict == "inconsistent" and not claim.against:
        return "inconsistent, and no other claim is named"
    return ""
