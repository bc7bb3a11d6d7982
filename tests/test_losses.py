"""Losses against loops over queries, where their gradients go, and the numbers of ten training steps."""

import pytest
import torch
import torch.nn.functional as F
from reference import losses_of_family
from steps import config_of, take_steps
from torch.testing import assert_close

from lgn_net.config import Config, DataConfig, LossConfig, ModelConfig
from lgn_net.model.build import build_model
from lgn_net.model.lgn_net import Output
from lgn_net.model.losses import compute_losses
from lgn_net.model.memory import PrototypeMemory


def case(*sizes, weights=(10, 5, 1), seed=0):
    """Our losses and those of the loops, and the leaves they depend on: B = 2, a memory per size (D, h)."""
    torch.manual_seed(seed)
    memories = [PrototypeMemory(5, D) for D, _ in sizes]
    for memory in memories:
        memory.items.copy_(F.normalize(torch.randn_like(memory.items), dim=1))
    queries = [F.normalize(torch.randn(2, D, h, 4), dim=1).requires_grad_() for D, h in sizes]
    prediction = torch.tanh(torch.randn(2, 3, 24, 32)).requires_grad_()
    return memories, queries, prediction, torch.rand(2, 3, 24, 32) * 2 - 1, LossConfig(*weights)


def both(memories, queries, prediction, target, weights):
    out = Output(prediction, [memory.lookup(q) for memory, q in zip(memories, queries)])
    return compute_losses(out, target, memories, weights), losses_of_family(
        [memory.items for memory in memories], prediction, queries, target, weights.compactness, weights.separateness,
        weights.margin)


@pytest.mark.parametrize("weights", [(10, 5, 1), (1, 1, 0.3), (0.1, 0, 2)], ids=str)
@pytest.mark.parametrize("sizes", [[], [(8, 3)], [(4, 6), (8, 3), (16, 2)]], ids=["none", "one", "three"])
def test_values_and_gradients_equal_the_loops(sizes, weights):
    memories, queries, *others = case(*sizes, weights=weights)
    leaves, before = [others[0], *queries], [memory.items.clone() for memory in memories]
    for name, value, right in zip(*(("total", "prediction", "compactness", "separateness"),
                                    *both(memories, queries, *others)), strict=True):
        assert_close(value, torch.as_tensor(right), rtol=1e-5, atol=1e-7, msg=name)
        assert not sizes or name in ("total", "prediction") or value > 0
        if value.requires_grad:
            grads, expected = (torch.autograd.grad(x, leaves, retain_graph=True, allow_unused=True)
                               for x in (value, right))
            assert_close(grads, expected, rtol=1e-4, atol=1e-7)
    assert not any(memory.items.requires_grad for memory in memories)
    assert all(torch.equal(memory.items, items) for memory, items in zip(memories, before, strict=True))
    if sizes:
        with pytest.raises(ValueError):                                   # a memory without its lookup
            both(memories, queries[:-1], *others)


def test_separateness_at_its_limits():
    memories, queries, *others, _ = case((8, 3))
    items = memories[0].items
    with torch.no_grad():                                                 # every query sits on an item
        queries[0].copy_(items[torch.arange(24) % 5].T.reshape(8, 2, 3, 4).transpose(0, 1))
    ours, _ = both(memories, queries, *others, LossConfig(margin=0.01))
    assert ours.separateness == 0 and ours.compactness < 1e-12            # the second item is farther than the margin
    ours, expected = both(memories, queries, *others, LossConfig(margin=2.0))
    grad, = torch.autograd.grad(ours.separateness, queries)
    assert_close(grad, *torch.autograd.grad(expected[3], queries))        # eps 1e-6 keeps it finite, and visible
    assert grad.isfinite().all() and grad.abs().max() > 0
    items.copy_(items[:1].expand(5, 8).clone())                           # nearest and second nearest tie
    assert_close(both(memories, queries, *others, LossConfig(margin=0.7))[0].separateness, torch.tensor(0.7))


GOLDEN = [                                # total, prediction, compactness, separateness
    [0.79689193, 0.47389746, 0.022358978, 0.62363005], [0.57207757, 0.30980733, 0.016245311, 0.50829518],
    [0.71018362, 0.3735491, 0.021551684, 0.65171736], [0.61658895, 0.3242574, 0.014773468, 0.56988961],
    [0.59367537, 0.35038054, 0.012910717, 0.47367892], [0.51786107, 0.25225082, 0.015261356, 0.51595914],
    [0.65203792, 0.35141388, 0.018377518, 0.58287054], [0.56099081, 0.29509321, 0.013870314, 0.51792496],
    [0.52461058, 0.29442343, 0.012152215, 0.44822213], [0.44941202, 0.19643937, 0.014504299, 0.49144101]]


def test_ten_steps():
    """Losses of float32 steps of a drawn network on drawn clips. Another number here is another method: say why."""
    assert_close(torch.stack(take_steps(config_of({}, {}), 10 * (6,)).losses), torch.tensor(GOLDEN), rtol=1e-5, atol=0)


def trained_encoder(weights, **model):
    """E_glo's movement in 50 steps on noise, as one vector, with weights of the two memory losses."""
    config = Config(data=DataConfig(image_size=16, channels=1), loss=LossConfig(*weights),
                    model=ModelConfig(base_width=4, hidden_width=4, lstm_layers=1, memory_items=5, **model))
    torch.manual_seed(0)
    network, rng = build_model(config).train(), torch.Generator().manual_seed(1)
    encoder = network.prototype_encoder
    before = torch.cat([p.detach().flatten() for p in encoder.parameters()])
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    for _ in range(50):
        clip = torch.rand(4, 5, 1, 16, 16, generator=rng) * 2 - 1
        out = network(clip[:, :4])
        optimizer.zero_grad()
        compute_losses(out, clip[:, -1], network.memories, config.loss).total.backward()
        optimizer.step()
        network.memory.update_(out.lookups[0])
    return torch.cat([p.detach().flatten() for p in encoder.parameters()]) - before


@pytest.mark.slow
def test_only_the_ratio_of_the_weights_counts_as_published():
    """The numbers of docs/results.md, "Do the loss weights act through their ratio alone?"."""
    for model, weights, low, high in [({}, (0.01, 0.005), 0.0, 0.05), ({}, (1, 1), 0.06, 0.2),
                                      ({"read_grad": True}, (0.01, 0.005), 0.8, 1.5),
                                      ({"concat_query": True}, (0.01, 0.005), 0.8, 1.5)]:
        published, other = trained_encoder((10, 5), **model), trained_encoder(weights, **model)
        assert low <= (other - published).norm() / published.norm() < high, (model, weights)
