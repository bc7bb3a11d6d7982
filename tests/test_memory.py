"""The memory's look-up and update, and its remedies for unused items, against loops over items and queries."""

import pytest
import torch
import torch.nn.functional as F
from reference import compactness, memory_read, memory_revival, memory_update, query_rows, ranking
from torch.testing import assert_close

from lgn_net.inference.signals import query_distance
from lgn_net.model.memory import PrototypeMemory
from lgn_net.model.revival import RevivingMemory, sample_items_

B, D, h, w, M = 2, 8, 3, 4, 5


def random_queries(seed, shift=0.0):
    """(B, D, h, w) of unit length; `shift` along the first axis draws them together."""
    queries = torch.randn(B, D, h, w, generator=torch.Generator().manual_seed(seed))
    queries[:, 0] += shift
    return F.normalize(queries, dim=1)


def memory_of(items, **switches):
    memory = (RevivingMemory if "revive_after" in switches else PrototypeMemory)(*items.shape, **switches)
    memory.items.copy_(items)
    return memory


def random_items():
    return F.normalize(torch.randn(M, D, generator=torch.Generator().manual_seed(0)), dim=1)


def test_items_are_state_not_parameters():
    memory = PrototypeMemory(200, 32)
    assert list(memory.state_dict()) == ["items"] and not list(memory.parameters())
    assert_close(memory.items.norm(dim=1), torch.ones(200))
    assert memory.items.min() >= 0                                        # uniform [0, 1), normalised
    assert (memory.items / memory.items.amax(1, keepdim=True)).mean() == pytest.approx(0.5, abs=0.03)
    assert memory_of(torch.tensor([[1, 0], [0, 1], [-0.6, -0.8]])).redundancy() == pytest.approx((0 - 0.6 - 0.8) / 3)


@pytest.mark.parametrize("read_grad", [False, True])
def test_lookup(read_grad):
    memory, queries = memory_of(random_items(), read_grad=read_grad), random_queries(0).requires_grad_()
    rows, found = query_rows(queries), memory.lookup(queries)
    assert_close(found.similarity, torch.stack([torch.stack([p @ q for p in memory.items]) for q in rows]))
    assert found.nearest.tolist() == [ranking(memory.items, q)[:2] for q in rows]
    assert found.queries is queries and torch.equal(found.flat, rows) and found.prototypes.shape == queries.shape
    expected, read = memory_read(memory.items, queries), found.prototypes
    assert_close(read, expected, atol=1e-5, rtol=0)
    assert read.requires_grad == read_grad
    if read_grad:
        assert_close(*(torch.autograd.grad(x.square().sum(), queries) for x in (read, expected)))
    distance = query_distance(found, memory)
    assert_close(distance, torch.stack([compactness(memory.items, query_rows(queries[b:b + 1])) for b in range(B)]))


@pytest.mark.parametrize("update_max", ["all", "own"])
@pytest.mark.parametrize("shift", [0.0, 2.0, -9.0])                       # -9: all similarities are negative at first
def test_updates_in_a_row(update_max, shift):
    items = random_items()
    items[:, 0] = items[:, 0].abs() + abs(shift) / 4
    items[0] = -query_rows(random_queries(0, shift)).mean(0)              # an item that no query chooses
    memory, moved = memory_of(F.normalize(items, dim=1), update_max=update_max), set()
    memory.items[0] *= 1 + 3e-7                                           # a norm that renormalising would mend
    assert (memory.lookup(random_queries(0, shift)).similarity.max() < 0) == (shift < 0)
    for step in range(6):
        queries, before = random_queries(step, shift), memory.items.clone()
        rows = query_rows(queries)
        count = memory.update_(memory.lookup(queries))
        assert_close(memory.items, memory_update(before, rows, update_max), atol=1e-6, rtol=0)
        chosen = [ranking(before, q)[0] for q in rows]
        assert count.tolist() == [chosen.count(i) for i in range(M)]
        for i in range(M):
            assert torch.equal(memory.items[i], before[i]) == (i not in chosen)
        moved |= set(chosen)
    assert len(moved) > 1


def test_ties_go_to_one_item():
    items = torch.eye(D)[[0, 0, 1, 2]]                                    # items 0 and 1 are equal
    queries = F.normalize(torch.eye(D)[0] + 0.1 * torch.rand(1, h, w, D), dim=-1).permute(0, 3, 1, 2)
    memory = memory_of(items)
    found = memory.lookup(queries)
    assert (found.nearest.sort().values == torch.tensor([0, 1])).all()    # two different ones
    count = memory.update_(found)
    assert count[:2].sum() == h * w and torch.equal(memory.items[2:], items[2:])       # each query moves one item


@pytest.mark.parametrize("switches", [{}, {"update_max": "own", "revive_after": 1}], ids=str)
def test_bfloat16_autocast_changes_no_bit(switches):
    plain, mixed = memory_of(random_items(), **switches), memory_of(random_items(), **switches)
    expected = plain.lookup(random_queries(0))
    plain.update_(expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mixed.lookup(random_queries(0))
        mixed.update_(found)
    assert_close(tuple(found), tuple(expected), atol=0, rtol=0)           # dtypes, too
    assert mixed.items.dtype == torch.float32 and torch.equal(mixed.items, plain.items)


@pytest.mark.parametrize("patience", [1, 3])
def test_items_left_out_for_long_become_the_farthest_queries(patience):
    items = random_items()
    items[[0, 3]] = -items[[0, 3]] - 2 * torch.eye(D)[0]                  # far from queries that are drawn together
    memory = memory_of(F.normalize(items, dim=1), revive_after=patience)
    plain, idle, revived = memory_of(memory.items), [0] * M, 0
    for step in range(7):
        queries, before = random_queries(step, 2.0), memory.items.clone()
        plain.items.copy_(before)
        plain.update_(plain.lookup(queries))
        memory.update_(memory.lookup(queries))
        expected, idle = memory_revival(before, plain.items, query_rows(queries), idle, patience)
        assert torch.equal(memory.items, expected) and memory.idle.tolist() == idle
        revived += (expected != plain.items).any(dim=1).sum().item()
    assert revived >= 2
    memory.eval()                                                         # what test frames do not choose, stays
    before, idle = memory.items.clone(), memory.idle.clone()
    for _ in range(patience + 1):
        memory.update_(memory.lookup(F.normalize(before[:1], dim=1).reshape(1, D, 1, 1)))
    assert torch.equal(memory.items[1:], before[1:]) and torch.equal(memory.idle, idle)


def test_queries_of_zeros_become_no_items():
    """MSN-Net's finer ones can be: behind a ReLU there is no length to make them unit."""
    queries = random_queries(0)
    queries[0, :, 0] = 0
    for change in (sample_items_, RevivingMemory.update_):
        memory = memory_of(random_items(), revive_after=1)
        before = memory.items.clone()
        change(memory, memory.lookup(queries))
        assert not torch.equal(memory.items, before)
        change(memory, memory.lookup(torch.zeros_like(queries)))
        assert_close(memory.items.norm(dim=1), torch.ones(M))


def test_items_drawn_from_the_queries():
    memory, queries, drawn = memory_of(random_items()), random_queries(0), set()
    rows = query_rows(queries).tolist()
    for seed in range(8):
        torch.manual_seed(seed)
        sample_items_(memory, memory.lookup(queries))
        places = {rows.index(item) for item in memory.items.tolist()}
        assert len(places) == M
        drawn |= places
    assert len(drawn) > len(rows) / 2                                     # from all over the batch
