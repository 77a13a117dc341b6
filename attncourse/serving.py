"""Many texts and one model: who is read, who waits and who leaves, step by step, by a stated clock.

Nothing is computed but times. A `Clock` says what a step of the model takes at least on a device,
from what it reads and multiplies; `serve` plays a row of requests through such steps. The same
requests give the same times each time.

Paper:
    Yu et al. 2022, "Orca" (OSDI), for batches that change at each step; Kwon et al. 2023,
    arXiv:2309.06180, for pages, and for texts that are thrown out and read again.
"""

from __future__ import annotations

import ast
import io
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from attncourse.cost import DEVICES, Device
from attncourse.inputs import check_count, check_flag, stream


@dataclass(frozen=True)
class Request:
    """Somebody's text: it comes, is read, and an answer is written.

    Attributes:
        arrival: When it comes, in seconds.
        prompt: Its tokens, at least 1.
        answer: How many tokens will be written, at least 1; nobody knows it before.
    """

    arrival: float
    prompt: int
    answer: int


@dataclass(frozen=True)
class Clock:
    """What a step takes at least: its products and its weights, then the caches of its texts.

        seconds = max(2 N · new / FLOPs per second, N b / bandwidth) + kept · cached / bandwidth

    for `new` tokens and N weights of b bytes. Products of attention are left out: where texts are
    as long as the model is wide, that is a fraction.

    Attributes:
        device: What computes.
        weights: N.
        token_bytes: What the cache keeps of one token, in bytes.
        dtype_bytes: b.
    """

    device: Device = DEVICES["H100 80 GB"]
    weights: int = 12 * 32 * 4096**2
    token_bytes: int = 2 * 32 * 32 * 128 * 2
    dtype_bytes: int = 2

    def seconds(self, new: int, cached: int) -> float:
        """Return the least time of a step that reads `new` tokens, with `cached` ones before it."""
        computing = 2 * self.weights * new / self.device.flops_per_second
        fetching = self.weights * self.dtype_bytes / self.device.bytes_per_second
        return max(computing, fetching) + cached * self.token_bytes / self.device.bytes_per_second

    @property
    def room(self) -> int:
        """Tokens whose cache fits beside the weights."""
        free = self.device.memory_bytes - self.weights * self.dtype_bytes
        return max(0, free) // max(1, self.token_bytes)


@dataclass(frozen=True)
class Span:
    """A text in a slot of the batch.

    Attributes:
        slot: Which place of the batch.
        start: When it was taken in, in seconds.
        done: When its last token was written, or when it was thrown out.
        stop: When its slot was free again: later than `done` where a batch waits for its longest.
        request: Its number.
    """

    slot: int
    start: float
    done: float
    stop: float
    request: int


@dataclass
class Served:
    """What happened.

    Attributes:
        requests: As they came.
        first: When the first token of each answer was written, in seconds.
        last: When the last one was.
        spans: Who was in which slot.
        thrown_out: How often a text lost its pages and was read again later.
        steps: How many steps were taken.
    """

    requests: list[Request]
    first: np.ndarray
    last: np.ndarray
    spans: list[Span] = field(default_factory=list)
    thrown_out: int = 0
    steps: int = 0

    @property
    def tokens_a_second(self) -> float:
        """Tokens of answers over the time from the first arrival to the last token."""
        begun = min(one.arrival for one in self.requests)
        return sum(one.answer for one in self.requests) / (self.last.max() - begun)

    @property
    def waits(self) -> np.ndarray:
        """Seconds from each arrival to the first token of its answer, (requests,)."""
        return self.first - np.array([one.arrival for one in self.requests])


@dataclass(eq=False)
class _Text:
    """A request on its way: how much of its answer is written, and who holds what."""

    number: int
    prompt: int
    answer: int
    written: int = 0
    slot: int = -1
    start: float = 0.0
    done: float = math.nan

    @property
    def length(self) -> int:
        return self.prompt + self.written

    @property
    def is_done(self) -> bool:
        return self.written == self.answer


def serve(
    requests: Iterable[Request],
    *,
    slots: int,
    join: bool = True,
    page: int | None = None,
    longest: int | None = None,
    room: int | None = None,
    clock: Clock | None = None,
) -> Served:
    """Play requests through a model, the first that came first.

    Args:
        requests: In any order.
        slots: Texts of a batch, at most.
        join: Texts join and leave at every step. If False a batch is formed, and the next one only
            when all its answers are written; until then each slot is computed.
        page: Tokens of a page: a text holds as many pages as it needs now. If none is free for its
            next token, the text that was taken in last is thrown out, and read again later.
        longest: Without pages each text reserves room for so many tokens; as many as the longest
            request has if not given.
        room: Tokens that fit in memory; the clock's if not given.
        clock: What a step takes.

    Raises:
        TypeError: Tokens that are no integers.
        ValueError: No requests, slots < 1, a request that never fits, one without tokens, or one
            that never comes.
    """
    where = "serving.serve"
    requests = [_check_request(where, number, one) for number, one in enumerate(requests)]
    slots = check_count(where, "slots", slots, least=1)
    join = check_flag(where, "join", join)
    clock = Clock() if clock is None else clock
    room = clock.room if room is None else check_count(where, "room", room, least=1)
    if not requests:
        raise ValueError(f"{where}: requests must be at least one, got none")
    needs = max(one.prompt + one.answer for one in requests)
    longest = needs if longest is None else check_count(where, "longest", longest, least=1)
    page = None if page is None else check_count(where, "page", page, least=1)

    def held(tokens: int) -> int:
        return longest if page is None else -(-tokens // page) * page

    if page is None and needs > longest:
        raise ValueError(
            f"{where}: longest must be at least {needs}, as the longest request has, got {longest}"
        )
    if held(needs) > room:
        raise ValueError(
            f"{where}: room must be at least {held(needs)}, which the longest request of {needs} "
            f"tokens takes, got {room}"
        )
    return _Engine(requests, slots, join, held, room, clock).run()


class _Engine:
    """The batch, the queue and the time."""

    def __init__(
        self,
        requests: list[Request],
        slots: int,
        join: bool,
        held: Callable[[int], int],
        room: int,
        clock: Clock,
    ) -> None:
        self.join, self.held, self.room, self.clock = join, held, room, clock
        order = sorted(range(len(requests)), key=lambda i: requests[i].arrival)
        self.coming = deque(order)
        self.waiting: deque[_Text] = deque()
        self.batch: list[_Text] = []
        self.slots = list(range(slots))[::-1]
        self.now = requests[order[0]].arrival
        unset = np.full(len(requests), np.nan)
        self.served = Served(requests, unset, unset.copy())

    def run(self) -> Served:
        while self.coming or self.waiting or self.batch:
            if not self.waiting and not self.batch:
                self.now = max(self.now, self.served.requests[self.coming[0]].arrival)
            self._arrive()
            new = self._take_in() if self.join or not self.batch else []
            self._step(new)
        return self.served

    def _arrive(self) -> None:
        requests = self.served.requests
        while self.coming and requests[self.coming[0]].arrival <= self.now:
            number = self.coming.popleft()
            self.waiting.append(_Text(number, requests[number].prompt, requests[number].answer))

    def _needed(self) -> int:
        """Return what the batch will hold once each of its texts has its next token."""
        return sum(self.held(text.length + (not text.is_done)) for text in self.batch)

    def _take_in(self) -> list[_Text]:
        """Let those join for whom there is a slot, and room beside the next tokens of all."""
        new = []
        while self.waiting and self.slots:
            text = self.waiting[0]
            if self._needed() + self.held(text.length + 1) > self.room:
                break
            self.waiting.popleft()
            text.slot, text.start = self.slots.pop(), self.now
            self.batch.append(text)
            new.append(text)
        return new

    def _step(self, new: list[_Text]) -> None:
        """Write a token of each text; those that are new are read first, in the same step."""
        self._make_room()
        new = [text for text in new if text.slot >= 0]
        old = [text for text in self.batch if text not in new]
        tokens = sum(text.length for text in new) + len(old)
        self.now += self.clock.seconds(tokens, sum(text.length for text in old))
        self.served.steps += 1
        for text in self.batch:
            if text.is_done:
                continue  # it only waits for the others of its batch
            text.written += 1
            if text.written == 1:
                self.served.first[text.number] = self.now
            if text.is_done:
                text.done = self.served.last[text.number] = self.now
        leaving = [text for text in self.batch if text.is_done]
        if self.join or len(leaving) == len(self.batch):
            for text in leaving:
                self._leave(text, text.done)

    def _make_room(self) -> None:
        """Throw out the text that came last until all others have room for their next token."""
        while self._needed() > self.room:
            writing = [text for text in self.batch if not text.is_done]
            if len(writing) == 1:  # then those go that only wait for it
                for text in [text for text in self.batch if text.is_done]:
                    self._leave(text, text.done)
                continue
            text = writing[-1]
            self._leave(text, self.now)
            text.slot = -1
            self.waiting.appendleft(text)
            self.served.thrown_out += 1

    def _leave(self, text: _Text, done: float) -> None:
        self.batch.remove(text)
        self.slots.append(text.slot)
        self.served.spans.append(Span(text.slot, text.start, done, self.now, text.number))


def _check_request(where: str, number: int, one: Request) -> Request:
    prompt, answer = (
        check_count(where, f"{name} of request {number}", getattr(one, name), least=1)
        for name in ("prompt", "answer")
    )
    if not math.isfinite(one.arrival):
        raise ValueError(f"{where}: arrival of request {number} must be finite, got {one.arrival}")
    return Request(one.arrival, prompt, answer)


def functions_of(text: str, length: Callable[[str], int]) -> list[tuple[int, int]]:
    """Return a prompt's and an answer's tokens for each function of a Python source.

    The prompt is a function's head with its docstring, the answer the rest of it, as if somebody
    had asked for it. A function on one line has no such parts, and is left out.

    Args:
        text: The source.
        length: Counts the tokens of a piece of it.
    """
    # as the parser counts lines: a form feed ends none
    lines, found = io.StringIO(text, newline=None).readlines(), []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        asked = ast.get_docstring(node, clean=False) is not None and len(node.body) > 1
        first = node.body[int(asked)].lineno - 1
        parts = lines[node.lineno - 1 : first], lines[first : node.end_lineno]
        prompt, answer = (length("".join(part)) for part in parts)
        if prompt and answer:
            found.append((prompt, answer))
    return found


def arrivals(
    lengths: Sequence[tuple[int, int]], n: int, *, rate: float, seed: int = 0
) -> list[Request]:
    """Return n requests that come one by one, at random times, with lengths drawn from some.

    Args:
        lengths: (prompt, answer) to draw from.
        n: How many requests.
        rate: Requests a second, on average.
        seed: Of times and lengths; a faster rate brings the same requests, sooner.

    Raises:
        ValueError: A rate that is not above 0, or no lengths.
    """
    n = check_count("serving.arrivals", "n", n)
    if not rate > 0:
        raise ValueError(f"serving.arrivals: rate must be above 0, got {rate}")
    if not len(lengths):
        raise ValueError("serving.arrivals: lengths must be at least one pair, got none")
    rng = stream("serving", seed)
    times = np.cumsum(rng.exponential(size=n)) / rate
    drawn = rng.integers(0, len(lengths), n)
    return [Request(float(t), *lengths[i]) for t, i in zip(times, drawn, strict=True)]
