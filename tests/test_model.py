"""LGN-Net and every relative, with and without switches: sizes, numbers, gradients, BatchNorm, precision."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import reference as slow
import torch
import torch.nn.functional as F
from helpers import random_official_state
from reference import official_name
from torch import nn
from torch.testing import assert_close

from lgn_net.config import Config, DataConfig, LossConfig, ModelConfig, ScoreConfig
from lgn_net.inference.stream import for_inference
from lgn_net.model.build import build_model
from lgn_net.model.losses import compute_losses
from lgn_net.model.st_lstm import STLSTMCell

SIZES = {"base_width": 4, "hidden_width": 6, "lstm_layers": 2, "memory_items": 5}


class Member(NamedTuple):
    """One network of the family, and the slow one that it must equal."""

    name: str
    switches: dict
    slow: Callable | None
    depths: tuple[int, ...] = (8,)      # of each memory's items, in units of base_width

    @property
    def n(self):
        """Frames that go in."""
        return 1 if self.name == "mnad_recon" else 4

    @property
    def window(self):
        """Frames that come from a video at once: those that go in, and the one to predict."""
        return 1 if self.name == "mnad_recon" else 5

    def config(self, channels=3, **knobs):
        """At a tiny size."""
        knobs = SIZES | {"name": self.name, "input_frames": self.n} | self.switches | knobs
        return Config(data=DataConfig(channels=channels, image_size=16), model=ModelConfig(**knobs))

    def model(self, channels=3, **knobs):
        """The network, drawn from the same seed every time."""
        torch.manual_seed(0)
        return build_model(self.config(channels, **knobs))

    def twins(self, n=None, channels=3, layers=2, **knobs):
        """The network, and the weights and items of the slow one, the same."""
        n = n or self.n
        state, _ = random_official_state(1, width=4, hidden=6, layers=layers, n=n, items=5, channels=channels,
                                         memory=bool(self.depths), system=self.name)
        rng = torch.Generator().manual_seed(2)
        items = [F.normalize(torch.randn(5, 4 * depth, generator=rng), dim=1) for depth in self.depths]
        model = self.model(channels, input_frames=n, lstm_layers=layers, **knobs)
        names = [name for name in model.state_dict() if not name.endswith("items")]
        used = {name for name in state if not name.startswith("encoder.moduleBatchNorm.")}
        assert {official_name(name) for name in names} == used
        model.load_state_dict({name: state[official_name(name)] for name in names}, strict=False)
        for memory, values in zip(model.memories, items, strict=True):
            assert memory.items.shape == values.shape
            memory.items.copy_(values)
        return model, state, items


MEMBERS = {
    "lgn_net": Member("lgn_net", {}, slow.lgn_net),
    "lgn_net, differentiable reads": Member("lgn_net", {"read_grad": True}, partial(slow.lgn_net, detach=False)),
    "lgn_st": Member("lgn_st", {}, partial(slow.lgn_net, recur=slow.conv_lstms)),
    "loc_net": Member("loc_net", {}, slow.loc_net, ()),
    "glo_net": Member("glo_net", {}, slow.mnad_recon),
    "mnad_pred": Member("mnad_pred", {}, slow.mnad_pred),
    "mnad_recon": Member("mnad_recon", {}, slow.mnad_recon),
    "msn_net": Member("msn_net", {}, slow.msn_net, (2, 4, 8)),
    **{f"{name} without memory": Member(name, {"memory": False}, network, ()) for name, network in (
        ("lgn_net", slow.lgn_net), ("mnad_pred", slow.mnad_pred), ("mnad_recon", slow.mnad_recon))},
}
QUICK = ("lgn_net", "mnad_recon", "msn_net", "lgn_net without memory")   # in tests that take long
BY_TIME = [pytest.param(member, id=name, marks=() if name in QUICK else pytest.mark.slow)
           for name, member in MEMBERS.items()]
members_by_time = pytest.mark.parametrize("member", BY_TIME)


def random_clip(n, B=2, C=3, H=16, W=24):
    return torch.rand(B, n, C, H, W, generator=torch.Generator().manual_seed(0)) * 2 - 1


def losses_of(member, model, clip):
    """clip (B, window, C, H, W)."""
    return compute_losses(model(clip[:, :member.n]), clip[:, -1], model.memories, LossConfig())


@pytest.mark.parametrize("name, parameters", [("lgn_net", 22_752_643), ("mnad_pred", 15_650_819),
                                              ("mnad_recon", 17_195_267)])
def test_published_size(name, parameters):
    """The slow networks have the sizes of the others."""
    with torch.device("meta"):
        model = build_model(Config(model=ModelConfig(name=name, input_frames=1 if name == "mnad_recon" else 4)))
    assert sum(p.numel() for p in model.parameters()) == parameters and model.memory.items.shape == (10, 512)


@pytest.mark.parametrize("member, training, sizes", [
    *(pytest.param(*p.values, False, None, id=f"{p.id}-eval", marks=p.marks) for p in BY_TIME),
    *(pytest.param(*p.values, True, None, id=f"{p.id}-train") for p in BY_TIME),
    (MEMBERS["lgn_net"], False, (2, 1, 4)), (MEMBERS["lgn_net"], False, (5, 3, 1))])
def test_predictions_losses_and_gradients_equal_the_slow_ones(member, training, sizes):
    """With so many input frames, channels and recurrent layers."""
    n, channels, layers = sizes or (member.n, 3, 2)
    model, state, items = member.twins(n, channels, layers)
    model.train(training)
    clip = random_clip(n + member.window - member.n, C=channels)
    weights = {name: state[official_name(name)].requires_grad_() for name, _ in model.named_parameters()}
    prediction, queries = member.slow(state, items, clip[:, :n], training)
    expected = slow.losses_of_family(items, prediction, queries, clip[:, -1], 10, 5)
    out = model(clip[:, :n])
    losses = compute_losses(out, clip[:, -1], model.memories, LossConfig())

    tolerance = {"atol": 2e-4 if training else 1e-5, "rtol": 1e-5}        # statistics of 12 values amplify rounding
    assert_close(out.prediction, prediction, **tolerance)
    assert_close([lookup.queries for lookup in out.lookups], queries, **tolerance)
    assert_close(torch.stack(losses), torch.stack([torch.as_tensor(loss) for loss in expected]), atol=1e-5, rtol=1e-4)
    for name, buffer in model.named_buffers():            # the pass in training moved the running statistics alike
        if not name.endswith("items"):
            assert_close(buffer, state[official_name(name)], **tolerance, msg=name)
    losses.total.backward()
    right = torch.autograd.grad(expected[0], list(weights.values()))
    largest = max(grad.abs().max().item() for grad in right)
    for (name, parameter), grad in zip(model.named_parameters(), right, strict=True):
        assert (parameter.grad - grad).abs().max() < (1e-3 if training else 1e-5) * largest, name


def test_forget_bias_reaches_every_cell():
    torch.manual_seed(0)
    cell = STLSTMCell(8, 6, forget_bias=0.0)
    state = {f"cell.conv_{gate}.0.weight": getattr(cell, f"conv_{gate}").weight for gate in "xhmo"}
    state["cell.conv_last.weight"] = cell.conv_1x1.weight
    x, H, C, M = torch.randn(2, 8, 4, 5), *torch.randn(3, 2, 6, 4, 5)
    assert_close(cell(x, H, C, M), slow.st_lstm_cell(state, "cell", x, H, C, M, 0.0), atol=1e-5, rtol=1e-5)
    cells = MEMBERS["lgn_net"].model(forget_bias=0.0).local_branch.cells
    assert [cell.forget_bias for cell in cells] == [0.0, 0.0]


@pytest.mark.parametrize("training", [False, True])
def test_with_every_switch_each_part_learns(training):
    """Switches without a slow twin: E_glo learns by the query that the decoder sees."""
    member = Member("lgn_net", {"concat_query": True, "fold_time": True, "forget_bias": 0.0, "bn_init": "uniform",
                                "update_max": "own"}, None)
    model = member.model().train(training)
    assert model.memory.update_max == "own"
    losses_of(member, model, random_clip(member.window, W=16)).prediction.backward()
    for name, parameter in model.named_parameters():      # batch statistics take the gradient of a bias before them
        assert parameter.grad.isfinite().all() and (parameter.grad.any() or training and name.endswith("bias")), name


def batch_norms(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def test_fold_time_is_one_batch_in_training_and_changes_nothing_in_eval():
    n = 3
    frame_by_frame, state, _ = MEMBERS["lgn_net"].twins(n)
    folded, _, _ = MEMBERS["lgn_net"].twins(n, fold_time=True)
    clip = random_clip(n)
    assert_close(folded.eval()(clip).prediction, frame_by_frame.eval()(clip).prediction, atol=1e-5, rtol=1e-5)
    for model, per_step in ((folded.train(), 1), (frame_by_frame.train(), n)):
        model(clip)
        for name, norm in batch_norms(model).items():
            assert norm.num_batches_tracked == 7 + (per_step if name.startswith("local_branch.encoder.") else 1), name
    expected = slow.e_loc(state, clip.flatten(0, 1), training=True).unflatten(0, (2, n))         # (B, T, 8, H/4, W/4)
    assert_close(torch.stack(folded.local_branch.encode(clip), dim=1), expected, atol=1e-5, rtol=1e-5)


def test_bn_init():
    norms = batch_norms(MEMBERS["lgn_net"].model(bn_init="uniform")).values()
    weights = torch.cat([norm.weight for norm in norms])
    assert weights.min() >= 0 and weights.max() < 1 and abs(weights.std() - 12 ** -0.5) < 0.05


@members_by_time
def test_bfloat16_leaves_queries_losses_and_first_blocks_in_float32(member):
    model, _, _ = member.twins()
    clip = random_clip(member.window)
    expected = model.eval()(clip[:, :member.n])
    ready = for_inference(model, Config(score=ScoreConfig(precision="bfloat16")))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, losses = ready(clip[:, :member.n]), losses_of(member, model, clip)
        for box in ready.modules():
            if type(box).__name__ == "PrototypeEncoder":
                assert [x.dtype for x in box(clip[:, :member.n])] == 2 * [torch.float32] + 2 * [torch.bfloat16]
    assert out.prediction.dtype == torch.bfloat16 and all(loss.dtype == torch.float32 for loss in losses)
    for lookup, exact in zip(out.lookups, expected.lookups, strict=True):
        assert lookup.queries.dtype == lookup.prototypes.dtype == torch.float32
        cosine = F.cosine_similarity(lookup.queries, exact.queries)
        assert cosine[exact.queries.any(dim=1)].min() > 0.99              # autocast did not break it
