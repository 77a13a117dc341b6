"""A mechanism added from outside appears everywhere, by its catalogue entry alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attncourse import MECHANISMS, Knob, Mechanism, catalogue

TESTS = Path(__file__).parent
# without what pytest loads for notebooks, which takes as long as the tests
PYTEST = [sys.executable, "-m", "pytest", "-p", "dummy_plugin", "-p", "no:cacheprovider"]
PYTEST += ["-o", "addopts=", "-m", "not nightly"]

DUMMY_MODULE = '''
"""Block-local attention with overlap, as someone else might add it."""

import math

from attncourse import masks
from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_qkv, check_scale, int_sizes
from attncourse.reference import full


def attention(q, k, v, *, block, causal=False, scale=None):
    """Attend within the own block, as `attncourse.reference` describes it.

    Args:
        block: Keys in a block.

    Memory:
        What full attention takes.

    Paper:
        None.
    """
    check_qkv("dummy.attention", q, k, v)
    block = check_count("dummy.attention", "block", block, least=1)
    causal = check_flag("dummy.attention", "causal", causal)
    scale = check_scale("dummy.attention", scale, q.shape[-1])
    visible = mask(q.shape[-2], k.shape[-2], block=block)
    return full.attention(q, k, v, mask=visible, causal=causal, scale=scale)

__name__ = "dummy"  # errors name the stem


@int_sizes
def mask(n_queries, n_keys, *, block, causal=False):
    """Return the mask, as `attncourse.reference` describes it."""
    block = check_count("dummy.mask", "block", block, least=1)
    causal = check_flag("dummy.mask", "causal", causal)
    visible = masks.blocks(n_queries, n_keys, block=block, overlap=block)
    return visible & masks.causal(n_queries, n_keys) if causal else visible


@int_sizes
def cost(B, H, Tq, Tk, D, *, block, causal=False, dtype_bytes=4):
    """Count what `attention` does, as `attncourse.reference` describes it."""
    check_count("dummy.cost", "block", block, least=1)
    check_flag("dummy.cost", "causal", causal)
    cost = full.cost(B, H, Tq, Tk, D, causal=True, dtype_bytes=dtype_bytes)
    peak = cost.peak_bytes + Tq * Tk
    return Cost(cost.flops, cost.bytes_read, cost.bytes_written, peak)
'''

DUMMY_PLUGIN = """
from attncourse import MECHANISMS, Knob, Mechanism

MECHANISMS["dummy"] = Mechanism(
    stem="dummy", family="pattern", title="Block-local attention", paper="none", chapter="99",
    exact="softmax attention under its mask", memory="n²",
    knobs=(Knob("block", 32, 1, 64, 1, "keys in a block"),), has=frozenset({"mask"}),
    collapse=lambda n_queries, n_keys: {"block": 1024}, reference_module="dummy_mechanism",
)
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder with someone else's mechanism in it, and an environment that finds it."""
    (tmp_path / "dummy_mechanism.py").write_text(DUMMY_MODULE, encoding="utf-8")
    (tmp_path / "dummy_plugin.py").write_text(DUMMY_PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return os.environ | {"PYTHONPATH": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@pytest.fixture
def dummy(outside, monkeypatch):
    monkeypatch.setattr(catalogue, "MECHANISMS", MECHANISMS)
    saved = dict(MECHANISMS)
    exec(DUMMY_PLUGIN)
    yield MECHANISMS["dummy"]
    MECHANISMS.clear()
    MECHANISMS.update(saved)


def test_a_mechanism_from_outside_goes_through_the_conformance_suite(outside):
    run = subprocess.run(
        [*PYTEST, "-q", "-k", "dummy", TESTS / "test_conformance.py"],
        env=outside, capture_output=True, text=True, cwd=TESTS.parent, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]
    passed = int(run.stdout.split(" passed")[0].split()[-1])
    assert passed >= 35


@pytest.mark.nightly
def test_the_conformance_suite_would_catch_a_broken_mechanism(outside, tmp_path):
    broken = DUMMY_MODULE.replace("visible & masks.causal", "visible | masks.causal")
    (tmp_path / "dummy_mechanism.py").write_text(broken, encoding="utf-8")
    run = subprocess.run(
        [*PYTEST, "-q", "-k", "dummy and full_attention_under", TESTS / "test_conformance.py"],
        env=outside, capture_output=True, text=True, cwd=TESTS.parent, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 1, run.stdout[-3000:]


def test_a_mechanism_from_outside_appears_in_the_table(dummy):
    assert catalogue.table()[-1]["mechanism"] == "Block-local attention"
    assert "Block-local attention" in catalogue.markdown_table().splitlines()[-1]


def test_a_mechanism_from_outside_appears_in_the_gallery_of_heat_maps(dummy):
    from attncourse import plots

    titles = [ax.get_title(loc="left") for ax in plots.gallery(n=64).axes]
    assert any("Block-local attention" in title for title in titles)


def test_a_mechanism_from_outside_appears_in_the_benchmark(outside, tmp_path):
    script = (
        "import dummy_plugin; from attncourse.cli import main; "
        "from attncourse.catalogue import MECHANISMS; "
        "[MECHANISMS.pop(name) for name in {*MECHANISMS} - {'full', 'dummy'}]; "  # for speed
        f"main(['bench', '--cpu', '--n', '16', '--repeats', '1', '--without', 'FlexAttention', "
        f"'--out', {str(tmp_path)!r}])"
    )
    subprocess.run(
        [sys.executable, "-c", script], env=outside, check=True, timeout=120, capture_output=True
    )
    (written,) = tmp_path.glob("*.json")
    text = written.read_text(encoding="utf-8")
    assert "dummy" in text
    assert json.loads(text)["machine"]


def test_every_knob_has_a_value_inside_its_range():
    for mechanism in MECHANISMS.values():
        for knob in mechanism.knobs:
            assert knob.low <= knob.value <= knob.high and knob.step >= 1 and knob.text


def test_a_mechanism_with_an_unknown_feature_is_refused():
    with pytest.raises(ValueError, match="has must be among"):
        Mechanism("x", "dense", "X", "none", "99", "", "", has=frozenset({"magic"}))


def test_a_missing_twin_says_so():
    alone = Mechanism("alone", "dense", "Alone", "none", "99", "", "", (Knob("a", 1, 0, 2, 1, ""),))
    with pytest.raises(LookupError, match="alone has no Triton twin"):
        _ = alone.kernel
    assert alone.values == {"a": 1}


def test_the_reference_of_each_mechanism_loads():
    for mechanism in MECHANISMS.values():
        assert callable(mechanism.reference.attention)
        if "mask" in mechanism.has:
            assert mechanism.reference.mask(3, 3, **mechanism.values).shape == (3, 3)
