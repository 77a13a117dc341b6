"""Shows a claim beside what comes out: as text, and as a small HTML table."""

from __future__ import annotations

import html
import math
import re
import textwrap

from attncourse.claims.ledger import LEDGER, VERDICTS, Claim


class Card:
    """A checked claim.

    Attributes:
        title: Its id, its texts and its topic.
        rows: What each line is called, and what it says.
    """

    def __init__(self, claim: Claim, found: str, setting: str, why: str):
        """Keep the rows that both forms show."""
        sign, meaning = VERDICTS[claim.verdict]
        self.title = f"{claim.id} · {', '.join(claim.texts)} · {claim.topic}"
        rows = {
            "claim": claim.claim,
            "printed": with_unit(claim.printed, claim.unit) or "no value",
            "found": found,
            "with": setting,
            "verdict": f"{sign} {claim.verdict}: {meaning}",
            "against": "; ".join(_other(LEDGER[id]) for id in claim.against),
            "why": why,
        }
        self.rows = {name: text for name, text in rows.items() if text}

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


def shown(claim: Claim, value: float | str | None) -> str:
    """Return what is found for a claim, a number with its unit."""
    if value is None:
        return "nothing: the texts give no setting to compute or measure it with"
    text = value if isinstance(value, str) else number(value)
    # A unit beside a printed word, such as "exceeds", does not fit the number found.
    return with_unit(text, claim.unit) if re.search(r"\d", claim.printed) else text


def _other(claim: Claim) -> str:
    """Return what another claim says, in one line."""
    printed = with_unit(claim.printed, claim.unit)
    return f"{claim.id}, {', '.join(claim.texts)}: {claim.claim}" + (
        f" ({printed})" if printed.replace(" ", "") not in claim.claim.replace(" ", "") else ""
    )


def number(value: float) -> str:
    """Return six significant digits, or a whole number in full, with thousands separated."""
    whole = math.isfinite(value) and value == int(value)
    return f"{int(value):,}" if whole else f"{value:,.6g}"


def with_unit(text: str, unit: str) -> str:
    """Return a number with its unit; words keep to themselves."""
    return f"{text} {unit}" if unit and re.fullmatch(r"[<>~]?[\d.,e+ -]+", text) else text
