import numpy as np
import pytest
import torch

from attncourse import measure
from attncourse.model.decoder import Shape
from attncourse.model.network import Network
from attncourse.training import table, techniques, timeline

SMALL = Shape(n_ids=256, n_layers=3, n_heads=2, width=16, hidden=32, context=48)


def small(seed=0):
    torch.manual_seed(seed)
    network = Network(SMALL)
    for layer in network.layers:  # nothing flows through outputs that begin at 0
        torch.nn.init.normal_(layer.out, std=0.1)
        torch.nn.init.normal_(layer.down, std=0.1)
    return network, torch.randint(256, (2, 49))


def gradients(network, ids, **ways):
    network.zero_grad()
    loss = techniques.loss(network, ids, **ways)
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in network.parameters())]


@pytest.mark.parametrize("ways", [{}, {"every": 1}, {"every": 2}, {"attend": techniques.eager}])
def test_techniques_have_the_loss_and_gradients_of_the_model(ways):
    network, ids = small()
    network.loss(ids).backward()
    expected = [network.loss(ids).detach(), *(p.grad.clone() for p in network.parameters())]
    for found, each in zip(gradients(network, ids, **ways), expected, strict=True):
        assert torch.allclose(found, each, rtol=1e-4, atol=1e-5)


def test_reversible_model_has_the_gradients_of_plain_autograd():
    network, ids = small()
    found = gradients(network.double(), ids, reverse=True)
    x, angle = network.read(ids[:, :-1])
    network.zero_grad()
    x1 = x2 = x
    for layer in network.layers:
        x1 = x1 + layer.attention(x2, angle, techniques.eager)
        x2 = x2 + layer.mlp(x1)
    loss = torch.nn.functional.cross_entropy(
        network.logits((x1 + x2) / 2).flatten(0, 1).float(), ids[:, 1:].flatten()
    )
    loss.backward()
    for one, parameter in zip(found[1:], network.parameters(), strict=True):
        assert torch.allclose(one, parameter.grad, rtol=1e-4, atol=1e-6)


def test_peak_is_what_the_allocator_saw():
    network, ids = small()
    adam = timeline.Adam(network.parameters())
    for ways in ({"every": 2}, {"reverse": True}):

        def step(ways=ways):
            techniques.loss(network, ids, **ways).backward()
            for parameter in network.parameters():
                parameter.grad = None

        line = timeline.record(lambda ways=ways: techniques.loss(network, ids, **ways), adam)
        assert line.step_bytes == pytest.approx(measure.peak_bytes(step), rel=0.01)


def test_kinds_of_a_chain_by_hand():
    """Each tanh keeps its output; x was there before."""
    weights = [torch.randn(4, 4, requires_grad=True) for _ in range(3)]
    x = torch.randn(1000, 4)

    def loss():
        out = x
        for weight in weights:
            out = torch.tanh(out @ weight)
        return out.sum()

    line = timeline.record(loss, timeline.Adam(weights))
    each = line.bytes()
    tensor = 1000 * 4 * 4
    assert each["parameters"].max() == 3 * 64 and each["moments"].max() == 2 * 3 * 64
    assert each["kept"].max() == 3 * tensor
    assert each["gradients"].max() == 3 * 64
    assert not each["made again"].any()
    assert 0 < line.backward < line.update < len(line.operations)
    assert np.array_equal(line.total(), sum(each.values()))


def test_what_is_computed_once_more_is_told_apart():
    network, ids = small()
    adam = timeline.Adam(network.parameters())
    kept = {}
    for every in (None, 1, 2):
        line = timeline.record(lambda every=every: techniques.loss(network, ids, every=every), adam)
        kept[every] = {kind: each.max() for kind, each in line.bytes().items()}
    assert kept[None]["made again"] == 0 < kept[1]["made again"] < kept[2]["made again"]
    assert kept[1]["kept"] < kept[None]["kept"]
    assert kept[1]["scratch"] <= kept[None]["scratch"] * 2


def test_adam_takes_the_steps_of_the_paper():
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    adam, expected = timeline.Adam([weight], lr=0.1), np.array([1.0, -2.0])
    first = second = np.zeros(2)
    for step, grad in enumerate(([3.0, 1.0], [-1.0, 2.0], [0.5, 0.0]), start=1):
        weight.grad = torch.tensor(grad)
        adam.step()
        first = 0.9 * first + 0.1 * np.array(grad)
        second = 0.999 * second + 0.001 * np.square(grad)
        root = np.sqrt(second / (1 - 0.999**step))
        expected = expected - 0.1 * first / (1 - 0.9**step) / (root + 1e-8)
        assert weight.grad is None
        np.testing.assert_allclose(weight.detach(), expected, rtol=1e-4)


def test_table_measures_each_way(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "WAYS", {"bfloat16": table.WAYS["bfloat16"]})
    file = tmp_path / "t.json"
    table.main(["--layers=1", "--rows=1", "--tokens=8", "--repeats=1", f"--out={file}"])
    assert '"bfloat16"' in file.read_text()
