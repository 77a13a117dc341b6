"""Peers must compute what we compute, or the benchmark compares nothing."""

import shutil

import numpy as np
import pytest

from attncourse import MECHANISMS, peers
from attncourse.inputs import random_qkv

torch = pytest.importorskip("torch")

ESTIMATES = {"performer-pytorch"}  # draws its own features
PAIRS = [
    pytest.param(mechanism, peer, id=f"{mechanism.stem}-{peer.name}")
    for mechanism in MECHANISMS.values()
    for peer in peers.of(mechanism)
    if peer.name != "FlexAttention" or mechanism.stem == "window"  # it compiles for seconds
]


@pytest.mark.parametrize(("mechanism", "peer"), PAIRS)
def test_a_peer_gives_our_result(mechanism, peer):
    if peer.absent:
        pytest.skip(f"{peer.package} is not installed")
    if peer.name == "FlexAttention" and not shutil.which("g++"):
        pytest.skip("FlexAttention on a CPU needs a C++ compiler")
    arrays = random_qkv(384, heads=2, width=64)
    tensors = [torch.from_numpy(array) for array in arrays]
    keywords = mechanism.keywords(384, 384, 64, 64, np.float32, **mechanism.values)
    ours = mechanism.reference.attention(*arrays, **keywords)
    try:
        function, keywords = peer.prepare(mechanism, *tensors)
    except ModuleNotFoundError as error:  # performer-pytorch needs distutils, gone in Python 3.12
        pytest.skip(f"{peer.package}: {error}")
    theirs = function(*tensors, **keywords).detach().numpy()
    assert theirs.shape == ours.shape
    if peer.name not in ESTIMATES:
        np.testing.assert_allclose(theirs, ours, atol=2e-5)


def test_every_peer_is_somebodys():
    for peer in peers.PEERS:
        assert peer.name in ESTIMATES or any(map(peer.fits, MECHANISMS.values())), peer.name


def test_a_missing_package_is_absent():
    assert peers.Peer("nobody", "no_such_package", bool, None).absent
    assert not peers.Peer("torch", "torch", bool, None).absent
