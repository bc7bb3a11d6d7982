"""Losses against loops over queries, where their gradients go, and what their weights decide."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from reference import losses_of_family
from steps import config_of
from torch.testing import assert_close

from lgn_net.config import LossConfig
from lgn_net.model.build import build_model
from lgn_net.model.lgn_net import Output
from lgn_net.model.losses import compute_losses
from lgn_net.model.memory import PrototypeMemory
from lgn_net.training.step import shares_of, train_step


def case(*sizes):
    """Memories and their queries, one for each size (D, h), prediction and target: what losses depend on, for B = 2."""
    torch.manual_seed(0)
    memories = [PrototypeMemory(5, D) for D, _ in sizes]
    for memory in memories:
        memory.items.copy_(F.normalize(torch.randn_like(memory.items), dim=1))
    queries = [F.normalize(torch.randn(2, D, h, 4), dim=1).requires_grad_() for D, h in sizes]
    prediction = torch.tanh(torch.randn(2, 3, 24, 32)).requires_grad_()
    return memories, queries, prediction, torch.rand(2, 3, 24, 32) * 2 - 1


def both(memories, queries, prediction, target, weights):
    """Our losses and those of the loops."""
    out = Output(prediction, [memory.lookup(q) for memory, q in zip(memories, queries)])
    return compute_losses(out, target, memories, weights), losses_of_family(
        [memory.items for memory in memories], prediction, queries, target, weights.compactness, weights.separateness,
        weights.margin)


@pytest.mark.parametrize("weights", [(10, 5, 1), (0.1, 0, 0.3)], ids=str)
@pytest.mark.parametrize("sizes", [[], [(8, 3)], [(4, 6), (8, 3), (16, 2)]], ids=["none", "one", "three"])
def test_values_and_gradients_equal_the_loops(sizes, weights):
    memories, queries, prediction, target = case(*sizes)
    losses, expected = both(memories, queries, prediction, target, LossConfig(*weights))
    for name, value, right in zip(losses._fields, losses, expected, strict=True):
        assert_close(value, torch.as_tensor(right), rtol=1e-5, atol=1e-7, msg=name)
        assert not sizes or value > 0
        if value.requires_grad:
            assert_close(*(torch.autograd.grad(x, [prediction, *queries], retain_graph=True, allow_unused=True)
                           for x in (value, right)), rtol=1e-4, atol=1e-7)


def test_separateness_at_its_limits():
    memories, queries, *others = case((8, 3))
    items = memories[0].items
    with torch.no_grad():                                                 # every query sits on an item
        queries[0].copy_(items[torch.arange(24) % 5].T.reshape(8, 2, 3, 4).transpose(0, 1))
    ours, expected = both(memories, queries, *others, LossConfig(margin=2.0))
    grad, = torch.autograd.grad(ours.separateness, queries)
    assert_close(grad, *torch.autograd.grad(expected[3], queries))        # eps 1e-6 keeps it finite, and visible
    assert grad.isfinite().all() and grad.any()
    items.copy_(items[:1].expand(5, 8).clone())                           # nearest and second nearest tie
    assert_close(both(memories, queries, *others, LossConfig(margin=0.7))[0].separateness, torch.tensor(0.7))


def trained_encoder(weights, eps=1e-8, **model):
    """E_glo's movement in 50 steps on noise, as one vector, with weights of the two memory losses."""
    config = replace(config_of({"memory_items": 5, **model}), loss=LossConfig(*weights))
    torch.manual_seed(0)
    network = build_model(config).train()
    encoder, optimizer = network.prototype_encoder, torch.optim.Adam(network.parameters(), 2e-4, eps=eps)
    before = torch.cat([p.detach().flatten() for p in encoder.parameters()])
    for _ in range(50):
        clips = torch.randint(256, (4, 5, 1, 16, 16), dtype=torch.uint8)
        train_step(network, network, optimizer, shares_of([0, 1, 2, 3], 1), iter([clips]), config)
    return torch.cat([p.detach().flatten() for p in encoder.parameters()]) - before


@pytest.mark.slow
def test_only_the_ratio_of_the_weights_counts_as_published():
    """The numbers of docs/results.md, "Do the loss weights act through their ratio alone?"."""
    for model, weights, low, high in [({}, (0.01, 0.005), 0.0, 0.05), ({}, (1, 1), 0.06, 0.2),
                                      ({"read_grad": True}, (0.01, 0.005), 0.8, 1.5),
                                      ({"concat_query": True}, (0.01, 0.005), 0.8, 1.5)]:
        published, other = trained_encoder((10, 5), **model), trained_encoder(weights, **model)
        assert low <= (other - published).norm() / published.norm() < high, (model, weights)
    # Twice the gradient is exact in binary, so that Adam cancels it to the bit where its epsilon does not count.
    assert torch.equal(trained_encoder((10, 5), 1e-30), trained_encoder((20, 10), 1e-30))
