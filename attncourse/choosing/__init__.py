"""Which attention? Candidates with bytes, seconds, quality and code; a rule; and the reasons.

`choose` answers for a length, a device, a phase and what must be kept. The rule stands in
`rule.py`, the figures come from `candidates.py` and `evidence.py`. Every answer says what it rests
on: a cost formula, a record, an entry of the frontier, a claim. `dispatch.py` is about the other
choice, which is made within a library at each call: which kernel computes it.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attncourse.choosing import rule
from attncourse.choosing.candidates import OFFERED, TILED, Candidate, Setting, weigh
from attncourse.choosing.dispatch import Kernel, kernels_for, splits_for, torch_picks
from attncourse.choosing.evidence import ABILITIES, MODES, Measured, Quality, folder_of_results
from attncourse.choosing.implementations import LEFT_ALONE, MAINTAINED, Implementation
from attncourse.cost import DEVICES, NUMBER_BYTES, Device, this_cpu
from attncourse.inputs import check_count, check_flag
from attncourse.units import format_bytes, format_seconds

__all__ = [
    "ABILITIES",
    "ENDLESS",
    "LEFT_ALONE",
    "MAINTAINED",
    "OFFERED",
    "PHASES",
    "TILED",
    "Candidate",
    "Choice",
    "Implementation",
    "Kernel",
    "Measured",
    "Quality",
    "choose",
    "kernels_for",
    "longest",
    "splits_for",
    "torch_picks",
]
PHASES = tuple(MODES)
ENDLESS = 2**40
CLAIMS = {"full": "C300", "flash": "C306", "window": "C301", "performer": "C305"}
WHERE = "choosing.choose"


@dataclass(frozen=True)
class Choice:
    """An answer, all candidates, and what the answer rests on.

    Attributes:
        answer: What is taken, or None if nothing fits.
        ranked: All candidates: the answer, the others that stay by their seconds, then those that
            are struck out.
        because: Sentences, each with its evidence.
    """

    answer: Candidate | None
    ranked: tuple[Candidate, ...]
    because: tuple[str, ...]

    def __str__(self) -> str:
        name = self.answer.name if self.answer else "none"
        return "\n".join([f"{name}, because", *(f"- {reason}" for reason in self.because)])


def choose(
    length: int,
    *,
    heads: int,
    width: int,
    device: Device | str,
    dtype: str | None = None,
    batch: int = 1,
    layers: int = 1,
    phase: str = "prompt",
    causal: bool = True,
    must_keep: Sequence[str] = ABILITIES,
    tolerance: float = 0.05,
    tuned: bool = False,
    maintained: bool = True,
    memory: float | None = None,
    results: Path | None = None,
) -> Choice:
    """Choose one mechanism for all layers of a model.

    Args:
        length: Tokens of a text: of the prompt; or, in decoding, those that stand in the cache.
        heads: Heads of queries.
        width: D.
        device: A Device, a name in `cost.DEVICES`, or "this CPU", which is then measured.
        dtype: The numbers' type; float16 on a GPU and float32 on a CPU if not given.
        batch: Texts.
        layers: Layers.
        phase: "prompt", "decoding" (one more token of each text) or "training" (both passes).
        causal: Whether no token sees later ones.
        must_keep: What must be kept, among `ABILITIES`.
        tolerance: The most that may be lost, in nats a token.
        tuned: Whether the model may learn on with what it gets; else it is swapped in.
        maintained: Whether code that somebody maintains must exist; else you write it.
        memory: Bytes there are for attention; if not given, all of the device's.
        results: The folder of records; if not given, the learner's own, else the released ones.
            Without any the times are predicted only, and only exact attention can stay.

    Raises:
        TypeError, ValueError: An argument that cannot be meant, named.
    """
    sizes = {"length": length, "batch": batch, "heads": heads, "width": width, "layers": layers}
    sizes = {name: check_count(WHERE, name, value, least=1) for name, value in sizes.items()}
    flags = {"causal": causal, "tuned": tuned, "maintained": maintained}
    flags = {name: check_flag(WHERE, name, value) for name, value in flags.items()}
    device = _device(device)
    if dtype is None:
        dtype = "float16" if "float16" in device.peaks else "float32"
    types = [name for name in device.peaks if name in NUMBER_BYTES]
    if dtype not in types:
        raise ValueError(
            f"{WHERE}: dtype must be one of {', '.join(types)} on {device.name}, got {dtype!r}"
        )
    if phase not in PHASES:
        raise ValueError(f"{WHERE}: phase must be one of {', '.join(PHASES)}, got {phase!r}")
    needed = None if isinstance(must_keep, str) or not np.iterable(must_keep) else [*must_keep]
    if needed is None or any(each not in ABILITIES for each in needed):
        raise ValueError(
            f"{WHERE}: must_keep must be a list of some of {', '.join(ABILITIES)}, "
            f"got {must_keep!r}"
        )
    memory = _number("memory", device.memory_bytes if memory is None else memory)
    tolerance = _number("tolerance", tolerance)
    folder = folder_of_results() if results is None else Path(results)
    setting = Setting(
        **sizes, device=device, dtype=dtype, phase=phase,
        causal=flags["causal"], own_code=not flags["maintained"],
    )  # fmt: skip
    found = weigh(setting, tuned=flags["tuned"], folder=folder)
    for i, one in enumerate(found):
        why = rule.why_out(
            one,
            memory=memory,
            must_keep=needed,
            tolerance=tolerance,
            maintained=flags["maintained"],
        )
        found[i] = dataclasses.replace(one, out=why)
    answer = rule.take([one for one in found if not one.out])
    found.sort(key=lambda one: (one is not answer, one.out != "", one.seconds))
    return Choice(answer, tuple(found), tuple(_because(answer, found, setting, memory)))


def longest(name: str, **setting: Any) -> int:
    """Return the longest text at which a candidate fits, to within a 256th; 0 if none does.

    What holds the same bytes of any text has no longest one: then it is `ENDLESS` tokens.

    Args:
        name: In `OFFERED`.
        **setting: As for `choose`.

    Raises:
        ValueError: Another name, or half of an odd number of heads.
    """
    if not isinstance(name, str) or name not in OFFERED:
        raise ValueError(
            f"choosing.longest: name must be one of {', '.join(OFFERED)}, got {name!r}"
        )

    def fits(n: int) -> bool:
        found = [one for one in choose(n, **setting).ranked if one.name == name]
        if not found:
            raise ValueError(
                f"choosing.longest: heads must be even for {name!r}, got {setting['heads']}"
            )
        return not found[0].out.startswith("holds")

    low, high = 0, 1
    while fits(high):
        if high == ENDLESS:
            return ENDLESS
        low, high = high, 2 * high
    while high - low > max(1, low // 256):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _because(
    answer: Candidate | None, found: list[Candidate], setting: Setting, memory: float
) -> Iterator[str]:
    """Say what the answer rests on, a sentence for each step of the rule."""
    there = "any memory" if memory == math.inf else format_bytes(memory)
    room = f"{there} on {setting.device.name}"
    if answer is None:
        kinds = Counter(one.out.split()[0] for one in found)
        said = [
            f"{kinds[kind]} {one if kinds[kind] == 1 else many}"
            for kind, one, many in (
                ("holds", f"does not fit into {room}", f"do not fit into {room}"),
                ("loses", "loses too much", "lose too much"),
                ("its", "was not measured", "were not measured"),
                ("nobody", "is maintained by nobody", "are maintained by nobody"),
            )
            if kinds[kind]
        ]
        yield "nothing is left: " + " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))
        return
    how = "Attention.kept" if setting.phase == "decoding" else f"{answer.stem}.cost"
    holds = format_bytes(answer.n_bytes)
    claimed = setting.phase == "prompt" and answer.stem in CLAIMS
    claim = f", and grows as claim {CLAIMS[answer.stem]} says" if claimed else ""
    yield f"it holds {holds} of {room}, by `{how}`{claim}"
    limit = f"it takes at least {format_seconds(answer.least)}, by `cost` and the device's peaks"
    expected = f"; {format_seconds(answer.seconds)} are expected, for "
    if answer.measured:
        slow = f" took {answer.seconds / answer.least:.1f} times its own least"
        yield limit + expected + str(answer.measured) + slow
    elif any(one.measured for one in found):
        slow = f"others take {answer.seconds / answer.least:.1f} times their least; itself it is in"
        yield limit + expected + slow + " no record of this device"
    else:
        yield limit + ": predicted only, no record has this phase on this device"
    if answer.exact:
        yield "it is softmax attention itself: nothing is lost, on any text"
    elif answer.quality:
        when = "tuned" if answer.quality.tuned else "swapped in"
        yield (
            f"{when}, it loses {answer.quality.loss:.2f} nats a token (results/frontier.json, "
            f"{answer.quality.name!r}: the course's small model at 512 tokens, not at "
            f"{setting.length:,})"
        )
    if answer.implementation:
        yield f"somebody maintains it: {answer.implementation}"
    faster = [one for one in found if one.seconds < answer.seconds]
    for staying in (True, False):
        one = next((one for one in faster if (not one.out) is staying), None)
        if one is not None:
            gain = answer.seconds / one.seconds
            times = f"{one.name} would be {gain:,.{0 if gain > 99 else 1}f} times as fast"
            yield f"{times}, but {one.out or f'is not exact, and that is under {rule.WORTH}'}"


def _device(given: Device | str) -> Device:
    if isinstance(given, Device):
        return given
    if given == "this CPU":
        return this_cpu()
    if not isinstance(given, str) or given not in DEVICES:
        raise ValueError(
            f"{WHERE}: device must be a Device, 'this CPU' or one of {', '.join(DEVICES)}, "
            f"got {given!r}"
        )
    return DEVICES[given]


def _number(name: str, value: Any) -> float:
    plain = value.item() if getattr(value, "shape", None) == () else value
    if isinstance(plain, bool) or not isinstance(plain, int | float) or not plain >= 0:
        raise ValueError(f"{WHERE}: {name} must be a number of at least 0, got {value!r}")
    return plain if plain <= sys.float_info.max else math.inf
