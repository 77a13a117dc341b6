import csv
import hashlib
import importlib.resources
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from attncourse import claims
from attncourse.claims import ledger
from attncourse.claims.card import Card
from attncourse.claims.verdicts import MAY_LACK, agrees, complaint

ROOT = Path(__file__).parents[1]


def test_the_ledger_holds_every_row_of_the_file():
    path = importlib.resources.files("attncourse") / "data" / "claims.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"C{n:03}" for n in range(1, len(rows) + 1)]
    assert list(claims.LEDGER) == [row["id"] for row in rows]
    for row in rows:
        claim = claims.get(row["id"])
        assert (claim.claim, claim.topic, claim.verdict) == (
            row["claim"],
            row["topic"],
            row["verdict"],
        )


def test_every_verdict_is_explained():
    assert {claim.verdict for claim in claims.LEDGER.values()} == set(claims.VERDICTS)


def test_all_formulas_give_a_number():
    with_formula = [claim for claim in claims.LEDGER.values() if claim.formula]
    assert len(with_formula) > 300
    for claim in with_formula:
        assert math.isfinite(claims.recompute(claim.id)), claim


def test_powers_of_two_and_of_ten_have_their_own_units():
    for claim in claims.LEDGER.values():
        power = re.search(r"/(?:1024|2\*\*[1234]0|1e[369])$", claim.formula)
        unit = re.match(r"[KMGT]i?B\b", claim.unit)
        if power and unit:
            assert ("e" not in power[0]) == ("i" in unit[0]), claim


@pytest.mark.parametrize("page", ["CHANGELOG.md", "notebooks/_source/17_audit.py"])
def test_pages_say_how_many_claims_there_are(page):
    text = (ROOT / page).read_text(encoding="utf-8").replace("\n# ", " ")
    counts = re.findall(r"(\d{3,}) (?:printed |published )?(?:statements|claims)", text)
    assert set(counts) == {str(len(claims.LEDGER))}


def test_a_claim_names_its_texts_and_parameters():
    claim = claims.get("C476")
    assert claim.texts == ("chapter E", "chapter V")
    assert claim.parameters == {"w": 256}
    assert isinstance(claim.parameters["w"], int)
    assert claims.get("C145").parameters["peak"] == 312e12
    assert claims.get("C002").texts == ("survey",)
    assert claims.get("C030").texts == ("notes",)


def test_no_note_speaks_of_files_or_lines_at_its_start():
    for claim in claims.LEDGER.values():
        assert not claim.note.startswith("[line")
        assert " 002 " not in f" {claim.note} " and " 003 " not in f" {claim.note} "


def test_notes_keep_their_numbers():
    assert "0.002" in ledger._note("[line 3] error 0.002 in 002, line 4")
    assert ledger._note("[line 3] error 0.002 in 002") == "error 0.002 in chapter E"


def test_unknown_ids_are_refused():
    with pytest.raises(KeyError, match="C001 to C483, got 'C999'"):
        claims.get("C999")


def test_find_by_topic_chapter_and_verdict():
    wrong = claims.find(topic="exercise 1", verdict="wrong")
    assert [claim.id for claim in wrong] == ["C375", "C376", "C381", "C408"]
    assert claims.find() == list(claims.LEDGER.values())
    assert claims.find(chapter="12", verdict="unverifiable") == []


def test_find_by_text_and_words_in_any_order_and_case():
    assert claims.find(verdict="", text="", topic="", words="") == claims.find()
    assert [claim.id for claim in claims.find(words="c057")] == ["C057"]
    assert claims.find(words="sliding window") == claims.find(words="Window SLIDING") != []
    assert all("survey" in claim.texts for claim in claims.find(text="survey"))
    with pytest.raises(ValueError, match=r"claims\.find: text must be one of .*, got 'chapter X'"):
        claims.find(text="chapter X")


def test_find_refuses_words_that_no_claim_has():
    with pytest.raises(ValueError, match=r"claims\.find: verdict must be one of .*'holds'"):
        claims.find(verdict="true")
    with pytest.raises(ValueError, match=r"claims\.find: chapter must be one of .*, got '4'"):
        claims.find(chapter="4")


def test_every_claim_has_one_chapter_of_the_syllabus():
    chapters = Counter(claim.chapter for claim in claims.LEDGER.values())
    assert set(chapters) <= {f"{number:02}" for number in range(17)}


def test_chapter_04_has_the_claims_about_windows():
    ids = {claim.id for claim in claims.find(chapter="04")}
    assert ids >= {"C057", "C216", "C406", "C408", "C476", *(f"C{n}" for n in range(375, 382))}
    assert ids >= {claim.id for claim in claims.find(topic="local attention")}


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("2*(w//2)+1", 257),
        ("ceil((n-1)/w)", 4),
        ("-n**2 % 7", -(1000**2) % 7),
        ("sqrt(n*n) + log2(w) + abs(-1) + floor(1.5)", 1000 + 8 + 1 + 1),
    ],
)
def test_formulas(formula, value):
    assert claims.evaluate(formula, {"n": 1000, "w": 256}) == value


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os').getcwd()",
        "n.bit_length()",
        "open('x')",
        "[n]",
        "n if n else w",
        "sqrt(n, 2)",
        "True",
        "'a' * 3",
        "(lambda: n)()",
        "missing",
        "settings",
    ],
)
def test_anything_but_arithmetic_is_refused(formula):
    with pytest.raises(ValueError, match=r"claims\.evaluate"):
        claims.evaluate(formula, {"n": 1000, "settings": "many"})


def test_a_claim_without_formula_cannot_be_recomputed():
    with pytest.raises(ValueError, match="C013 has no formula; its kind is"):
        claims.recompute("C013")


def test_check_shows_printed_found_setting_verdict_and_why(capsys):
    claims.check("C310")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "C310 · chapter E · memory analysis"
    assert [line[2:10].strip() for line in lines[1:] if line[2] != " "] == [
        *("claim", "printed", "found", "with", "verdict", "against", "why")
    ]
    assert lines[2:5] == [
        "  printed  16.8 MB",
        "  found    16.7772 MB",
        "  with     n = 4,096, w = 512",
    ]
    assert "C398" in claims.get("C310").against
    assert "  against  C398, chapter E: window scores 8.4 MB" in lines


def test_check_takes_what_the_cell_found_and_its_reason(capsys):
    claims.check("C377", 246656, why="Rows at both ends are shorter.")
    text = capsys.readouterr().out
    assert "found    246,656 floats\n" in text and "  with  " not in text
    assert text.endswith("why      Rows at both ends are shorter.\n")
    claims.check("C170", "5.1x on this machine")
    assert "found    5.1x on this machine\n" in capsys.readouterr().out


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_check_shows_what_is_no_finite_number(value, capsys):
    claims.check("C377", value)
    assert f"  found    {value}" in capsys.readouterr().out


def test_a_record_without_a_length_of_both_is_no_speedup(monkeypatch):
    from attncourse.claims.finders import flash

    setting = {"settings": {"heads": 16, "width": 64, "dtype": "float16"}}
    times = [("full", 512), ("flash", 1024)]
    rows = [
        {"mechanism": stem, "implementation": "Triton", "n": n, "seconds": {"median": 1.0}}
        for stem, n in times
    ]
    record = {**setting, "machine": {"gpu": "a GPU"}, "date": "2026-01-01", "measurements": rows}
    monkeypatch.setattr(flash.bench, "latest", lambda *_, **__: record)
    result = flash._speedup(claims.get("C052"))
    assert result.value and result.agrees is None


def test_check_says_so_when_nothing_can_be_computed(capsys):
    claims.check("C063")
    assert "found    nothing: the texts give no setting" in capsys.readouterr().out


def test_every_claim_can_be_shown(capsys):
    for id in claims.LEDGER:
        claims.check(id)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) >= 4 and max(map(len, lines)) <= 100, id


def test_the_html_form_says_the_verdict_in_words_and_escapes_the_claim():
    claim = claims.get("C338")
    assert "<" in claim.claim
    page = Card(claim, "<b>", "", "why & how")._repr_html_()
    assert "unverifiable" in page and "&lt;b&gt;" in page and "why &amp; how" in page
    assert "< 1" not in page


# Verdicts


@pytest.fixture(scope="module", autouse=True)
def found():
    """What the tests of this file look at is found once."""
    for id in claims.LEDGER:
        claims.found(id)


def of(claim):
    """Say what a verdict has against it."""
    result = claims.found(claim.id)
    # a number is compared anew, with the printed value that the claim has now
    says = result.agrees if result else None
    if result and not isinstance(result.value, str):
        now = agrees(claim.printed, result.value)
        says = says if now is None else now
    return complaint(claim, result is not None, says)


@pytest.mark.parametrize("id", claims.LEDGER)
def test_the_verdict_is_borne_out_by_what_is_found(id):
    assert not of(claims.get(id))


def test_only_what_nobody_can_compute_has_no_number():
    without = [claim for claim in claims.LEDGER.values() if claims.found(claim.id) is None]
    assert {claim.verdict for claim in without} == set(MAY_LACK)
    assert len(without) <= 30


def test_what_is_found_is_no_bare_yes_and_states_its_setting():
    for claim in claims.LEDGER.values():
        if result := claims.found(claim.id):
            assert result.setting, claim.id
            assert not isinstance(result.value, bool), claim.id
            assert isinstance(result.value, (int, float)) or re.search(r"\d", result.value), (
                claim.id
            )


def test_a_contradiction_is_between_claims():
    for claim in claims.LEDGER.values():
        assert claim.id not in claim.against and set(claim.against) <= set(claims.LEDGER), claim.id


def test_a_flipped_verdict_is_noticed():
    for claim in claims.LEDGER.values():
        for verdict in {"holds": ["wrong", "inconsistent"], "wrong": ["holds", "inconsistent"]}.get(
            claim.verdict, []
        ):
            assert of(replace(claim, verdict=verdict)), (claim.id, verdict)


def test_a_falsified_number_is_noticed():
    changed = 0
    for claim in claims.LEDGER.values():
        result = claims.found(claim.id)
        counted = result and not isinstance(result.value, str)
        if claim.verdict == "holds" and counted and re.fullmatch(r"\d+(\.\d+)?", claim.printed):
            digits = claim.printed.rstrip("0").rstrip(".")
            last = str((int(digits[-1]) + 3) % 9 + 1)  # another digit, and no zero
            other = digits[:-1] + last + claim.printed[len(digits) :]
            assert of(replace(claim, printed=other)), (claim.id, other)
            changed += 1
    assert changed > 120


def test_what_the_texts_print_its_formula_and_its_verdict_are_pinned():
    """Who changes the ledger says so here: most verdicts leave room for another printed value."""
    kept = [
        f"{c.id} {c.texts} {c.claim} {dict(c.parameters)} {c.printed} {c.unit} {c.formula} "
        f"{c.verdict}"
        for c in claims.LEDGER.values()
    ]
    assert hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16] == "358854432c38f4f2"


@pytest.mark.parametrize(
    ("printed", "value", "says"),
    [
        ("25.8", 25.7698, True),
        ("25.8", 25.74, False),
        ("805", 805.306, True),
        ("804", 805.306, False),  # cut, not rounded
        ("3200", 3221.2, True),  # zeros at the end are no digits
        ("100", 69.2, False),  # but not by a third
        ("2-4", 3.9, True),
        ("2-4", 4.1, False),
        ("<1", 0.5, True),
        ("<1", 1.5, False),
        ("exceeds", 1.0, None),
        ("5.4 / 8.0 / 16", 8.0, None),
    ],
)
def test_digits_decide(printed, value, says):
    assert agrees(printed, value) is says
