"""Exercises made from their cells: what is read from where, and what edits do."""

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
        ({"answer": "squared = 1"}, "exercise 04.1: its answer defines no function"),
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
