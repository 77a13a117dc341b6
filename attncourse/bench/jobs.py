"""The calls of a run: our own implementations and their peers, what is worth most first."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from attncourse.bench import peers, records
from attncourse.bench.peers import Peer
from attncourse.bench.settings import DEFAULTS, Point, Setting
from attncourse.catalogue import MECHANISMS, Mechanism
from attncourse.cost import NUMBER_BYTES, Cost
from attncourse.inputs import random_qkv

CUDA = "cuda"
# The default run on a GPU: these lengths in every mode, the others forward at the first width.
MAIN_LENGTHS = (4096, 16384)
CHECKED_UP_TO = 4096  # tokens: to here a peer's result on a GPU is compared with ours
DECODE_BATCH, DECODE_HEADS, DECODE_GROUPS = 8, 32, 8
# Chapter E counts 512 keys on each side of a query.
CHAPTER_E_KNOBS = {"window": {"window": 512}, "longformer": {"window": 512}}


@dataclass(frozen=True)
class Job:
    """One call to measure.

    Attributes:
        mechanism: Its stem.
        implementation: "NumPy", "Triton", or the name of a peer.
        point: The setting.
        knobs: The mechanism's keyword arguments.
        prepare: Makes the call, inputs and all; nothing is allocated before.
        needs_bytes: Works out the most it will hold at once, inputs aside, roughly.
        predict: Works out the mechanism's own cost, if the call is its own: where tiles are
            counted one by one, that takes seconds at the longest lengths.
        check: Makes a call whose result should be the same, if there is one.
    """

    mechanism: str
    implementation: str
    point: Point
    knobs: dict[str, int]
    prepare: Callable[[], tuple[Callable[..., Any], tuple, dict]]
    needs_bytes: Callable[[], int]
    predict: Callable[[], Cost] | None
    check: Callable[[], tuple[Callable[..., Any], tuple, dict]] | None = None

    @property
    def key(self) -> tuple:
        """What tells this measurement from all others of a run."""
        point = self.point
        return (
            self.mechanism, self.implementation, point.n, point.batch, point.heads, point.width,
            point.causal, point.mode,
        )  # fmt: skip


@dataclass(frozen=True)
class _Stage:
    """Points that are measured together, and by whom.

    Attributes:
        points: Where.
        slow: Whether peers that compile or prepare for seconds are measured: they alone, or none;
            None is both.
        strongest: Whether only the strongest of a mechanism's other peers is.
        stems: The mechanisms, all if not given.
    """

    points: list[Point]
    slow: bool | None = False
    strongest: bool = False
    stems: frozenset[str] | None = None


def sweep(setting: Setting) -> Iterator[Job]:
    """Yield the jobs of a run, what is worth most first; nothing twice."""
    seen = set()
    for stage in _stages(setting):
        for point in stage.points:
            for mechanism in MECHANISMS.values():
                if stage.stems is None or mechanism.stem in stage.stems:
                    for job in _jobs_at(point, mechanism, setting, stage):
                        if job.key not in seen:
                            seen.add(job.key)
                            yield job


def _stages(setting: Setting) -> Iterator[_Stage]:
    if setting.device == "cpu":
        yield _Stage(_points(setting, setting.lengths), slow=None)
    elif dataclasses.replace(setting, without=()) == DEFAULTS["gpu"]:
        yield from _default_stages(setting)
    else:
        yield _Stage(_points(setting, setting.lengths))
        if "decode" in setting.modes:
            yield _Stage(_decoding(setting), slow=None)
        yield _Stage(_points(setting, setting.lengths), slow=True)


def _default_stages(setting: Setting) -> Iterator[_Stage]:
    """Yield the stages of the default run, since a GPU may be there for minutes only.

    Chapter E's own setting; every mechanism beside its strongest peer at two lengths, in both
    modes; decoding; the slow peers; the second width, causal where the mechanism can be trained;
    the other peers; then the other lengths forward, for the crossovers.
    """
    narrow, wide = (dataclasses.replace(setting, widths=(width,)) for width in setting.widths)
    forward, backward = ({"modes": (mode,)} for mode in ("forward", "backward"))
    plain = dataclasses.replace(narrow, causal=(False,), **forward)
    trained = frozenset({"full"}) | {m.stem for m in MECHANISMS.values() if "backward" in m.has}
    chapter_e = [
        Point(n, **records.CHAPTER_E, knobs=CHAPTER_E_KNOBS) for n in records.CHAPTER_E_SPEEDUPS
    ]
    printed = frozenset({"full"}).union(*records.CHAPTER_E_SPEEDUPS.values())
    yield _Stage(chapter_e, strongest=True, stems=printed)
    yield _Stage(_points(narrow, MAIN_LENGTHS), strongest=True)
    yield _Stage(_decoding(setting), slow=None)
    yield _Stage(_points(plain, MAIN_LENGTHS), slow=True)
    wide_plain = dataclasses.replace(wide, causal=(False,), **forward)
    yield _Stage(_points(wide_plain, MAIN_LENGTHS), strongest=True)
    yield _Stage(_points(dataclasses.replace(wide, **backward), MAIN_LENGTHS), strongest=True)
    yield _Stage(_points(wide, MAIN_LENGTHS), strongest=True, stems=trained)
    yield _Stage(_points(plain, MAIN_LENGTHS))
    yield _Stage(_points(plain, setting.lengths), strongest=True)


def _decoding(setting: Setting) -> list[Point]:
    return [
        Point(n, width, DECODE_HEADS, DECODE_BATCH, DECODE_GROUPS, causal=True, mode="decode")
        for width in setting.widths
        for n in setting.lengths
        if n >= 8192 or n == max(setting.lengths)
    ]


def _points(setting: Setting, lengths: Iterable[int]) -> list[Point]:
    return [
        Point(n, width, setting.heads, causal=causal, mode=mode)
        for mode in setting.modes
        if mode != "decode"
        for width in setting.widths
        for causal in setting.causal
        for n in lengths
    ]


def _jobs_at(point: Point, mechanism: Mechanism, setting: Setting, stage: _Stage) -> Iterator[Job]:
    """Yield our own implementation, if there is one, and its peers."""
    if point.mode == "decode":
        own = _decode_job(mechanism, point, setting)
    else:
        own = own_job(mechanism, point, setting)
    if own is None:
        return
    if not stage.slow:
        yield own
    if point.mode == "decode":
        theirs = [peer for peer in peers.DECODING if peer.fits(mechanism)]
    else:
        theirs = peers.of(mechanism, setting.device)
    if point.mode == "backward":
        theirs = [peer for peer in theirs if peer.backward]
    wanted = [
        peer
        for peer in theirs
        if peer.name not in setting.without and stage.slow in (None, peer.slow)
    ]
    if stage.strongest:  # of those that are here, or it is told that it is not
        wanted = sorted(wanted, key=lambda peer: peer.absent)[:1]
    for peer in wanted:
        yield _peer_job(mechanism, peer, point, setting, own)


def own_job(mechanism: Mechanism, point: Point, setting: Setting) -> Job | None:
    """Return the job of our own implementation, or None where there is none for the point."""
    on_gpu = setting.device == "gpu"
    if on_gpu and "kernel" not in mechanism.has:
        return None
    if (point.causal and not mechanism.causal) or (
        point.mode == "backward" and not (on_gpu and "backward" in mechanism.has)
    ):
        return None
    module = mechanism.kernel if on_gpu else mechanism.reference
    values, n = point.values(mechanism), point.n
    sizes = (point.batch, point.heads, n, n, point.width)
    knobs = values | {"causal": point.causal, "dtype_bytes": NUMBER_BYTES[setting.dtype]}
    cost = functools.cache(functools.partial(module.cost, *sizes, **knobs))

    def prepare():
        inputs = inputs_of(point, setting, torch=on_gpu)
        sizes = n, n, point.width, point.width
        if on_gpu:
            keywords = mechanism.tensors(*sizes, inputs[0], **values)
        else:
            keywords = mechanism.keywords(*sizes, inputs[0].dtype, **values)
        keywords["causal"] = point.causal
        return _in_mode(module.attention, inputs, keywords, point.mode)

    backward = point.mode == "backward"

    def needs():
        return (5 if backward else 1) * cost().peak_bytes

    predict = None if backward else cost
    implementation = "Triton" if on_gpu else "NumPy"
    return Job(mechanism.stem, implementation, point, values, prepare, needs, predict)


def _decode_job(mechanism: Mechanism, point: Point, setting: Setting) -> Job | None:
    """One new token against a filled cache: what `step` does, without the writing of the token."""
    if setting.device != "gpu" or not {"kernel", "step"} <= mechanism.has:
        return None
    if mechanism.family != "inference":
        return None
    values = mechanism.values

    def prepare():
        q, k, v = inputs_of(point, setting, torch=True)
        module = mechanism.kernel
        named = inspect.signature(module.start).parameters
        cache = module.start(k, v, **{name: x for name, x in values.items() if name in named})
        cache.append(k, v)
        return functools.partial(_attend, cache), (q,), {}

    cache_bytes = (
        2 * point.batch * point.groups * point.n * point.width * NUMBER_BYTES[setting.dtype]
    )
    return Job(mechanism.stem, "Triton", point, values, prepare, lambda: 2 * cache_bytes, None)


def _attend(cache: Any, q: Any) -> Any:
    return cache.attend(q, causal=True)


def _peer_job(mechanism: Mechanism, peer: Peer, point: Point, setting: Setting, own: Job) -> Job:
    values = point.values(mechanism)

    def prepare():
        if peer.absent:
            raise ModuleNotFoundError(f"{peer.package} is not installed")
        arrays = inputs_of(point, setting, torch=True)
        function, keywords = peer.prepare(mechanism, values, *arrays, point.causal)
        return _in_mode(function, arrays, keywords, point.mode)

    exact = not peer.estimate and point.mode == "forward" and setting.device == "gpu"

    check = own.prepare if exact and point.n <= CHECKED_UP_TO else None
    return Job(
        mechanism.stem,
        peer.name,
        point,
        values,
        prepare,
        lambda: peer.n_squared_bytes * point.n**2,
        None,
        check,
    )


def _in_mode(function: Callable[..., Any], inputs: tuple, keywords: dict, mode: str) -> tuple:
    """Return the call to measure: the function itself, or its backward pass alone."""
    if mode != "backward":
        return function, inputs, keywords
    import torch

    inputs = tuple(tensor.requires_grad_() for tensor in inputs)
    out = function(*inputs, **keywords)
    gradient = torch.randn_like(out)

    def backward(*inputs):
        return torch.autograd.grad(out, inputs, gradient, retain_graph=True)

    return backward, inputs, {}


def inputs_of(point: Point, setting: Setting, torch: bool) -> tuple:
    """Return q, k and v of a point: of NumPy, or of torch where the run takes place."""
    groups = point.groups or point.heads
    n_queries = 1 if point.mode == "decode" else point.n
    if setting.device == "cpu":
        arrays = random_qkv(
            point.n, heads=point.heads, batch=point.batch, width=point.width, dtype=setting.dtype
        )
        if not torch:
            return arrays
        import torch as library

        return tuple(library.from_numpy(array) for array in arrays)
    import torch as library

    generator = library.Generator(CUDA).manual_seed(0)
    sizes = ((point.heads, n_queries), (groups, point.n), (groups, point.n))
    return tuple(
        library.randn(
            point.batch, *size, point.width, generator=generator, device=CUDA,
            dtype=getattr(library, setting.dtype),
        )
        for size in sizes
    )  # fmt: skip
