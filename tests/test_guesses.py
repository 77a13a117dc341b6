import asyncio
import re
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from attncourse import plots, progress, widgets
from attncourse.grading.calibration import calibration
from attncourse.widgets import guesses

QUESTION = "How many bytes do the scores of 4096 tokens take?"


def asked(answer=4096**2 * 4, **given):
    return widgets.guess(QUESTION, answer, **({"unit": "B"} | given))


@pytest.fixture(autouse=True)
def one_picture_for_all(request, monkeypatch):
    """Drawing takes a tenth of a second; the tests of pictures and `real_picture` draw."""
    if "real_picture" not in request.fixturenames:
        monkeypatch.setattr(plots, "png", lambda figure: b"PNG")


@pytest.fixture
def real_picture():
    """Draw in this test."""


def said(guess):
    """What stands in the element that a screen reader speaks."""
    return re.fullmatch(r'<p role="status".*?>(.*)</p>', guess.twin.value)[1]


def test_the_answer_stands_beside_a_committed_guess(real_picture):
    guess = asked(explain="Four bytes a score.")
    guess.field.value = "4 MiB"
    guess.button.click()
    assert said(guess) == "You said 4 MiB; it is 64 MiB: 16 times as much."
    assert f'alt="{guess.text}"' in guess.image.value
    assert guess.explanation.outputs[0]["data"]["text/plain"] == "Four bytes a score."


def test_nothing_is_computed_or_shown_before_a_commit():
    calls = []
    guess = asked(lambda: calls.append(1) or 2**26, explain=lambda: calls.append(2))
    guess.field.value = "4 MiB"
    guess.slider.value = 2.0**30
    assert not calls and guess.image.value == "" and guess.explanation.outputs == ()
    guess.button.click()
    assert calls == [1, 2]


@pytest.mark.parametrize("unit", ["", "B", "s", "%", "keys", "times", "layers"])
def test_the_slider_says_nothing_of_the_answer(unit):
    low, high = (widgets.guess("How many?", answer, unit=unit) for answer in (1e-3, 1e9))
    assert low.slider.options == high.slider.options and low.slider.value == high.slider.value
    assert repr(low) == repr(high) and low.field.placeholder == high.field.placeholder


def test_slider_and_field_follow_one_another_and_commit_nothing():
    guess = asked()
    guess.slider.value = 2.0**31
    assert guess.field.value == "2 GiB"
    guess.field.value = "2e6"
    assert guess.slider.label == "2 MiB" and guess.field.value == "2e6"
    assert progress.load().guesses == {}


@pytest.mark.parametrize("wrong", ["", "four", "-4", "nan", "inf", "4 s", "1/0"])
def test_what_is_no_guess_is_told_and_not_kept(wrong):
    guess = asked()
    guess.field.value = wrong
    guess.button.click()
    assert said(guess) == "A guess is a number of bytes above 0, such as 4 MiB, 3 GB or 4e6."
    assert progress.load().guesses == {} and guess.image.value == ""


@pytest.mark.parametrize("nothing", ["0", "0.0 MiB", "0 kB"])
def test_who_guesses_0_learns_why_it_cannot_be_one(nothing):
    guess = asked()
    guess.field.value = nothing
    guess.button.click()
    assert said(guess).startswith("A guess is compared by its factor, so it must be above 0")
    assert progress.load().guesses == {}


@pytest.mark.parametrize("far", ["1e30", "1e99", "1e-30"])
def test_what_is_out_of_all_bounds_is_told_them(far):
    guess = asked()
    guess.commit(far)
    assert said(guess) == "A guess must be above 1e-30 and below 1e30."
    assert progress.load().guesses == {}


@pytest.mark.parametrize("bare", ["0.75", "3/4", 0.75])
def test_a_share_that_may_be_meant_as_percent_is_asked_back_for_once(bare):
    guess = asked(75, unit="%")
    guess.commit(bare)
    assert said(guess) == "Do you mean 0.75 % or 75 %? Write the sign."
    assert progress.load().guesses == {}
    guess.commit(bare)
    assert progress.load().guesses == {QUESTION: progress.Guess(0.75, 75)}


@pytest.mark.parametrize("clear", ["0.75 %", "0.75 percent", "1"])
def test_a_percentage_that_is_clear_is_not_asked_back_for(clear):
    asked(75, unit="%").commit(clear)
    assert QUESTION in progress.load().guesses


@pytest.mark.parametrize(("unit", "most"), [("times", 5e3), ("", 5e3), ("layers", 5e4)])
def test_factors_and_few_things_have_a_slider_without_millions(unit, most):
    guess = widgets.guess("How many?", 12, unit=unit)
    assert guess.slider.options[-1][1] == most and "million" not in guess.field.placeholder


def test_nats_have_a_slider_for_the_little_that_a_loss_grows():
    guess = widgets.guess("By how much does the loss grow?", 0.012, unit="nats")
    guess.field.value = "0.012"
    assert guess.slider.value == pytest.approx(0.01) and "million" not in guess.field.placeholder


# Enter: a browser sends it before the text, if that has changed


def press_enter(guess):
    guess.field._handle_custom_msg({"event": "submit"}, [])


def click_commit(guess):
    guess.button.click()


@pytest.mark.parametrize("commit", [press_enter, click_commit])
@pytest.mark.parametrize("text_comes", ["before", "after"])
def test_enter_or_a_click_commits_the_text_that_comes_with_it_once(monkeypatch, text_comes, commit):
    monkeypatch.setattr(guesses, "TEXT_SECONDS", 0.01)
    found = []
    guess = asked(lambda: found.append(guess.field.value) or 2**26)

    async def type_and_enter():
        if text_comes == "before":
            guess.field.value = "4 MiB"
            commit(guess)
            assert not found
        else:
            commit(guess)
            guess.field.value = "4 MiB"
            assert found
        await asyncio.sleep(0.05)

    asyncio.run(type_and_enter())
    assert found == ["4 MiB"]


def test_enter_commits_at_once_where_nothing_else_can_come():
    guess = asked()
    guess.field.value = "4 MiB"
    press_enter(guess)
    assert guess.text.startswith("You said 4 MiB")


# What counts


def test_the_first_guess_counts_and_others_are_welcome():
    guess = asked()
    guess.commit("4 MiB")
    assert guess.button.description == "Try again"
    guess.commit("64 MiB")
    assert guess.text == (
        "You said 64 MiB, and 64 MiB it is. Your first guess, 4 MiB, is the one that counts."
    )
    assert progress.load().guesses == {QUESTION: progress.Guess(2.0**22, 2.0**26)}


def test_a_cell_that_is_run_again_shows_the_former_guess_at_one_click():
    assert asked().former not in asked().children[1].children
    asked().commit("4 MiB")
    again = widgets.guess(f"  {QUESTION.replace(' ', chr(10), 1)} ", 2**26, unit="B")
    assert again.question == QUESTION and again.former in again.children[1].children
    assert "64 MiB" not in said(again) and again.image.value == ""
    again.former.click()
    assert said(again) == "You said 4 MiB; it is 64 MiB: 16 times as much."


def test_a_recorded_guess_changes_nothing_that_is_stored():
    before = asked()._repr_mimebundle_()["text/plain"]
    asked().commit("4 MiB")
    assert before == asked()._repr_mimebundle_()["text/plain"]
    said = f"Guess first: {QUESTION} Run this cell, and a field for your number appears."
    assert before == f"{said} Where none does, type in the next cell: _.commit('4 MiB')"


def test_a_folder_that_cannot_be_written_stops_no_guess(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATTNCOURSE_HOME", str(tmp_path / "file" / "below"))
    guess = asked()
    guess.commit(4e6)
    assert guess.text == "You said 4 MB; it is 67.1 MB: 16.8 times as much."


# Without widgets


def test_a_terminal_gets_the_same_lines(capsys):
    def explain(answer):
        print("4096 rows")
        plots.show(plots.heatmap(np.eye(3)), "A picture.")
        return f"{answer:.0f} bytes in all."

    guess = asked(explain=explain)
    for given in (4e6, "many", np.float32(2**22)):
        guess.commit(given)
    right = "4096 rows\nA picture.\n67108864 bytes in all.\n"
    assert capsys.readouterr().out == (
        f"You said 4 MB; it is 67.1 MB: 16.8 times as much.\n{right}"
        "A guess is a number of bytes above 0, such as 4 MiB, 3 GB or 4e6.\n"
        "You said 4 MiB; it is 64 MiB: 16 times as much. "
        f"Your first guess, 4 MB, is the one that counts.\n{right}"
    )


@pytest.mark.parametrize(
    ("guessed", "answer", "unit", "sentence"),
    [
        (64, 64, "keys", "You said 64 keys, and 64 keys it is."),
        (60, 64, "", "You said 60; it is 64: right within a tenth."),
        (40, 60, "", "You said 40; it is 60: 1.5 times as much, within a factor of two."),
        (0.1, 0.003, "s", "You said 100 ms; it is 3 ms: your guess is 33.3 times as much."),
        (1, 99.9, "times", "You said 1 time; it is 99.9 times: more by a factor of 99.9."),
        (8, 4, "times", "You said 8 times; it is 4 times: less by a factor of 2, within a factor"),
        (3, 34_359_738_368, "FLOPs", "You said 3 FLOPs; it is 34.4 billion FLOPs: 11.5 billion"),
        (40, 20, "%", "You said 40 %; it is 20 %: your guess is 2 times as much, within a factor"),
    ],
)
def test_the_factor_is_put_in_words(guessed, answer, unit, sentence):
    assert guesses.compare(guessed, answer, unit)[0].startswith(sentence)


@pytest.mark.parametrize(
    ("guessed", "answer", "unit"),
    [
        (4e6, 64e6, "B"),
        (60, 64, ""),
        (1e-9, 1e5, "s"),
        (5, 5, "keys"),
        (1e30, 1e-30, ""),
        (1, 9, "%"),
    ],
)
def test_the_picture_has_both_names_and_ticks_between_its_edges(guessed, answer, unit):
    ax = plots.guess(guessed, answer, unit=unit, between="so many times")
    ax.figure.draw_without_rendering()
    low, high = ax.get_xlim()
    ticks = [place for place in ax.get_xticks() if low <= place <= high]
    assert 1 <= len(ticks) <= 8 and low < min(guessed, answer) and max(guessed, answer) < high
    words = [text.get_text() for text in ax.texts]
    assert {"your guess", "answer"} <= {text.partition(":")[0] for text in words}
    assert ("so many times" in words) == (max(guessed, answer) > 6 * min(guessed, answer))
    edge = ax.figure.bbox
    for text in ax.texts:
        assert edge.x0 <= text.get_window_extent().x0 and text.get_window_extent().x1 <= edge.x1


# What authors may give


@pytest.mark.parametrize(
    ("explain", "shown"),
    [
        (None, []),
        (lambda answer: f"{answer}", ["67108864"]),
        (lambda n=3: f"{n}", ["3"]),
        (lambda: plots.heatmap(np.eye(2), title="A title"), ["A title"]),
        (lambda: plots.heatmap(np.eye(2)).get_figure(), ["What explains the answer."]),
        (Figure, ["What explains the answer."]),
        (lambda: widgets.Table([{"a": "b"}], "A table."), ["A table."]),
    ],
)
def test_explanations(explain, shown, capsys):
    asked(explain=explain).commit("64 MiB")
    assert capsys.readouterr().out.splitlines()[1:] == shown


@pytest.mark.parametrize("wrong", [0, -3, np.inf, np.nan, 1.7e308, 5e-324, 10**400])
def test_an_answer_that_is_none_is_refused(wrong):
    message = (
        rf"widgets\.guess: the answer to '{re.escape(QUESTION)}' must be above 1e-30 and below 1e30"
    )
    with pytest.raises(ValueError, match=message):
        asked(wrong)
    guess = asked(lambda: wrong)
    with pytest.raises(ValueError, match=message):
        guess.commit(1)
    assert "The answer cannot be found. ValueError: widgets.guess" in guess.text
    assert progress.load().guesses == {} and not guess.button.disabled


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"question": 3}, TypeError, "question must be a text, got 3"),
        ({"question": " "}, ValueError, "question must ask something"),
        ({"unit": None}, TypeError, "unit must be a text, got None"),
        ({"answer": "64 MiB"}, TypeError, "must be a number, got '64 MiB'"),
        ({"answer": True}, TypeError, "must be a number, got True"),
        ({"answer": lambda x: x}, TypeError, "answer must need no argument"),
        ({"explain": 3}, TypeError, "explain must be a sentence or a function .*, got 3"),
        ({"explain": lambda a, b: a}, TypeError, "explain must be a sentence or a function"),
    ],
)
def test_other_arguments_are_refused(given, error, message):
    arguments = {"question": QUESTION, "answer": 1, "unit": "B", "explain": None} | given
    with pytest.raises(error, match=rf"widgets\.guess: .*{message}"):
        widgets.guess(arguments.pop("question"), arguments.pop("answer"), **arguments)


def test_an_explanation_that_fails_is_told_below_the_answer():
    guess = asked(explain=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        guess.commit("64 MiB")
    told = "64 MiB it is. The explanation cannot be shown. ZeroDivisionError: division by zero"
    assert guess.text.endswith(told)


def test_a_picture_that_cannot_be_drawn_leaves_the_sentence(real_picture):
    guess = asked(unit="$\\frac$")
    guess.image.value = "of an earlier guess"
    with pytest.raises(ValueError):
        guess.commit("4")
    assert guess.text.startswith("You said 4 ") and guess.image.value == ""
    assert "The picture cannot be shown. ValueError" in guess.text


def test_an_answer_that_ends_the_program_is_told():
    guess = asked(sys.exit)
    with pytest.raises(SystemExit):
        guess.commit("4")
    assert guess.text.startswith("The answer cannot be found. SystemExit")


def test_an_answer_that_is_stopped_can_be_asked_for_again(capsys):
    outcomes = [KeyboardInterrupt()]

    def answer():
        if outcomes:
            raise outcomes.pop()
        return 2**26

    guess = asked(answer)
    guess.commit("64 MiB")
    guess.commit("64 MiB")
    assert capsys.readouterr().out == "Stopped.\nYou said 64 MiB, and 64 MiB it is.\n"


# How well one is calibrated


def guessed(*factors):
    return [progress.Guess(7 * factor, 7) for factor in factors]


@pytest.mark.parametrize(
    ("factors", "sentence"),
    [
        ((), ""),
        ((2,), "within a factor of two in 1 of 1 guesses"),
        ((0.5, 2.1), "within a factor of two in 1 of 2 guesses"),
        (
            (1, 2, 0.5, 8, 1 / 8),
            "within a factor of two in 3 of 5 guesses; half of them within a factor of 2",
        ),
        (
            (0.1,) * 5,
            "within a factor of two in 0 of 5 guesses; half of them within a factor of 10; "
            "you tend to guess too low (5 of 5)",
        ),
        (
            (3,) * 9 + (1, 0.4),
            "within a factor of two in 1 of 11 guesses; half of them within a factor of 3; "
            "you tend to guess too high (9 of 11)",
        ),
        (
            (0.95,) * 5,
            "within a factor of two in 5 of 5 guesses; half of them within a factor of 1.1",
        ),
        (
            (123.4, 1 / 123.4, 123.4),
            "within a factor of two in 0 of 3 guesses; half of them within a factor of 120",
        ),
        (
            (1e300, 1e-300, 1e300),
            "within a factor of two in 0 of 3 guesses; half of them within a factor of 1e+300",
        ),
    ],
)
def test_calibration(factors, sentence):
    assert calibration(guessed(*factors)) == sentence
