"""Exercises made from their cells: what is read from where, and what edits do."""

import linecache

import numpy as np
import pytest

from attncourse.grading.assembly import exercises
from attncourse.grading.judging import judge
from attncourse.grading.solution import replaced
from attncourse.grading.spec import SpecError

PROMPT = """\
## 04.1 Squares

*10 minutes · difficulty 2 of 3 · 3 points*
"""
ANSWER = """\
def helper(n):
    return n * n

def squared(n, block=4):
    # BEGIN SOLUTION
    total = 0
    for start in range(0, n, block):
        total += n * min(block, n - start)
    return total
    # END SOLUTION
"""
HINTS = """\
1. Think of
   a square.
2. Multiply.
3. n * n
"""
SPEC = """\
from attncourse.grading.writing import Spec, case, draws, edit, Mistake

Spec(
    kind="number",
    cases=[case("1", 1), case("7", 7), *draws(3, lambda rng: rng.integers(8, 30, 1))],
    mistakes=[
        edit("n * min", "min", says="your number is n", next="multiply"),
        edit("return total", "return total + 1", says="yours is one too large", next="no + 1"),
        Mistake(lambda n: n**3, says="your number is n³", next="two factors"),
    ],
    alternatives=[lambda n: n * n, edit("total = 0", "total = -n", "return ", "return n + ")],
    variants=[edit("total = 0", "total, block = 0, 3")],
)
"""


def cells(**changed):
    texts = {"prompt": PROMPT, "answer": ANSWER, "hints": HINTS, "spec": SPEC} | changed
    setup = {"role": "setup", "exercise": None, "cell_type": "code", "source": "import numpy as np"}
    return [setup] + [
        {
            "role": role,
            "exercise": "04.1",
            "cell_type": "markdown" if role in ("prompt", "hints") else "code",
            "source": source,
        }
        for role, source in texts.items()
    ]


def made(**changed):
    [exercise] = exercises(cells(**changed))
    return exercise


def test_everything_is_read_from_where_it_stands():
    each = made()
    assert (each.id, each.chapter, each.title) == ("04.1", "04", "Squares")
    assert (each.minutes, each.difficulty, each.points) == (10, 2, 3)
    assert each.function == "squared"  # the last function of the answer
    assert each.hints == ("Think of a square.", "Multiply.", "n * n")
    assert each.reference(5) == 25  # the solution itself


def test_each_chapter_keeps_its_own_text_for_tracebacks():
    """What a spec cell of no exercise defines may raise too, and its line is shown."""
    for chapter, shared in (("04", "import math"), ("05", "import numpy")):
        spec = {"role": "spec", "exercise": None, "cell_type": "code", "source": shared}
        own = [cell | {"exercise": cell["exercise"] and f"{chapter}.1"} for cell in cells()]
        own = [cell | {"source": cell["source"].replace("04.1", f"{chapter}.1")} for cell in own]
        exercises([own[0], spec, *own[1:]])
    lines = ["".join(entry[2]) for name, entry in linecache.cache.items() if "<spec 1 of" in name]
    assert "import math" in lines and "import numpy" in lines


def test_right_answers_pass_and_mistakes_are_named():
    each = made()
    for right in (each.reference, *each.alternatives):
        assert judge(each, right, seed=0).status == "passed"
    assert len(each.alternatives) == 3  # a variant is a right answer too
    for mistake in each.mistakes:
        for function in (mistake.function, *mistake.variants):
            verdict = judge(each, function, seed=0)
            assert verdict.status == "failed"
            assert mistake.says in str(verdict)


def test_a_mistake_is_known_with_other_tiles_too():
    assert [len(mistake.variants) for mistake in made().mistakes] == [1, 1, 0]


def test_pairs_of_slips_come_free():
    [pair] = made().pairs()
    assert pair.function(5) == 6
    assert pair.says.startswith("two slips at once: your number is n; and yours is one")


def test_a_pair_that_is_no_python_is_no_pair():
    brackets = 'edit("return ", "return (", "total\\n", "total)\\n", says="none", next="none"),'
    remark = 'edit("return total", "return n  # total", says="yours is n", next="return total"),'
    alone = SPEC.replace("mistakes=[", f"mistakes=[{brackets}")
    assert len(list(made(spec=alone).pairs())) == 2
    both = alone.replace("mistakes=[", f"mistakes=[{remark}")
    assert not [pair for pair in made(spec=both).pairs() if "yours is n; and none" in pair.says]


def test_edits_change_the_solution_alone():
    text = replaced(ANSWER, [("n * min", "min")])
    assert text.count("n * n") == 1 and "n * min" not in text
    with pytest.raises(ValueError, match="'n \\* n' does not stand in the solution"):
        replaced(ANSWER, [("n * n", "n + n")])


def test_functions_are_made_when_they_are_called():
    each = made(answer="import no_such_module\n" + ANSWER)
    assert each.title == "Squares"
    with pytest.raises(ModuleNotFoundError):
        each.reference(3)


def test_a_spec_knows_answers_by_name():
    spec = SPEC.replace("lambda n: n**3", "lambda n: squared(n) * n")
    assert made(spec=spec).mistakes[2].function(3) == 27


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"prompt": "## 04.1 Squares"}, "exercise 04.1: its prompt needs"),
        ({"prompt": PROMPT.replace("04.1", "04.2")}, "exercise 04.1: its prompt needs"),
        ({"answer": "squared = 1"}, "exercise 04.1: its answer defines no function and no class"),
        ({"spec": "1"}, "exercise 04.1: the spec cell must end with `Spec"),
        ({"spec": SPEC.replace('"n * min"', '"m * min"')}, "'m \\* min' does not stand in"),
        ({"spec": SPEC.replace('"return total", ', "")}, "pairs of old and new text, got 1"),
        ({"spec": SPEC.replace('"return total + 1"', '"return ("')}, "edited, it is no Python"),
        ({"spec": SPEC.replace('"number"', '"numbers"')}, "kind must be one of"),
    ],
)
def test_a_broken_exercise_is_named(changed, says):
    with pytest.raises(SpecError, match=says):
        made(**changed)


def test_a_draft_says_what_it_lacks():
    assert made(hints="1. One.").lacks() == [
        "exercise 04.1: three hints are needed, got 1",
        "exercise 04.1: at least 5 mistakes are needed, got 3",
        "exercise 04.1: at least 7 cases are needed, got 5",
    ]


def test_drawn_arguments_are_python_numbers():
    cases = made().cases(np.random.default_rng(0))
    assert all(type(case.args[0]) is int for case in cases)
    assert len({case.name for case in cases}) == len(cases)


# Classes

STACK = """\
class Stack:
    \"\"\"Numbers, of which the last is taken first.\"\"\"

    def __init__(self, room):
        # BEGIN SOLUTION
        self.room, self.held = room, []
        # END SOLUTION

    def push(self, number):
        # BEGIN SOLUTION
        self.held.append(number)
        # END SOLUTION

    def pop(self):
        # BEGIN SOLUTION
        return self.held.pop()
        # END SOLUTION
"""
STACK_SPEC = """\
from attncourse.grading.spec import Case, Memory
from attncourse.grading.writing import Spec, case, draws, edit

def drive(answer, room, numbers):
    stack = answer(room)
    for number in numbers:
        stack.push(number)
    return {f"pop {i}": stack.pop() for i, _ in enumerate(numbers)}

def reference(room, numbers):
    return {f"pop {i}": number for i, number in enumerate(numbers[::-1])}

Spec(
    kind="class",
    drive=drive,
    reference=reference,
    cases=[case("one number", 1, [4]), case("three numbers", 3, [4, 5, 6])],
    mistakes=[edit("pop()", "pop(0)", says="your first number comes first", next="take the last")],
    alternatives=[edit("append(number)", "extend([number])")],
    memory=Memory(lambda rng: case("many", 10, list(range(10))), 2**20, "next to nothing"),
)
"""


def stack(old="", new="", spec=STACK_SPEC):
    text = STACK.replace(old, new) if old else STACK
    namespace = {"__name__": "__main__"}
    linecache.cache["<stack>"] = (len(text), None, text.splitlines(keepends=True), "<stack>")
    exec(compile(text, "<stack>", "exec"), namespace)
    return judge(made(answer=STACK, spec=spec), namespace["Stack"], seed=0)


def test_an_answer_may_be_a_class():
    each = made(answer=STACK, spec=STACK_SPEC)
    assert each.function == "Stack"
    assert stack().status == "passed"
    assert judge(each, *each.alternatives, seed=0).status == "passed"
    verdict = judge(each, each.mistakes[0].function, seed=0)
    assert verdict.reason == "pop 0: wrong value"
    assert (verdict.case, verdict.where) == ("three numbers", "expected 6, yours 4")
    assert verdict.cause == "your first number comes first"
    assert judge(each, [], seed=0).reason == "`Stack` is a list, not a class"


def test_without_a_reference_a_class_is_its_own():
    alone = STACK_SPEC.replace("    reference=reference,\n", "")
    assert stack(spec=alone).status == "passed"
    assert stack("pop()", "pop(0)", spec=alone).status == "failed"


def test_an_error_in_a_class_is_told_with_its_line_and_method():
    verdict = stack("self.held.append", "self.list.append")
    assert verdict.reason.startswith(
        "raised AttributeError: 'Stack' object has no attribute 'list'"
    )
    assert verdict.where == "line 3 of `push`: self.list.append(number)"
    verdict = stack("def pop(", "def take(")
    assert verdict.reason == "raised AttributeError: 'Stack' object has no attribute 'pop'"
    assert verdict.cause == "it cannot be used as the exercise says"
    waits = "        if stack.push(number):\n            raise RuntimeError('the others wait')"
    waiting = STACK_SPEC.replace("        stack.push(number)", waits)
    verdict = stack("self.held.append(number)", "return self", spec=waiting)
    assert verdict.reason == "raised RuntimeError: the others wait"
    assert verdict.cause == ""
    assert verdict.hint == "compare what it calls, and what it returns, with what the exercise says"


def test_the_memory_of_a_class_is_metered_and_found():
    verdict = stack("room, []", "room, [bytearray(2**22)]; self.held = []")
    assert verdict.reason.startswith("peak 4.0 MiB at many, allowed 1.0 MiB")
    assert verdict.where.startswith("line 3 of `__init__`")


def test_an_untouched_method_is_not_attempted():
    assert stack("self.room, self.held = room, []", "raise NotImplementedError").status == (
        "not_attempted"
    )
    assert stack("self.held.append(number)", "raise NotImplementedError").status == "not_attempted"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("    drive=drive,\n", "", "a class needs `drive`"),
        ('"class"', '"kernel"', "a kernel is called, not driven"),
    ],
)
def test_a_class_needs_a_drive_and_a_kernel_takes_none(old, new, complaint):
    with pytest.raises(SpecError, match=complaint):
        made(answer=STACK, spec=STACK_SPEC.replace(old, new))


EVEN_SPEC = """\
from attncourse.grading.writing import Spec, case, edit

def drive(answer, low):
    found = answer(low)
    return {"parity": "even" if found % 2 == 0 else f"{found} is odd", "above": found > low}

Spec(
    kind="number",
    drive=drive,
    reference=lambda low: {"parity": "even", "above": True},
    cases=[case("above 1", 1), case("above 4", 4)],
    mistakes=[edit("2 * low + 2", "2 * low + 1", says="yours is odd", next="add 1")],
)
"""


def test_an_answer_that_is_one_of_many_right_ones_is_driven():
    answer = "def even(low):\n    # BEGIN SOLUTION\n    return 2 * low + 2\n    # END SOLUTION\n"
    each = made(answer=answer, spec=EVEN_SPEC)
    for right in (lambda low: 2 * low + 2, lambda low: low + 1 + (low + 1) % 2):
        assert judge(each, right, seed=0).status == "passed"
    verdict = judge(each, lambda low: 2 * low + 1, seed=0)
    assert verdict.reason == "parity: wrong value"
    assert (verdict.case, verdict.where) == ("above 1", "expected 'even', yours '3 is odd'")
    assert verdict.cause == "yours is odd"
    verdict = judge(each, lambda: 2, seed=0)
    assert verdict.hint == "compare its parameters with those of the exercise"
