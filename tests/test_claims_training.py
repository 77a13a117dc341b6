import pytest

pytest.importorskip("torch")

from attncourse.claims.finders import training


@pytest.mark.parametrize("layers", [4, 12])
def test_plain_layers_keep_their_inputs_and_the_last_output(layers):
    assert training._checkpointed(layers, None) == (layers + 1) * 96 * 32


@pytest.mark.parametrize(("every", "tensors"), [(1, 12), (3, 4), (5, 3), (12, 1)])
def test_checkpoints_keep_one_tensor_a_segment(every, tensors):
    assert training._checkpointed(12, every) == tensors * 96 * 32


def test_reversible_blocks_keep_two_tensors_whatever_their_number():
    assert training._reversible(3, plain=False) == training._reversible(12, plain=False) == 6144


@pytest.mark.parametrize("reverse", [False, True])
def test_each_layer_runs_forward_twice(reverse):
    assert training._forward_passes(reverse) == 2
