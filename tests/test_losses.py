"""Losses against loops over queries, and where their gradients go."""

import pytest
import torch
import torch.nn.functional as F
from reference import losses as losses_by_loops
from reference import losses_of_family
from torch.testing import assert_close

from lgn_net.model.lgn_net import Output
from lgn_net.model.losses import compute_losses
from lgn_net.model.memory import PrototypeMemory


def case(seed=0, B=2, D=8, h=3, w=4, M=5):
    """memory, prediction, queries (both leaves with gradient), target."""
    torch.manual_seed(seed)
    memory = PrototypeMemory(M, D)
    memory.items.copy_(F.normalize(torch.randn(M, D), dim=1))
    queries = F.normalize(torch.randn(B, D, h, w), dim=1).requires_grad_()
    prediction = torch.tanh(torch.randn(B, 3, 8 * h, 8 * w)).requires_grad_()
    return memory, prediction, queries, torch.rand(B, 3, 8 * h, 8 * w) * 2 - 1


def both(memory, prediction, queries, target, lambda_c=10.0, lambda_s=5.0, margin=1.0):
    ours = compute_losses(Output(prediction, [queries]), target=target, memories=[memory], compactness_weight=lambda_c,
                          separateness_weight=lambda_s, margin=margin)
    return ours, losses_by_loops(memory.items, prediction, queries, target, lambda_c, lambda_s, margin)


@pytest.mark.parametrize("lambda_c, lambda_s, margin", [(10, 5, 1), (1, 1, 0.3), (0.1, 0, 2)])
def test_values_and_gradients_equal_the_loops(lambda_c, lambda_s, margin):
    memory, prediction, queries, target = case()
    ours, expected = both(memory, prediction, queries, target, lambda_c, lambda_s, margin)
    for name, value, right in zip(ours._fields, ours, expected, strict=True):
        assert_close(value, right, rtol=1e-5, atol=1e-7, msg=name)
        leaves = [prediction, queries]
        grads = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        right_grads = torch.autograd.grad(right, leaves, retain_graph=True, allow_unused=True)
        for grad, right_grad in zip(grads, right_grads, strict=True):
            assert (grad is None) == (right_grad is None), name
            if grad is not None:
                assert_close(grad, right_grad, rtol=1e-4, atol=1e-7)


def test_separateness_at_its_limits():
    memory, prediction, queries, target = case()
    with torch.no_grad():                                                 # every query sits on an item
        queries.copy_(memory.items[torch.arange(24) % 5].T.reshape(8, 2, 3, 4).transpose(0, 1))
    ours, expected = both(memory, prediction, queries, target, margin=0.01)
    assert ours.separateness == 0 and ours.compactness < 1e-12            # the second item is farther than the margin
    ours, expected = both(memory, prediction, queries, target, margin=2.0)
    grad, = torch.autograd.grad(ours.separateness, queries)
    right, = torch.autograd.grad(expected[3], queries)
    assert_close(grad, right)                                             # eps 1e-6 keeps it finite, and visible
    assert grad.isfinite().all() and grad.abs().max() > 0
    memory.items.copy_(memory.items[:1].expand(5, 8))                     # nearest and second nearest tie
    assert_close(both(memory, prediction, queries, target, margin=0.7)[0].separateness, torch.tensor(0.7))


def test_items_get_no_gradient_and_do_not_change():
    memory, prediction, queries, target = case()
    before = memory.items.clone()
    ours, _ = both(memory, prediction, queries, target)
    ours.total.backward()
    assert not memory.items.requires_grad and memory.items.grad is None and torch.equal(memory.items, before)
    assert queries.grad.any() and prediction.grad.any()


def test_halves_of_a_batch_average_to_the_whole():
    memory, prediction, queries, target = case()
    whole, _ = both(memory, prediction, queries, target)
    halves = [both(memory, prediction[b:b + 1], queries[b:b + 1], target[b:b + 1])[0] for b in range(2)]
    for value, first, second in zip(whole, *halves, strict=True):
        assert_close(value, (first + second) / 2)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_several_memories_share_their_losses_and_none_has_none(count):
    cases = [case(seed, D=D, h=h, w=4) for seed, (D, h) in enumerate([(4, 6), (8, 3), (16, 2)])][:count]
    _, prediction, _, target = case()
    memories, queries = [c[0] for c in cases], [c[2] for c in cases]
    ours = compute_losses(Output(prediction, queries), target, memories, 10, 5, margin=1.0)
    right = losses_of_family([memory.items for memory in memories], prediction, queries, target, 10, 5)
    for name, value, expected in zip(ours._fields, ours, right, strict=True):
        assert_close(value, torch.as_tensor(expected), rtol=1e-5, atol=1e-7, msg=name)
    assert (ours.separateness > 0) == (count > 0)
    grads = torch.autograd.grad(ours.total, [prediction, *queries])
    for grad, expected in zip(grads, torch.autograd.grad(right[0], [prediction, *queries]), strict=True):
        assert_close(grad, expected, rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError):                                       # a memory without its queries
        compute_losses(Output(prediction, queries[:-1]), target, memories or [PrototypeMemory(2, 8)], 10, 5, margin=1.0)
