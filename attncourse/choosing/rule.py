"""The rule: what is out and why, and which of the rest is taken.

- What does not fit into the memory is out.
- What loses an ability that is needed, or more than the tolerance, is out; so is what nobody
  measured, unless it is exact.
- What nobody maintains is out, unless one would write it oneself.
- Of the rest the fastest is taken; but an exact one, unless another is at least 1.5 times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence

from attncourse.choosing.candidates import Candidate
from attncourse.units import format_bytes

WORTH = 1.5  # times as fast as the exact one, or it is not worth giving up exactness


def why_out(
    one: Candidate, *, memory: float, must_keep: Sequence[str], tolerance: float, maintained: bool
) -> str:
    """Return the first reason that strikes a candidate out, or "" if it stays.

    Args:
        one: The candidate.
        memory: Bytes there are.
        must_keep: Abilities that are needed.
        tolerance: The most it may lose, in nats a token.
        maintained: Whether an implementation must be maintained.
    """
    if one.n_bytes > memory:
        return f"holds {format_bytes(one.n_bytes)}"
    if not one.exact:
        if one.quality is None:
            return "its quality was not measured"
        lost = [ability for ability in must_keep if ability in one.quality.lost]
        if lost:
            return f"loses {', '.join(lost)}"
        if one.quality.loss > tolerance:
            return f"loses {one.quality.loss:.2f} nats a token"
    if maintained and one.implementation is None:
        return "nobody maintains it"
    return ""


def take(staying: Sequence[Candidate]) -> Candidate | None:
    """Return the one that is taken of those that stay, or None if none does."""
    by_time = sorted(staying, key=lambda one: one.seconds)
    exact = next((one for one in by_time if one.exact), None)
    if exact is not None and exact.seconds < WORTH * by_time[0].seconds:
        return exact
    return by_time[0] if by_time else None
