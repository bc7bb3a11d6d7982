"""Memory read and update against loops over items and queries."""

import pytest
import torch
import torch.nn.functional as F
from reference import (
    memory_mean,
    memory_read,
    memory_revival,
    memory_update,
    memory_update_by_softmax,
    query_rows,
    ranking,
)
from torch.testing import assert_close

from lgn_net.model.memory import PrototypeMemory

B, D, h, w, M = 2, 8, 3, 4, 5


def random_queries(seed, shift=0.0):
    """(B, D, h, w) of unit length; `shift` along the first axis draws them together."""
    queries = torch.randn(B, D, h, w, generator=torch.Generator().manual_seed(seed))
    queries[:, 0] += shift
    return F.normalize(queries, dim=1)


def memory_of(items, **switches):
    memory = PrototypeMemory(*items.shape, **switches)
    memory.items.copy_(items)
    return memory


def random_items(seed=0, num_items=M):
    return F.normalize(torch.randn(num_items, D, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_items_are_state_not_parameters():
    memory = PrototypeMemory(200, 32)
    assert list(memory.state_dict()) == ["items"] and not list(memory.parameters())
    assert_close(memory.items.norm(dim=1), torch.ones(200))
    assert memory.items.min() >= 0                                        # uniform [0, 1), normalised
    assert (memory.items / memory.items.amax(1, keepdim=True)).mean() == pytest.approx(0.5, abs=0.03)


def test_similarity_and_nearest():
    memory, queries = memory_of(random_items()), random_queries(0)
    rows = query_rows(queries)
    assert_close(memory.similarity(queries), torch.stack([torch.stack([p @ q for p in memory.items]) for q in rows]))
    assert memory.nearest(queries, k=2).tolist() == [ranking(memory.items, q)[:2] for q in rows]


@pytest.mark.parametrize("read_temperature", [1.0, 0.2])
@pytest.mark.parametrize("read_grad", [False, True])
def test_read(read_grad, read_temperature):
    memory = memory_of(random_items(), read_grad=read_grad, read_temperature=read_temperature)
    queries = random_queries(0).requires_grad_()
    expected = memory_read(memory.items, query_rows(queries), read_temperature)             # (N, D)
    read = memory.read(queries)
    assert read.shape == queries.shape
    assert_close(query_rows(read), expected, atol=1e-5, rtol=0)
    assert read.requires_grad == read_grad
    if read_grad:
        direction = torch.randn_like(expected)
        expected_grad, = torch.autograd.grad((expected * direction).sum(), queries)
        grad, = torch.autograd.grad((query_rows(read) * direction).sum(), queries)
        assert_close(grad, expected_grad)


@pytest.mark.parametrize("update_max", ["all", "own"])
@pytest.mark.parametrize("shift", [0.0, 2.0, -9.0])                       # -9: all similarities are negative at first
def test_updates_in_a_row(update_max, shift):
    items = random_items()
    items[:, 0] = items[:, 0].abs() + abs(shift) / 4
    items[0] = -query_rows(random_queries(0, shift)).mean(0)              # an item that no query chooses
    memory, moved = memory_of(F.normalize(items, dim=1), update_max=update_max), set()
    assert (memory.similarity(random_queries(0, shift)).max() < 0) == (shift < 0)
    for step in range(6):
        queries, before = random_queries(step, shift), memory.items.clone()
        rows = query_rows(queries)
        memory.update_(queries)
        assert_close(memory.items, memory_update(before, rows, update_max), atol=1e-6, rtol=0)
        assert_close(memory.items, memory_update_by_softmax(before, rows, update_max), atol=1e-6, rtol=0)
        assert_close(memory.items.norm(dim=1), torch.ones(M), atol=1e-6, rtol=0)
        chosen = {ranking(before, q)[0] for q in rows}
        for i in range(M):
            assert torch.equal(memory.items[i], before[i]) == (i not in chosen)
        moved |= chosen
    assert len(moved) > 1


@pytest.mark.parametrize("keep", [0.9, 0.3])
def test_moving_averages_in_a_row(keep):
    items = random_items()
    items[0] = -F.normalize(query_rows(random_queries(0, 2.0)).mean(0), dim=0)              # no query chooses it
    memory = memory_of(items, ema=keep)
    for step in range(4):
        before, rows = memory.items.clone(), query_rows(random_queries(step, 2.0))
        memory.update_(random_queries(step, 2.0))
        assert_close(memory.items, memory_mean(before, rows, keep), atol=1e-6, rtol=0)
        for i in range(M):
            assert torch.equal(memory.items[i], before[i]) == (i not in {ranking(before, q)[0] for q in rows})
    assert torch.equal(memory.items[0], items[0]) and not torch.equal(memory.items, items)


@pytest.mark.parametrize("patience", [1, 3])
def test_items_left_out_for_long_become_the_farthest_queries(patience):
    items = random_items()
    items[[0, 3]] = -items[[0, 3]] - 2 * torch.eye(D)[0]                  # far from queries that are drawn together
    memory = memory_of(F.normalize(items, dim=1), revive_after=patience)
    plain, idle, revived = memory_of(memory.items), [0] * M, 0
    for step in range(7):
        queries, before = random_queries(step, 2.0), memory.items.clone()
        plain.items.copy_(before)
        plain.update_(queries)
        memory.update_(queries)
        expected, idle = memory_revival(before, plain.items, query_rows(queries), idle, patience)
        assert torch.equal(memory.items, expected) and memory.idle.tolist() == idle
        revived += (expected != plain.items).any(dim=1).sum().item()
    assert revived >= 2
    memory.eval()                                                         # what test frames do not choose, stays
    before, idle = memory.items.clone(), memory.idle.clone()
    for _ in range(patience + 1):
        memory.update_(F.normalize(before[:1], dim=1).reshape(1, D, 1, 1))
    assert torch.equal(memory.items[1:], before[1:]) and torch.equal(memory.idle, idle)


def test_more_dead_items_than_queries():
    memory = memory_of(random_items(), revive_after=1)
    query, before = random_queries(0)[:1, :, :1, :1], memory.items.clone()
    memory.update_(query)
    changed = (memory.items != before).any(dim=1)
    chosen = ranking(before, query.flatten())[0]
    first_dead = min({*range(M)} - {chosen})
    assert changed.nonzero().flatten().tolist() == sorted({chosen, first_dead})
    assert torch.equal(memory.items[first_dead], query.flatten())


def test_queries_of_zeros_become_no_items():
    """MSN-Net's finer ones can be: behind a ReLU there is no length to make them unit."""
    queries = random_queries(0)
    queries[0, :, 0] = 0
    for learn in (PrototypeMemory.sample_, PrototypeMemory.update_):
        memory = memory_of(random_items(), revive_after=1)
        before = memory.items.clone()
        learn(memory, queries)
        assert not torch.equal(memory.items, before)
        assert_close(memory.items.norm(dim=1), torch.ones(M))
        learn(memory, torch.zeros_like(queries))
        assert_close(memory.items.norm(dim=1), torch.ones(M))


@pytest.mark.parametrize("there, here", [(0, 2), (2, 0), (2, 3)])
def test_weights_move_between_memories_with_and_without_revival(there, here):
    source, target = memory_of(random_items(), revive_after=there), PrototypeMemory(M, D, revive_after=here)
    if there:
        source.idle.copy_(torch.arange(M))
    state = torch.nn.Sequential(source).state_dict()
    torch.nn.Sequential(target).load_state_dict(state)
    assert torch.equal(target.items, source.items)
    if here:
        assert target.idle.tolist() == (list(range(M)) if there else [0] * M)
    assert ("0.idle" in state) == (there > 0)                             # what was handed over is as before


def test_items_drawn_from_the_queries():
    memory, queries = memory_of(random_items()), random_queries(0)
    rows = query_rows(queries)
    drawn = set()
    for seed in range(8):
        torch.manual_seed(seed)
        memory.sample_(queries)
        places = [[k for k, row in enumerate(rows) if torch.equal(row, item)] for item in memory.items]
        assert all(len(place) == 1 for place in places) and len({place[0] for place in places}) == M
        drawn |= {place[0] for place in places}
    assert len(drawn) > len(rows) / 2                                     # from all over the batch
    few, before = queries[:1, :, :1, :3], memory.items.clone()
    memory.sample_(few)                                                   # fewer queries than items
    assert {tuple(item.tolist()) for item in memory.items[:3]} == {tuple(row.tolist()) for row in query_rows(few)}
    assert torch.equal(memory.items[3:], before[3:])


def test_an_item_nobody_chose_stays_bit_identical():
    items = random_items()
    items[3] = items[3] * (1 + 3e-7)                                      # a norm that renormalising would mend
    queries = F.normalize(items[[0, 1, 2, 4, 0, 1]] + 0.05, dim=1).T.reshape(1, D, 2, 3)
    for update_max in ("all", "own"):
        memory = memory_of(items, update_max=update_max)
        memory.update_(queries)
        assert torch.equal(memory.items[3], items[3])
        assert all(not torch.equal(memory.items[i], items[i]) for i in (0, 1, 2, 4))


@pytest.mark.parametrize("update_max", ["all", "own"])
def test_ties_go_to_one_item(update_max):
    items = torch.eye(D)[[0, 0, 1, 2]]                                    # items 0 and 1 are equal
    queries = F.normalize(torch.eye(D)[0] + 0.1 * torch.rand(1, h, w, D), dim=-1).permute(0, 3, 1, 2)
    memory = memory_of(items, update_max=update_max)
    assert set(memory.nearest(queries, k=2).flatten().tolist()) == {0, 1}
    assert (memory.nearest(queries, k=2).sort().values == torch.tensor([0, 1])).all()       # two different ones
    memory.update_(queries)
    assert_close(memory.items, memory_update(items, query_rows(queries), update_max), atol=1e-6, rtol=0)
    assert torch.equal(memory.items[1:], items[1:])                       # all went to the first


@pytest.mark.parametrize("update_max", ["all", "own"])
def test_update_does_not_depend_on_the_order_of_queries(update_max):
    one, other = memory_of(random_items(), update_max=update_max), memory_of(random_items(), update_max=update_max)
    queries = random_queries(0)                                           # (B, D, h, w)
    rows = query_rows(queries)[torch.randperm(B * h * w)]
    one.update_(queries)
    other.update_(rows.T.reshape(1, D, h * B, w))                         # another order, another shape
    assert_close(one.items, other.items, atol=1e-6, rtol=0)


def test_paper_and_code_update_nearly_alike():
    """At the published size, from random items: cosine of the two above 0.9995, lowest at the first update."""
    torch.manual_seed(0)
    paper, code, cosines = PrototypeMemory(10, 512, update_max="own"), PrototypeMemory(10, 512, update_max="all"), []
    for _ in range(6):
        code.items.copy_(paper.items)                                     # one step's difference, from the same items
        queries = torch.randn(1, 512, 32, 32)
        queries[:, 0] += 20                                               # they have something in common
        for memory in (paper, code):
            memory.update_(F.normalize(queries, dim=1))
        cosines.append(F.cosine_similarity(paper.items, code.items).min().item())
    assert cosines[0] == min(cosines) and 0.9995 < cosines[0] < 0.9999


@pytest.mark.parametrize("switches", [{"update_max": "all"}, {"update_max": "own"}, {"revive_after": 1},
                                      {"ema": 0.9, "read_temperature": 0.3}], ids=str)
def test_bfloat16_autocast_changes_no_bit(switches):
    plain, mixed = memory_of(random_items(), **switches), memory_of(random_items(), **switches)
    queries = random_queries(0)
    similarity, read, nearest = plain.similarity(queries), plain.read(queries), plain.nearest(queries, k=2)
    plain.update_(queries)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (queries.flatten(0, 2) @ queries.flatten(0, 2).T).dtype == torch.bfloat16     # it is on
        assert mixed.similarity(queries).dtype == torch.float32
        assert torch.equal(mixed.similarity(queries), similarity)
        assert torch.equal(mixed.read(queries), read) and mixed.read(queries).dtype == torch.float32
        assert torch.equal(mixed.nearest(queries, k=2), nearest)
        mixed.update_(queries)
    assert mixed.items.dtype == torch.float32 and torch.equal(mixed.items, plain.items)


def test_usage_and_redundancy_by_hand():
    memory = PrototypeMemory(3, 2)
    memory.items.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, -0.8]]))
    queries = torch.tensor([[1.0, 0.9], [0.0, 0.1]]).view(1, 2, 1, 2)                          # (1, 0) and (.9, .1)
    assert memory.usage(queries).tolist() == [2, 0, 0]
    assert memory.redundancy() == pytest.approx((0 - 0.6 - 0.8) / 3)
