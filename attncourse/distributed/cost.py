"""What attention over many processes takes: bytes on the wire, pairs, bytes held, and seconds."""

from __future__ import annotations

from dataclasses import dataclass

from attncourse.cost import Cost, Device
from attncourse.distributed.sharding import Layout, runs
from attncourse.inputs import check_count, check_flag

BLOCK = 256  # queries and keys of a tile
ALGORITHMS = ("ring", "all_to_all", "gather")


@dataclass(frozen=True)
class Link:
    """How fast a process sends to another while it receives from a third.

    Attributes:
        name: What connects them.
        bytes_per_second: Of one process, one way.
        source: Where the figure comes from.
        latency: Seconds that a message takes, however short.
    """

    name: str
    bytes_per_second: float
    source: str
    latency: float = 0.0


LINKS = {
    link.name: link
    for link in (
        Link("NVLink 4", 450e9, "NVIDIA H100 datasheet: 900 GB/s, half of it each way"),
        Link("PCIe 5.0 x16", 64e9, "NVIDIA H100 datasheet: 128 GB/s, half of it each way"),
        Link("InfiniBand NDR", 50e9, "NVIDIA ConnectX-7 user manual: 400 Gbit/s a port"),
        Link("10 Gbit Ethernet", 1.25e9, "its name"),
    )
}


@dataclass(frozen=True)
class Step:
    """What one process does between two waits for the others.

    Attributes:
        work: What it computes; `peak_bytes` is of the whole call.
        sent: Bytes that it sends for the step after: meanwhile in a ring, afterwards else.
        messages: To how many processes.
    """

    work: Cost
    sent: int = 0
    messages: int = 0


@dataclass(frozen=True)
class Shares:
    """What one call takes of each process; all tuples are in order of rank.

    Attributes:
        algorithm: "ring", "all_to_all" or "gather".
        pairs: (query, key) pairs of all heads that each computes and no mask hides.
        steps: What each does, step by step.
    """

    algorithm: str
    pairs: tuple[int, ...]
    steps: tuple[tuple[Step, ...], ...]

    @property
    def sent(self) -> tuple[int, ...]:
        """Bytes that each sends."""
        return tuple(sum(step.sent for step in steps) for steps in self.steps)

    @property
    def flops(self) -> tuple[int, ...]:
        """FLOPs of each; whole tiles count where a mask hides a part of them."""
        return tuple(sum(step.work.flops for step in steps) for steps in self.steps)

    @property
    def held(self) -> tuple[int, ...]:
        """The most bytes that each holds at once beyond what it comes with; the result counts."""
        return tuple(max(step.work.peak_bytes for step in steps) for steps in self.steps)

    def seconds(
        self, device: Device, link: Link, *, dtype: str | None = None, overlap: bool = True
    ) -> float:
        """Return the least time until the last process is done.

        In a ring a process begins a step when it is done with the one before and has what its left
        neighbour sent, once both had begun that one. With P equal steps of computing C and sending
        S, that is (P − 1)·max(C, S) + C; without overlap, P·C + (P − 1)·S. The other algorithms
        have no overlap: all wait for the slowest.

        Args:
            device: What each process computes on.
            link: What connects them.
            dtype: The numbers' type on the device; its fastest if not given.
            overlap: False to send only when a step is computed.
        """
        begun = [0.0] * len(self.steps)
        for steps in zip(*self.steps, strict=True):
            done = [
                start + step.work.seconds(device, dtype)
                for start, step in zip(begun, steps, strict=True)
            ]
            sending = [
                step.sent / link.bytes_per_second + step.messages * link.latency for step in steps
            ]
            if self.algorithm != "ring":
                begun = [max(done) + max(sending)] * len(done)
                continue
            free = begun if overlap else done
            begun = [
                max(done[rank], max(free[rank], free[rank - 1]) + sending[rank - 1])
                if steps[rank - 1].sent
                else done[rank]
                for rank in range(len(done))
            ]
        return max(begun)


def cost(
    algorithm: str,
    n: int,
    size: int,
    *,
    batch: int = 1,
    heads: int = 1,
    kv_heads: int | None = None,
    width: int = 64,
    value_width: int | None = None,
    causal: bool = False,
    layout: Layout = "zigzag",
    dtype_bytes: int = 4,
    backward: bool = False,
) -> Shares:
    """Count what attention of n tokens to themselves takes of each of P processes.

    With a block of B·Hkv·(n/P)·(D + Dv) numbers of keys and values, a process sends

        ring          (P − 1) blocks, and backward twice as many: keys and values again, dk and dv
        gather        (P − 1) blocks, and backward as many, dk and dv: and holds all keys
        all_to_all    (P − 1)/P of its q, k, v and out, and backward as much of their gradients

    Gradients of numbers shorter than 4 bytes go round the ring with 4. FLOPs, traffic and
    `peak_bytes` follow `attncourse.cost`, in tiles of 256 × 256 (`BLOCK`).

    Args:
        algorithm: "ring" or "all_to_all", as in this package, or "gather": every process asks all
            others for their keys and values first.
        n: Tokens.
        size: P, processes.
        batch: B.
        heads: H.
        kv_heads: Hkv, heads of keys and values; H if not given.
        width: D.
        value_width: Dv; D if not given.
        causal: Whether a query sees only keys up to its own.
        layout: "zigzag" or "contiguous".
        dtype_bytes: Bytes of a number.
        backward: Count the backward pass, alone, instead.

    Raises:
        TypeError: A number that is no integer.
        ValueError: Another algorithm or layout, a number below 1 (n: 0), heads that are no multiple
            of kv_heads or, for "all_to_all", kv_heads that are none of P.
    """
    where = "distributed.cost"
    if algorithm not in ALGORITHMS:
        known = ", ".join(map(repr, ALGORITHMS))
        raise ValueError(f"{where}: algorithm must be one of {known}, got {algorithm!r}")
    kv_heads = heads if kv_heads is None else kv_heads
    value_width = width if value_width is None else value_width
    sizes = {
        "size": size, "batch": batch, "heads": heads, "kv_heads": kv_heads, "width": width,
        "value_width": value_width, "dtype_bytes": dtype_bytes,
    }  # fmt: skip
    size, batch, heads, kv_heads, width, value_width, dtype_bytes = (
        check_count(where, name, value, least=1) for name, value in sizes.items()
    )
    if heads % kv_heads:
        raise ValueError(
            f"{where}: heads must be a multiple of kv_heads, got {heads} and {kv_heads}"
        )
    if algorithm == "all_to_all" and kv_heads % size:
        raise ValueError(
            f"{where}: size must divide the heads for 'all_to_all', got {kv_heads} heads of keys "
            f"and {size} processes"
        )
    held = [runs(n, rank, size, layout) for rank in range(size)]
    call = _Call(
        held, batch, heads, kv_heads, width, value_width, dtype_bytes,
        check_flag(where, "causal", causal), check_flag(where, "backward", backward),
    )  # fmt: skip
    steps = getattr(call, algorithm)()
    share = size if algorithm == "all_to_all" else 1
    whole = [range(n)]
    pairs = [heads // share * _visible(whole if share > 1 else own, whole, causal) for own in held]
    return Shares(algorithm, tuple(pairs), tuple(map(tuple, steps)))


@dataclass(frozen=True)
class _Call:
    held: list[list[range]]  # of each rank
    batch: int
    heads: int
    kv_heads: int
    width: int
    value_width: int
    dtype_bytes: int
    causal: bool
    backward: bool

    @property
    def size(self) -> int:
        return len(self.held)

    @property
    def work_bytes(self) -> int:
        return max(4, self.dtype_bytes)

    def block(self, rank: int, gradients: bool = False) -> int:
        """Return the bytes of a process's keys and values, or of dk and dv."""
        numbers = self.batch * self.kv_heads * _count(self.held[rank % self.size])
        each = self.work_bytes if gradients else self.dtype_bytes
        return numbers * (self.width + self.value_width) * each

    def ring(self) -> list[list[Step]]:
        return [self._ring(rank) for rank in range(self.size)]

    def _ring(self, rank: int) -> list[Step]:
        last, peak = self.size - 1, self._ring_peak(rank)
        steps = []
        for step in range(self.size):
            keys = self.held[(rank - step) % self.size]
            work = self._work(self.heads, self.held[rank], keys, peak)
            parcels = [self.block(rank - step)] if step < last else []
            if self.backward and step >= 2:  # dk and dv of the step before
                parcels.append(self.block(rank - step + 1, gradients=True))
            steps.append(_step(work, parcels))
        if self.backward and last:
            home = self.block(rank + 1, gradients=True)
            steps.append(_step(Cost(0, 0, 0, peak), [home]))
        return steps

    def gather(self) -> list[list[Step]]:
        everything = [run for runs in self.held for run in runs]
        whole = sum(self.block(rank) for rank in range(self.size))
        grads = sum(self.block(rank, gradients=True) for rank in range(self.size))
        steps = []
        for rank, own in enumerate(self.held):
            peak = whole + self._result(self.heads, own) + self._tile(self.heads, own)
            if self.backward:
                peak += grads - whole + self.block(rank, gradients=True)
            work = self._work(self.heads, own, everything, peak)
            if self.backward:
                others = [self.block(r, gradients=True) for r in range(self.size) if r != rank]
                steps.append([_step(work, others)])
            else:
                asked = [self.block(rank)] * (self.size - 1)
                steps.append([_step(Cost(0, 0, 0, peak), asked), _step(work, [])])
        return steps

    def all_to_all(self) -> list[list[Step]]:
        n = sum(map(_count, self.held))
        whole, heads = [range(n)], self.heads // self.size
        steps = []
        peak = self._swapped_peak(n)
        for own in self.held:
            come = self._swapped(own, self.width, self.heads)
            come += self._swapped(own, self.width + self.value_width, self.kv_heads)
            back = self.batch * heads * self.value_width * (n - _count(own)) * self.dtype_bytes
            if self.backward:  # the gradients of q, k and v go home, that of out comes
                come = self._swapped(own, self.value_width, self.heads)
                numbers = heads * self.width
                numbers += self.kv_heads // self.size * (self.width + self.value_width)
                back = self.batch * numbers * (n - _count(own)) * self.dtype_bytes
            calls = (1, 3) if self.backward else (3, 1)
            others = self.size - 1 if _count(own) else 0  # nothing is no message
            homes = sum(1 for held in self.held if held is not own and _count(held))
            steps.append([
                Step(Cost(0, 0, 0, peak), come, calls[0] * others),
                Step(self._work(heads, whole, whole, peak), back, calls[1] * homes),
            ])  # fmt: skip
        return steps

    def _swapped(self, own: list[range], width: int, heads: int) -> int:
        """Return the bytes that leave when a process gives its tokens of other heads away."""
        others = heads - heads // self.size
        return self.batch * others * _count(own) * width * self.dtype_bytes

    def _work(self, heads: int, queries: list[range], keys: list[range], peak: int) -> Cost:
        """Return what attention of some queries to a block of keys takes."""
        pairs = loaded = 0
        for at in queries:
            for of in keys:
                found = _tiled(at, of, self.causal)
                pairs, loaded = pairs + found[0], loaded + found[1]
        width, value_width = self.width, self.value_width
        kv_heads = self.kv_heads * heads // self.heads
        rows = _count(queries) if pairs else 0
        products = 6 * width + 4 * value_width if self.backward else 2 * width + 2 * value_width
        keys_read = self.batch * kv_heads * loaded * (width + value_width)
        queries_read = self.batch * heads * rows * (width + value_width + 1)
        written = self.batch * heads * rows * (value_width + 1)
        if self.backward:
            queries_read += self.batch * heads * rows * (width + 1)  # dq and delta
            written = self.batch * heads * rows * width + keys_read
            keys_read *= 2  # dk and dv with them
        return Cost(
            flops=self.batch * heads * pairs * products,
            bytes_read=keys_read * self.dtype_bytes + queries_read * self.work_bytes,
            bytes_written=written * self.work_bytes,
            peak_bytes=peak,
        )

    def _ring_peak(self, rank: int) -> int:
        own = self.held[rank]
        travelling = min(2, self.size - 1) * self.block(0)
        peak = travelling + self._result(self.heads, own) + self._tile(self.heads, own)
        if self.backward:  # home, and of three blocks: just made, leaving, coming
            peak += self.block(rank, gradients=True)
            peak += min(3, 2 * (self.size - 1)) * self.block(0, gradients=True)
        return peak

    def _swapped_peak(self, n: int) -> int:
        heads, whole = self.heads // self.size, [range(n)]
        kv_heads = self.kv_heads // self.size
        queries = self.batch * n * heads * self.width
        keys, values = (self.batch * n * kv_heads * x for x in (self.width, self.value_width))
        out = self.batch * n * heads * self.value_width
        attending = self._result(heads, whole) + self._tile(heads, whole)
        if self.backward:  # q, k and v were there already, the gradient of out was not
            attending += (keys + values) * self.work_bytes + out * self.dtype_bytes
            swapping = queries + keys + values + 2 * queries
        else:
            attending += (queries + keys + values) * self.dtype_bytes
            swapping = max(queries + keys + 3 * values, 4 * out)
        return max(attending, swapping * self.dtype_bytes)

    def _result(self, heads: int, queries: list[range]) -> int:
        """Return the bytes of out and lse, or of dq and delta, and of the first when it is cast."""
        width = self.width if self.backward else self.value_width
        cast = self.dtype_bytes if self.dtype_bytes != self.work_bytes else 0
        each = (width + 1) * self.work_bytes + width * cast
        return self.batch * heads * _count(queries) * each

    def _tile(self, heads: int, queries: list[range]) -> int:
        """Return the bytes of a tile of scores, and of what is as long as its sides."""
        side = min(BLOCK, max(map(len, queries)))
        numbers = side * side + side * (2 * self.width + self.value_width + 6)
        if self.backward:
            numbers = 2 * side * side + side * (4 * self.width + 2 * self.value_width + 4)
        if self.dtype_bytes != self.work_bytes:  # keys and values, cast
            numbers += side * (self.width + self.value_width)
        mask = side * side + 16 * side if self.causal else 0
        return self.batch * heads * numbers * self.work_bytes + mask


def _step(work: Cost, parcels: list[int]) -> Step:
    return Step(work, sum(parcels), sum(2 for parcel in parcels if parcel))  # keys, values


def _count(held: list[range]) -> int:
    return sum(map(len, held))


def _visible(queries: list[range], keys: list[range], causal: bool) -> int:
    """Count the pairs that no mask hides."""
    if not causal:
        return _count(queries) * _count(keys)
    return sum(_sum_of(at, of) for at in queries for of in keys)


def _sum_of(at: range, of: range) -> int:
    """Count the keys of a run up to each query of a run, added up."""
    whole = max(0, at.stop - max(at.start, of.stop))  # queries behind all of them
    first = max(at.start, of.start)
    some = max(0, min(at.stop, of.stop) - first)
    seen = first - of.start + 1
    return whole * len(of) + some * seen + some * (some - 1) // 2


def _tiled(at: range, of: range, causal: bool) -> tuple[int, int]:
    """Return the pairs of the tiles that are computed, and the keys that are loaded for them."""
    if not at or not of or (causal and of.start > at[-1]):
        return 0, 0
    if not causal or of[-1] < at.start:
        return len(at) * len(of), -(-len(at) // BLOCK) * len(of)
    pairs = loaded = 0
    for start in range(at.start, at.stop, BLOCK):
        stop = min(start + BLOCK, at.stop)
        tiles = max(0, -(-(stop - of.start) // BLOCK))
        seen = min(tiles * BLOCK, len(of))
        pairs, loaded = pairs + (stop - start) * seen, loaded + seen
    return pairs, loaded
