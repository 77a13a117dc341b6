import csv
import importlib.resources
import math
import re
from collections import Counter
from pathlib import Path

import pytest

from attncourse import claims
from attncourse.sources import covered


def test_the_ledger_holds_every_row_of_the_file():
    path = importlib.resources.files("attncourse") / "data" / "claims.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(claims.LEDGER) == 480
    for row in rows:
        claim = claims.get(row["id"])
        assert (claim.claim, claim.topic, claim.verdict) == (
            row["claim"],
            row["topic"],
            row["verdict"],
        )


def test_every_verdict_is_explained():
    assert {claim.verdict for claim in claims.LEDGER.values()} == set(claims.VERDICTS)


def test_all_311_formulas_give_the_audited_value():
    with_formula = [claim for claim in claims.LEDGER.values() if claim.formula]
    assert len(with_formula) == 311
    for claim in with_formula:
        assert math.isclose(claims.recompute(claim.id), float(claim.computed), rel_tol=1e-5), claim


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
    assert "0.002" in claims._note("[line 3] error 0.002 in 002, line 4")
    assert claims._note("[line 3] error 0.002 in 002") == "error 0.002 in chapter E"


def test_unknown_ids_are_refused():
    with pytest.raises(KeyError, match="C001 to C480, got 'C999'"):
        claims.get("C999")


def test_find_by_topic_chapter_and_verdict():
    wrong = claims.find(topic="exercise 1", verdict="wrong")
    assert [claim.id for claim in wrong] == ["C381", "C408"]
    assert len(claims.find()) == 480
    assert claims.find(chapter="12", verdict="unverifiable") == []


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


def test_chapter_05_checks_every_claim_about_sparse_patterns_that_does_not_simply_hold():
    source = (Path(__file__).parents[1] / "notebooks/_source/05_sparse.py").read_text("utf-8")
    checked = set(re.findall(r'claims\.check\(\s*"(C\d+)"', source))
    sections = {id for ids in re.findall('covers="([^"]*)"', source) for id in covered(ids)}
    for claim in claims.find(chapter="05"):
        assert claim.id in sections, claim
        assert claim.verdict == "holds" or claim.id in checked, claim


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


def test_check_shows_printed_found_verdict_and_why(capsys):
    claims.check("C057")
    assert capsys.readouterr().out == (
        "C057 · chapter V · window definition\n"
        "  claim    window w means positions i-w/2..i+w/2, giving n x w\n"
        "  printed  256 keys per query\n"
        "  found    257 keys per query\n"
        "  verdict  ≠ inconsistent: contradicts another place of the same texts\n"
        "  why      that interval holds w+1 keys; chapter E defines |i-j|<=w with 2w+1 keys; "
        "chapter E's\n"
        "           exercise code uses w//2 per side but its comment says w per side\n"
    )


def test_check_takes_what_the_cell_found_and_its_reason(capsys):
    claims.check("C377", found=246656, why="Rows at both ends are shorter.")
    text = capsys.readouterr().out
    assert "found    246,656 floats\n" in text
    assert text.endswith("why      Rows at both ends are shorter.\n")
    claims.check("C170", found="5.1x on this machine")
    assert "found    5.1x on this machine\n" in capsys.readouterr().out


def test_check_says_so_when_nothing_can_be_computed(capsys):
    claims.check("C063")
    assert "found    nothing to compute\n" in capsys.readouterr().out
    claims.check("C216")
    assert "found    coverage 0.0156 (by the audit)\n" in capsys.readouterr().out


def test_every_claim_can_be_shown(capsys):
    for id in claims.LEDGER:
        claims.check(id)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) >= 4 and max(map(len, lines)) <= 100, id


def test_the_html_form_says_the_verdict_in_words_and_escapes_the_claim():
    claim = claims.get("C338")
    assert "<" in claim.claim
    page = claims.Checked(claim, "<b>", "why & how")._repr_html_()
    assert "unverifiable" in page and "&lt;b&gt;" in page and "why &amp; how" in page
    assert "< 1" not in page
