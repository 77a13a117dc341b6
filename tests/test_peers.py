"""Peers must compute what we compute, or the benchmark compares nothing."""

import functools
import shutil

import numpy as np
import pytest
from covering import NIGHTLY

from attncourse import MECHANISMS, measure
from attncourse.bench import peers
from attncourse.inputs import random_qkv

torch = pytest.importorskip("torch")

PAIRS = [
    pytest.param(
        mechanism,
        peer,
        causal,
        id=f"{mechanism.stem}-{peer.name}" + "-causal" * causal,
    )
    for mechanism in MECHANISMS.values()
    for peer in peers.of(mechanism)
    for causal in (False, True)
    if peer.name != "FlexAttention" or mechanism.stem == "window"
    if mechanism.causal or not causal
]


@pytest.mark.parametrize(("mechanism", "peer", "causal"), PAIRS)
def test_a_peer_gives_our_result(mechanism, peer, causal, monkeypatch):
    if peer.absent:
        pytest.skip(f"{peer.package} is not installed")
    if peer.name == "FlexAttention":
        if not NIGHTLY:  # it compiles for seconds; uncompiled it computes the same
            monkeypatch.setattr(torch, "compile", lambda function, **options: function)
        elif not shutil.which("g++"):
            pytest.skip("FlexAttention on a CPU needs a C++ compiler")
    arrays = random_qkv(768, heads=2, width=64)
    tensors = [torch.from_numpy(array) for array in arrays]
    keywords = mechanism.keywords(768, 768, 64, 64, np.float32, **mechanism.values)
    ours = mechanism.reference.attention(*arrays, **keywords, causal=causal)
    try:
        function, keywords = peer.prepare(mechanism, mechanism.values, *tensors, causal)
    except ModuleNotFoundError as error:  # performer-pytorch needs distutils, gone in Python 3.12
        pytest.skip(f"{peer.package}: {error}")
    except NotImplementedError as error:
        assert causal, error  # what is not causal is at least one of both
        pytest.skip(f"{peer.name} {error}")
    theirs = function(*tensors, **keywords).detach().numpy()
    assert theirs.shape == ours.shape
    if not peer.estimate:
        np.testing.assert_allclose(theirs, ours, atol=2e-5)


def test_torch_takes_flex_attention_at_a_new_length_however_many_it_had(monkeypatch):
    """Torch refuses beyond its limit of compilations. By day nothing is made of what it traces."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    mechanism = MECHANISMS["window"]
    with torch._dynamo.config.patch(recompile_limit=1):
        for n in (256, 384):
            tensors = [torch.from_numpy(array) for array in random_qkv(n)]
            function, keywords = peers._flex(mechanism, mechanism.values, *tensors, False)
            assert function(*tensors, **keywords).shape == tensors[0].shape


@pytest.mark.nightly
@pytest.mark.skipif(not shutil.which("g++"), reason="FlexAttention on a CPU needs a C++ compiler")
def test_flex_attention_is_compiled_however_often_it_was_before():
    """Beyond its limit of compilations torch would run it uncompiled, with all n² scores."""
    with torch._dynamo.config.patch(recompile_limit=1):
        for n in (1024, 2048):
            tensors = [torch.from_numpy(array) for array in random_qkv(n)]
            mechanism = MECHANISMS["window"]
            function, keywords = peers._flex(mechanism, mechanism.values, *tensors, False)
            assert measure.peak_bytes(function, *tensors, **keywords) < 4 * n**2 / 2


def test_every_peer_is_somebodys():
    for peer in (*peers.PEERS, *peers.DECODING):
        assert any(map(peer.fits, MECHANISMS.values())), peer.name


def test_a_missing_package_is_absent():
    assert peers.Peer("nobody", "no_such_package", bool, None).absent
    assert not peers.Peer("torch", "torch", bool, None).absent
