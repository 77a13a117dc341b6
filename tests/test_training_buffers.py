import gc

import numpy as np
import pytest
import torch

from attncourse import measure
from attncourse.training import buffers, resident
from attncourse.training.buffers import Arena

MIB = 2**20


# Arena


def test_an_arena_hands_out_tensors_that_do_not_overlap():
    arena = Arena(1000)
    tensors = [arena.empty(3, 5), arena.empty(7, dtype=torch.float64), arena.empty(2, 2)]
    for value, tensor in enumerate(tensors):
        tensor.fill_(value)
    assert all(torch.all(tensor == value) for value, tensor in enumerate(tensors))
    assert all(tensor.data_ptr() % 8 == 0 for tensor in tensors)
    assert arena.used == 64 + 64 + 16  # 60 and 56 bytes, each up to the next multiple of 64


def test_a_frame_gives_back_what_it_took_and_the_next_one_gets_the_same_bytes():
    arena = Arena(4096)
    kept = arena.empty(4).fill_(1)
    places = []
    for _ in range(3):
        with arena.frame():
            places.append(arena.empty(100).fill_(2).data_ptr())
            with arena.frame():
                arena.empty(100)
    assert len(set(places)) == 1 and torch.all(kept == 1)
    assert arena.used == 16 and arena.peak == 64 + 448 + 400
    with pytest.raises(KeyError), arena.frame():
        arena.empty(10)
        raise KeyError
    assert arena.used == 16


def test_an_arena_serves_out():
    arena, x = Arena(MIB), torch.randn(64, 64)
    out = torch.matmul(x, x, out=arena.empty(64, 64))
    assert torch.equal(out, x @ x)
    assert measure.peak_bytes(lambda x: torch.matmul(x, x, out=out), x) == 0


def test_a_full_arena_says_how_much_was_asked_for_and_is_free():
    arena = Arena(256)
    arena.empty(20)
    words = r"buffers.Arena: 200 bytes asked for, 128 of 256 free"
    with pytest.raises(MemoryError, match=words):
        arena.empty(50)
    assert arena.used == 80 and arena.empty(32).shape == (32,)
    with pytest.raises(MemoryError, match="4 bytes asked for, 0 of 256 free"):
        arena.empty(1)
    with pytest.raises(ValueError, match=r"buffers.Arena: n_bytes must be at least 0, got -1"):
        Arena(-1)


# Reuse


@pytest.mark.parametrize("n_layers", [0, 1, 2, 5])
def test_reuse_changes_no_number_and_not_the_input(n_layers):
    x, weights = torch.randn(7, 4), [torch.randn(4, 4) for _ in range(n_layers)]
    before = x.clone()
    fresh = buffers.chain(x, weights, reuse=False)
    assert torch.equal(buffers.chain(x, weights, reuse=True), fresh) and torch.equal(x, before)


def test_reuse_holds_two_buffers_whatever_the_depth():
    x = torch.randn(1024, 16)
    for n_layers in (3, 12):
        weights = [torch.randn(16, 16) for _ in range(n_layers)]
        peaks = [measure.peak_bytes(buffers.chain, x, weights, reuse=r) for r in (True, False)]
        assert peaks == [2 * x.nbytes, 3 * x.nbytes]


# The garbage collector


def test_reference_counting_frees_what_no_cycle_holds():
    for collect in (False, True):
        churn = buffers.churn(3000, cycles=False, collect=collect)
        assert churn.uncollected == churn.held_bytes == 0 and churn.seconds > 0


def test_cycles_hold_tensors_until_the_collector_runs(record_property):
    off = buffers.churn(20_000, cycles=True, collect=False)
    on = buffers.churn(20_000, cycles=True, collect=True, tensor_bytes=96)
    assert (off.collections, off.uncollected, off.held_bytes) == (0, 20_000, 20_000 * 1024)
    assert on.held_bytes == on.uncollected * 96
    assert on.collections > 0 and on.uncollected < 20_000 / 2
    record_property("measured", f"gc: {on.seconds:.3f} s on, {off.seconds:.3f} s off")


@pytest.mark.parametrize("on", [False, True])
def test_the_collector_is_left_as_it_was(on):
    callbacks, was_on = list(gc.callbacks), gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        buffers.churn(0, cycles=True, collect=not on)
        assert gc.isenabled() is on and gc.callbacks == callbacks
    finally:
        (gc.enable if was_on else gc.disable)()


# Resident memory


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_reserved_memory_is_occupied_only_when_it_is_written(share):
    n_bytes = 64 * MIB
    reserved, written = resident.lazy(n_bytes, share)
    assert reserved < 2 * MIB
    assert abs(written - share * n_bytes) < 6 * MIB


def test_mapped_weights_are_read_when_touched(tmp_path):
    path, numbers = tmp_path / "weights.bin", np.arange(8 * MIB, dtype=np.float32)
    numbers.tofile(path)
    grown, weights = resident.resident_growth(
        lambda: resident.map_weights(path, (8, 1024, 1024), torch.float32)
    )
    assert weights.shape == (8, 1024, 1024) and grown < 2 * MIB
    one_layer, _ = resident.resident_growth(lambda: weights[3].amax())
    assert 3 * MIB < one_layer < 12 * MIB  # 4 MiB, and what the system reads ahead
    assert np.array_equal(weights.numpy().ravel(), numbers)


def test_a_mapped_file_stays_as_it_is(tmp_path):
    path = tmp_path / "weights.bin"
    np.zeros(6, dtype=np.float32).tofile(path)
    resident.map_weights(path, (2, 3)).fill_(1)
    assert not np.fromfile(path, dtype=np.float32).any()


def test_a_file_of_another_size_is_refused(tmp_path):
    path = tmp_path / "weights.bin"
    np.zeros(5, dtype=np.float32).tofile(path)
    with pytest.raises(ValueError, match=r"weights.bin must have 24 bytes for \(2, 3\), got 20"):
        resident.map_weights(path, (2, 3))
