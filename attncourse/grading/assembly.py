"""Makes the exercises of a chapter from their cells: prompt, answer, hints and spec.

A mistake that is an edit of the solution is the solution's own text with some of it replaced. Its
function, like the solution itself, is made when it is first called: whoever asks for a title or a
hint waits for neither torch nor Triton.
"""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from attncourse.grading.solution import replaced, without_markers
from attncourse.grading.spec import Driven, Exercise, Mistake, SpecError
from attncourse.grading.writing import Edit, Spec

_FACTS = re.compile(r"^\*(\d+) minutes · difficulty (\d) of 3 · (\d+) points?\*$", re.MULTILINE)

Cell = Mapping[str, Any]  # role, exercise (or None), cell_type, source


class Written:
    """A function, or a class, that is given as the text of a cell."""

    texts: _Texts  # of a solution alone: from them its edits are made

    def __init__(self, name: str, text: str, label: str, before: Callable[[], dict]) -> None:
        """Keep the text until it is needed.

        Args:
            name: the function's name in the text.
            text: the cell.
            label: stands for the file in tracebacks; no two texts may share one.
            before: returns the names that earlier cells have defined.
        """
        self.__name__ = name
        self.text, self._label, self._before = text, label, before

    @functools.cached_property
    def __wrapped__(self) -> Callable:
        namespace = dict(self._before())
        execute(self.text, self._label, namespace)
        return namespace[self.__name__]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, or make an object of the class."""
        return self.__wrapped__(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{self.__name__} of {self._label}>"


def execute(text: str, label: str, namespace: dict) -> Any:
    """Run a cell and return the value of its last line, None if that is no expression."""
    linecache.cache[label] = (len(text), None, text.splitlines(keepends=True), label)
    tree = ast.parse(text, label)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, label, "exec"), namespace)
        return None
    del tree.body[-1]
    exec(compile(tree, label, "exec"), namespace)
    return eval(compile(ast.Expression(last.value), label, "eval"), namespace)


def exercises(cells: Iterable[Cell]) -> tuple[Exercise, ...]:
    """Make the exercises of a chapter, in the order of their specs.

    Args:
        cells: those of its source that have a role, in order.

    Raises:
        SpecError: a spec is missing or contradicts the rules.
    """
    cells = list(cells)
    module: dict[str, Any] = {"__name__": "__main__"}
    ids = list(dict.fromkeys(cell["exercise"] for cell in cells if cell["exercise"]))
    for exercise_id in ids:
        own = [cell for cell in cells if cell["exercise"] == exercise_id]
        [answer] = [cell for cell in own if cell["role"] == "answer"]
        name = _function(answer["source"], exercise_id)
        before = [cell for cell in cells if cell["role"] == "setup"] + [
            cell for cell in own if cell["role"] == "prompt" and cell["cell_type"] == "code"
        ]
        module[name] = _Texts(exercise_id, name, answer["source"], before).solution
    made = []
    for number, cell in enumerate(cells):
        if cell["role"] == "spec":
            whose = cell["exercise"] or f"the chapter of {ids[0] if ids else 'no exercise yet'}"
            label = f"<spec {number} of {whose}>"
            value = execute(cell["source"], label, module)
            if cell["exercise"]:
                own = [each for each in cells if each["exercise"] == cell["exercise"]]
                made.append(_exercise(cell["exercise"], own, value, module))
    return tuple(made)


class _Texts:
    """The texts of one exercise's functions: the solution, its edits, other answers."""

    def __init__(self, exercise_id: str, name: str, answer: str, before: list[Cell]) -> None:
        self._id, self._name, self._answer, self._cells = exercise_id, name, answer, before
        self._numbers = itertools.count()
        self.solution = self._written(without_markers(answer))
        self.solution.texts = self

    @functools.cached_property
    def _before(self) -> dict:
        namespace = {"__name__": "__main__"}
        for number, cell in enumerate(self._cells):
            execute(cell["source"], f"<{self._id} before {number}>", namespace)
        return namespace

    def _written(self, text: str) -> Written:
        label = f"<{self._id} {next(self._numbers)}>"
        return Written(self._name, text, label, lambda: self._before)

    def edited(self, *edits: Edit) -> Written:
        """Return the solution with all edits applied, one after the other.

        Raises:
            SpecError: what an edit replaces does not stand in the solution, or no longer, or what
                comes out is no Python.
        """
        text = self._answer
        try:
            for each in edits:
                text = each.text or replaced(text, each.changes)
        except ValueError as error:
            raise SpecError(f"exercise {self._id}: {error}") from None
        text = without_markers(text)
        try:
            ast.parse(text)
        except SyntaxError as error:
            raise SpecError(f"exercise {self._id}: edited, it is no Python: {error}") from None
        return self._written(text)


def _exercise(exercise_id: str, cells: list[Cell], spec: Any, module: dict) -> Exercise:
    if not isinstance(spec, Spec):
        raise SpecError(f"exercise {exercise_id}: the spec cell must end with `Spec(...)`")
    prompt = "\n".join(cell["source"] for cell in cells if cell["role"] == "prompt")
    title = re.search(rf"^## {re.escape(exercise_id)} (.+)$", prompt, re.MULTILINE)
    facts = _FACTS.search(prompt)
    if not title or not facts:
        raise SpecError(
            f"exercise {exercise_id}: its prompt needs `## {exercise_id} Title` and a line like "
            "`*10 minutes · difficulty 1 of 3 · 2 points*`"
        )
    [answer] = [cell for cell in cells if cell["role"] == "answer"]
    name = _function(answer["source"], exercise_id)
    solution = module[name]
    texts = solution.texts
    edits = [each for each in spec.mistakes if isinstance(each, Edit)]
    return Exercise(
        id=exercise_id,
        chapter=exercise_id.partition(".")[0],
        title=title[1],
        function=name,
        minutes=int(facts[1]),
        difficulty=int(facts[2]),
        points=int(facts[3]),
        hints=_hints(cells),
        reference=spec.reference or (Driven(spec.drive, solution) if spec.drive else solution),
        cases=spec.cases if callable(spec.cases) else functools.partial(_cases, spec.cases),
        kind=spec.kind,
        mistakes=tuple(_mistake(each, spec, texts) for each in spec.mistakes),
        alternatives=tuple(
            texts.edited(each) if isinstance(each, Edit) else each
            for each in (*spec.alternatives, *spec.variants)
        ),
        pairs=functools.partial(_pairs, edits, texts),
        memory=spec.memory,
        traffic=spec.traffic,
        least=spec.least,
        timed=spec.timed,
        tolerance=spec.tolerance,
        exponents=spec.exponents,
        seconds=spec.seconds,
        needs=spec.needs or ("triton" if spec.kind == "kernel" else "numpy"),
        may_return_view=spec.may_return_view,
        drive=spec.drive,
        explain=spec.explain,
    )


def _function(answer: str, exercise_id: str) -> str:
    """Return the name of what is asked for, the last function or class that the answer defines."""
    kinds = ast.FunctionDef | ast.ClassDef
    names = [node.name for node in ast.parse(answer).body if isinstance(node, kinds)]
    if not names:
        raise SpecError(f"exercise {exercise_id}: its answer defines no function and no class")
    return names[-1]


def _hints(cells: list[Cell]) -> tuple[str, ...]:
    """Return the points of the numbered list in the hints cell, each on one line."""
    text = "\n".join(cell["source"] for cell in cells if cell["role"] == "hints")
    points = re.split(r"^\d+\.\s+", text, flags=re.MULTILINE)[1:]
    return tuple(" ".join(point.split()) for point in points)


def _cases(entries: Iterable, generator: Any) -> list:
    return [entry(generator) if callable(entry) else entry for entry in entries]


def _mistake(each: Edit | Mistake, spec: Spec, texts: _Texts) -> Mistake:
    if isinstance(each, Mistake):
        return each
    variants = [texts.edited(other) for other in each.also]
    for slip, variant in itertools.product((each, *each.also), spec.variants):
        try:
            variants.append(texts.edited(slip, variant))
        except SpecError:  # the mistake has replaced what this variant would
            continue
    return Mistake(texts.edited(each), each.says, each.next, variants=tuple(variants))


def _pairs(edits: list[Edit], texts: _Texts) -> Iterator[Mistake]:
    """Yield two slips at once, for each pair of edits that leave each other standing."""
    for one, other in itertools.combinations(edits, 2):
        try:
            function = texts.edited(one, other)
        except SpecError:
            continue
        yield Mistake(function, f"two slips at once: {one.says}; and {other.says}", one.next)
