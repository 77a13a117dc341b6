"""Finds the number of a claim: by its formula, or by a small function of `claims.finders`.

A finder is given the claim and says with what setting it found what:

    @finds("C214")
    def layers(claim):
        n, w = 513, 64
        needed = masks.hops(window.mask(n, n, window=w)).max()
        return Found(needed, f"n = {n}, w = {w} on each side", agrees=needed == -(-(n - 1) // w))
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace

from attncourse.claims.arithmetic import evaluate
from attncourse.claims.ledger import Claim, get
from attncourse.claims.verdicts import agrees


@dataclass(frozen=True)
class Found:
    """What comes out where a text prints something.

    Attributes:
        value: A number in the claim's unit, or words that hold the numbers.
        setting: What it was found with: sizes, masks, seeds, the machine of a measurement.
        agrees: Whether it is what the text says; for a number it follows from the printed digits
            if it is not given.
    """

    value: float | str
    setting: str
    agrees: bool | None = None


Finder = Callable[[Claim], Found]
_finders: dict[str, Finder] = {}


def finds(*ids: str) -> Callable[[Finder], Finder]:
    """Mark the function that finds the numbers of these claims.

    Raises:
        ValueError: Another function has one of them.
    """

    def keep(finder: Finder) -> Finder:
        for id in ids:
            if id in _finders:
                raise ValueError(f"claims.finds: {id} is found by {_finders[id].__name__} already")
            _finders[get(id).id] = finder
        return finder

    return keep


@functools.cache
def found(id: str) -> Found | None:
    """Return what comes out for a claim, None where nothing can be computed or measured.

    A second call returns what the first one found: measurements take their time.

    Args:
        id: Such as "C057".

    Raises:
        KeyError: There is no such id.
    """
    claim = get(id)
    _load()
    if finder := _finders.get(id):
        result = finder(claim)
    elif claim.formula:
        result = Found(evaluate(claim.formula, claim.parameters), _words(claim.parameters))
    else:
        return None
    says = result.agrees
    if says is None and not isinstance(result.value, str):
        says = agrees(claim.printed, result.value)
    return replace(result, agrees=None if says is None else bool(says))


@functools.cache
def _load() -> None:
    from attncourse.claims import finders

    for module in pkgutil.iter_modules(finders.__path__):
        importlib.import_module(f"{finders.__name__}.{module.name}")


def _words(parameters) -> str:
    """Return the numbers of a formula, such as "n = 4,096, w = 256"."""
    return ", ".join(
        f"{name} = {value}" if isinstance(value, str) else f"{name} = {value:,}"
        for name, value in parameters.items()
    )
