import re
from dataclasses import replace

import pytest

from attncourse import claims
from attncourse.claims.finders import times
from attncourse.claims.finders._growth import exponent, law


def test_an_exponent_is_the_slope_whatever_the_factor():
    assert exponent(lambda n: 7 * n**1.5) == pytest.approx(1.5)
    assert exponent(lambda n: 3, (256, 512)) == 0


def test_a_law_agrees_only_if_every_exponent_does():
    right = {"FLOPs in n": (2, 1.95), "bytes in n": (1, 1.0)}
    assert law(right, "").agrees is True
    assert law(right | {"bytes in n": (1, 0.85)}, "").agrees is False


@pytest.mark.parametrize("id", [*times.PRINTED, "C137", "C138"])
def test_least_times_are_what_the_arithmetic_of_the_ledger_gives(id):
    claim = claims.get(id)
    least = claims.found(id).value
    n = 8192
    wanted = {"C137": 4 * n * n * 768 / 312e12 * 1e3, "C138": 4 * n * 768 * 2 / 1.555e12 * 1e6}
    assert least == pytest.approx(wanted[id] if id in wanted else claims.recompute(id))
    assert claim.kind == "timing"


def test_the_times_of_a_course_without_records_need_none(monkeypatch):
    monkeypatch.setattr(times, "latest", lambda *_, **__: None)
    for id, finder in (("C207", times.step_of_the_law), ("C204", times.implied_throughput)):
        found = finder(claims.get(id))
        assert found.agrees is False
        assert "measured" not in f"{found.value} {found.setting}"


def test_a_record_of_a_gpu_is_named_with_its_heads_and_its_date():
    setting = claims.found("C204").setting
    assert re.search(
        r"measured: [\d.]+ ms with \d+ heads in float16, .+, \d{4}-\d\d-\d\d$", setting
    )


def test_times_that_grow_otherwise_than_the_length_would_be_noticed(monkeypatch):
    claim, get = claims.get("C331"), claims.get
    assert times.fourfold_length(claim).agrees

    def planted(id):
        found = get(id)
        return replace(found, parameters={**found.parameters, "b": 90}) if id == "C326" else found

    monkeypatch.setattr(times, "get", planted)
    assert not times.fourfold_length(claim).agrees
