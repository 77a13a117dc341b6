"""Small stacks with their norms in either place: what they compute, and how they train."""

import pytest
import torch
from torch import nn

from attncourse.training import norms

TEXT = "which of the two norms lets a deep stack learn to spell? " * 4


@pytest.mark.parametrize("pre", [True, False])
def test_a_block_is_torchs_encoder_layer(pre):
    torch.manual_seed(0)
    block, x = norms.Block(pre=pre), torch.randn(2, 7, norms.WIDTH)
    layer = nn.TransformerEncoderLayer(
        norms.WIDTH, norms.HEADS, 4 * norms.WIDTH, dropout=0.0, norm_first=pre, batch_first=True
    )
    twins = {
        "self_attn.in_proj_": block.project, "self_attn.out_proj.": block.merge,
        "linear1.": block.up, "linear2.": block.down,
        "norm1.": block.norms[0], "norm2.": block.norms[1],
    }  # fmt: skip
    layer.load_state_dict(
        {f"{name}{key}": value for name, part in twins.items() for key, value in
         part.state_dict().items()}
    )  # fmt: skip
    future = torch.triu(torch.ones(7, 7, dtype=torch.bool), 1)
    torch.testing.assert_close(block(x), layer(x, src_mask=future))


def test_both_places_learn_while_a_stack_is_shallow():
    for pre in (True, False):
        trained = norms.train(TEXT, depth=1, pre=pre, steps=25)
        assert len(trained.losses) == 25 and trained.losses[-1] < trained.losses[0] - 0.5


def test_a_deep_stack_keeps_its_gradient_only_with_the_norm_first():
    first, last = (norms.train(TEXT, depth=20, pre=pre) for pre in (True, False))
    assert min(first.before[0], last.before[0]) > 0.1  # much alike at first
    assert first.after[0] > 0.5 and last.after[0] < 0.02
    assert (len(last.after), last.after[-1]) == (20, 1)


def test_a_seed_gives_the_same_run_and_leaves_torchs_own_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    runs = [norms.train(TEXT, depth=1, pre=True, steps=2, seed=seed) for seed in (1, 1, 2)]
    torch.testing.assert_close(torch.rand(4), expected, rtol=0, atol=0)
    assert runs[0] == runs[1] and runs[0].losses != runs[2].losses


def test_a_text_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match=r"norms.train: text must have more than 24 letters, got"):
        norms.train("x" * 24, depth=1, pre=True)
    assert norms.train("ab" * 12 + "c", depth=1, pre=True, steps=1).losses
