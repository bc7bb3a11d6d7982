"""A step of training: its numbers, and every switch that must not change them (parts, recomputing, compiling)."""

import itertools
from functools import partial

import pytest
import torch
from steps import config_of, take_steps
from test_model import MEMBERS, losses_of, random_clip
from torch._dynamo import lookup_backend
from torch.autograd.graph import saved_tensors_hooks
from torch.testing import assert_close

from lgn_net.device import set_kernels
from lgn_net.training import step as training
from lgn_net.training.step import recompute_activations, shares_of

GOLDEN = [                                # total, prediction, compactness, separateness
    [0.79689193, 0.47389746, 0.022358978, 0.62363005], [0.57207757, 0.30980733, 0.016245311, 0.50829518],
    [0.71018362, 0.3735491, 0.021551684, 0.65171736], [0.61658895, 0.3242574, 0.014773468, 0.56988961],
    [0.59367537, 0.35038054, 0.012910717, 0.47367892], [0.51786107, 0.25225082, 0.015261356, 0.51595914],
    [0.65203792, 0.35141388, 0.018377518, 0.58287054], [0.56099081, 0.29509321, 0.013870314, 0.51792496],
    [0.52461058, 0.29442343, 0.012152215, 0.44822213], [0.44941202, 0.19643937, 0.014504299, 0.49144101]]


def test_ten_steps():
    """Losses of float32 steps of a drawn network on drawn clips. Another number here is another method: say why."""
    losses, golden = torch.stack(take_steps(config_of({}), 10 * (6,)).losses), torch.tensor(GOLDEN)
    assert_close(losses[:5], golden[:5], rtol=1e-4, atol=0)
    assert_close(losses, golden, rtol=0.03, atol=0)             # from step 6 on rounding may choose another item


@pytest.mark.parametrize("processes", [1, 3])
def test_shares_are_the_batch(monkeypatch, processes):
    """Every window once over all processes, as many shares on each, weights that add up to 1."""
    monkeypatch.setattr(training, "world_size", lambda: processes)
    for size, parts in itertools.product((1, 2, 3, 8, 17), (1, 2, 40)):
        batch, of_each = [100 + i for i in range(size)], []
        for rank in range(processes):
            monkeypatch.setattr(training, "rank", lambda rank=rank: rank)
            of_each.append(shares_of(batch, parts))
        shares = [share for of_one in of_each for share in of_one]
        assert [window for share in shares if share.weight for window in share.windows] == batch
        assert len(set(map(len, of_each))) == 1 and 1 <= len(of_each[0]) <= parts
        assert sum(share.weight for share in shares) == pytest.approx(1, abs=1e-12)
        assert all(share.weight == pytest.approx(len(share.windows) / size) if share.weight else
                   share.windows[0] in batch for share in shares)


@pytest.mark.parametrize("model", [{"update_max": "own", "read_grad": True}, *(
    pytest.param(model, marks=pytest.mark.slow) for model in ({"revive_after": 2}, {"name": "msn_net"}))], ids=str)
def test_a_batch_in_parts_equals_one_that_goes_in_at_once(model):
    once, in_parts = (take_steps(config_of(model, {"accumulate": parts}), (8, 3, 1)) for parts in (1, 5))
    assert_close(in_parts.losses, once.losses, atol=1e-5, rtol=0)
    assert_close(in_parts.items, once.items, atol=1e-6, rtol=0)
    assert_close(in_parts.usage, once.usage, atol=0, rtol=0)
    assert_close(in_parts.weights, once.weights, atol=1e-5, rtol=0)


def two_passes(member, model):
    """Losses, gradients and buffers of two passes in training; and how many numbers they keep for the backward pass."""
    kept, losses = [], []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    for _ in range(2):
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            losses.append(losses_of(member, model, random_clip(member.window, W=16)))
        losses[-1].total.backward()
    return ([loss.detach() for of_pass in losses for loss in of_pass], [p.grad for p in model.parameters()],
            dict(model.named_buffers())), sum(kept)


@pytest.mark.parametrize("name", ["lgn_net", *(pytest.param(name, marks=pytest.mark.slow) for name in
                                               ("lgn_st", "mnad_pred", "msn_net"))])
def test_recomputing_changes_no_bit_and_keeps_less(name):
    member = MEMBERS[name]
    model = member.model().train()
    recompute_activations(model)
    found, kept = two_passes(member, model)
    expected, of_all = two_passes(member, member.model().train())
    assert_close(found, expected, atol=0, rtol=0)
    assert kept < 0.6 * of_all


def test_float32_rounds_no_convolution_and_nothing_rounds_products(monkeypatch):
    cudnn = torch.backends.cudnn
    for name in ("allow_tf32", "deterministic", "benchmark"):
        monkeypatch.setattr(cudnn, name, getattr(cudnn, name))            # put back afterwards
    for precision, deterministic in (("tf32", True), ("float32", False), ("bfloat16", True)):
        set_kernels(precision, deterministic)
        assert cudnn.allow_tf32 == (precision != "float32") and not torch.backends.cuda.matmul.allow_tf32
        assert cudnn.deterministic == deterministic and cudnn.benchmark == (not deterministic)


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True], ids=["compiled", "a compiler that fails"])
def test_compiled_steps_equal_plain_ones(monkeypatch, fails):
    """All of torch.compile but the C++ or Triton at its end, which takes a minute; for one size of batches."""
    sizes = set()

    def backend(graph, inputs):
        sizes.update(len(x) for x in inputs if x.shape[1:] == (4, 1, 16, 16))
        return 1 / 0 if fails else lookup_backend("aot_eager")(graph, inputs)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    model, train = {"name": "mnad_pred", "read_grad": True}, {"accumulate": 2, "checkpoint_activations": True}
    compiled = take_steps(config_of(model, {"compile": True, **train}), (8, 8, 3))
    expected = take_steps(config_of(model), (8, 8, 3))
    assert sizes == {4}
    assert_close(compiled.losses, expected.losses, atol=1e-5, rtol=0)
    assert_close(compiled.weights, expected.weights, atol=1e-5, rtol=0)
    torch._dynamo.reset()
