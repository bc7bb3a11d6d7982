"""The boxes of Fig. 2 against the loop versions, and what each switch changes."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from reference import (
    authors_forward,
    decoder,
    e_glo_levels,
    e_loc,
    local_branch,
    official_name,
    random_official_state,
    st_lstm_cell,
)
from torch import nn
from torch.testing import assert_close

from lgn_net.config import Config, DataConfig, ModelConfig
from lgn_net.model.build import build_model
from lgn_net.model.lgn_net import LGNNet
from lgn_net.model.losses import compute_losses
from lgn_net.model.st_lstm import STLSTMCell

TINY = {"base_width": 4, "hidden_width": 6, "lstm_layers": 2, "memory_items": 5}
CHOICES = {"read_grad": [False, True], "concat_query": [False, True], "update_max": ["all", "own"],
           "fold_time": [False, True], "forget_bias": [1.0, 0.0], "bn_init": ["ones", "uniform"]}
EVERY_SETTING = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]


def setting_id(setting):
    return "-".join(f"{value}" for value in setting.values())


def close(ours, expected, atol=1e-5):
    assert_close(ours, expected, atol=atol, rtol=1e-5)


def random_clip(B=2, T=4, C=3, H=16, W=24, seed=0):
    return torch.rand(B, T, C, H, W, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tiny(channels=3, **overrides):
    torch.manual_seed(0)
    return build_model(Config(data=DataConfig(channels=channels), model=ModelConfig(**TINY | overrides)))


def twins(n=4, channels=3, layers=2, **switches):
    """LGNNet, and the same random weights for the loop versions."""
    state, items = random_official_state(1, width=4, hidden=6, layers=layers, n=n, channels=channels, items=5)
    model = LGNNet(n, channels, base_width=4, hidden_width=6, lstm_layers=layers, memory_items=5, **switches)
    ours = {name: items if name == "memory.items" else state[official_name(name)] for name in model.state_dict()}
    model.load_state_dict(ours)
    return model, state, items


def total_loss(model, clip):
    """compactness and separateness weighted as on Ped2; clip (B, n+1, C, H, W)."""
    return compute_losses(model(clip[:, :-1]), target=clip[:, -1], memories=model.memories, compactness_weight=10,
                          separateness_weight=5, margin=1.0)


# ----------------------------------------------------------------------------------------- equal to the equations

@pytest.mark.parametrize("forget_bias", [1.0, 0.0])
def test_st_lstm_cell(forget_bias):
    torch.manual_seed(0)
    cell = STLSTMCell(8, 6, forget_bias=forget_bias)
    state = {f"cell.conv_{gate}.0.weight": getattr(cell, f"conv_{gate}").weight for gate in "xhmo"}
    state["cell.conv_last.weight"] = cell.conv_1x1.weight
    x, H, C, M = torch.randn(2, 8, 4, 5), *torch.randn(3, 2, 6, 4, 5)
    close(cell(x, H, C, M), st_lstm_cell(state, "cell", x, H, C, M, forget_bias))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("n, channels, layers", [(4, 3, 2), (2, 1, 4), (5, 3, 1)])
def test_every_box_and_the_whole_network(n, channels, layers, training):
    model, state, items = twins(n, channels, layers)
    model.train(training)
    clip = random_clip(T=n, C=channels)
    prototypes, local = torch.randn(2, 32, 2, 3), torch.randn(2, 4, 16, 24)
    close(model.prototype_encoder(clip), e_glo_levels(state, clip, training))
    close(model.local_branch(clip), local_branch(state, clip, training))
    close(model.decoder(prototypes, local), decoder(state, prototypes, local, training))
    prediction, queries = authors_forward(state, items, clip, training)
    out = model(clip)
    close(out.queries, [queries])
    close(out.prediction, prediction, atol=1e-4 if training else 1e-5)    # statistics of 12 values amplify rounding
    for name, buffer in model.named_buffers():            # two training passes moved the running statistics alike
        if name != "memory.items":
            close(buffer, state[official_name(name)])


def test_forget_bias_reaches_every_cell():
    model, state, _ = twins(forget_bias=0.0)
    model.eval()
    clip = random_clip()
    close(model.local_branch(clip), local_branch(state, clip, False, forget_bias=0.0))
    assert (local_branch(state, clip, False, 0.0) - local_branch(state, clip, False, 1.0)).abs().max() > 0.01


def test_concat_query_puts_the_queries_first():
    plain, state, _ = twins()
    both = tiny(concat_query=True)
    weights = plain.state_dict()
    name = "decoder.block4.0.weight"
    weights[name] = torch.cat([torch.zeros_like(weights[name]), weights[name]], dim=1)      # blind to the queries
    both.load_state_dict(weights)
    clip = random_clip()
    close(both.eval()(clip), plain.eval()(clip))
    weights[name] = weights[name].roll(32, dims=1)                                          # sees nothing but them
    both.load_state_dict(weights)
    queries, = both(clip).queries
    close(both(clip).prediction, decoder(state, queries, local_branch(state, clip, False), False))


# -------------------------------------------------------------------------------------------------- size and shape

def test_published_size():
    with torch.device("meta"):
        model = LGNNet()
    assert sum(p.numel() for p in model.parameters()) == 22_752_643
    assert model.memory.items.shape == (10, 512)


@pytest.mark.parametrize("n", [2, 4, 5])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layers, H, W", [(1, 16, 16), (4, 24, 40)])
def test_shapes(n, channels, layers, H, W):
    model = tiny(input_frames=n, channels=channels, lstm_layers=layers)
    out = model(random_clip(2, n, channels, H, W))
    assert out.prediction.shape == (2, channels, H, W) and out.prediction.abs().max() <= 1
    queries, = out.queries
    assert queries.shape == (2, 32, H // 8, W // 8)
    close(queries.norm(dim=1), torch.ones(2, H // 8, W // 8))


# ------------------------------------------------------------------------------------------------------- gradients

@pytest.mark.parametrize("setting", EVERY_SETTING, ids=setting_id)
def test_total_loss_reaches_every_parameter(setting):
    model, clip = tiny(**setting), random_clip(T=5, H=16, W=16)
    # A convolution's bias in front of a batch-normalising BatchNorm has gradient zero by construction: eval mode first.
    for training in (False, True):
        model.train(training).zero_grad()
        total_loss(model, clip).total.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            if not training or not name.endswith("bias"):
                assert parameter.grad.abs().max() > 0, name
    before = model.memory.items.clone()
    model.memory.update_(model(clip[:, :-1]).queries[0])
    assert not torch.equal(before, model.memory.items)


def reached(model, loss):
    """Names of the top-level boxes in which some gradient of the loss is not zero."""
    model.zero_grad()
    loss.backward()
    return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("switch", [None, "read_grad", "concat_query"])
def test_which_loss_trains_which_box(switch):
    model, clip = tiny(**({switch: True} if switch else {})), random_clip(T=5)
    everything = {"prototype_encoder", "decoder", "local_branch"}
    from_prediction = everything if switch else everything - {"prototype_encoder"}     # docs/differences.md, 1 and 2
    assert reached(model, total_loss(model, clip).prediction) == from_prediction
    assert reached(model, total_loss(model, clip).compactness) == {"prototype_encoder"}
    assert reached(model, total_loss(model, clip).separateness) == {"prototype_encoder"}


# -------------------------------------------------------------------------------------- BatchNorm and its switches

def batch_norms(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("fold_time", [False, True])
def test_e_loc_statistics_per_step(n, fold_time):
    model = tiny(input_frames=n, fold_time=fold_time)
    model(random_clip(T=n))
    for name, norm in batch_norms(model).items():
        per_frame = name.startswith("local_branch.encoder.") and not fold_time
        assert norm.num_batches_tracked == (n if per_frame else 1), name


def test_fold_time_is_one_batch_in_training_and_changes_nothing_in_eval():
    frame_by_frame, state, _ = twins()
    folded, _, _ = twins(fold_time=True)
    clip = random_clip()
    close(folded.eval()(clip), frame_by_frame.eval()(clip))
    expected = e_loc(state, clip.flatten(0, 1), training=True).unflatten(0, (2, 4))         # (B, T, 8, H/4, W/4)
    close(torch.stack(folded.train().local_branch.encode(clip), dim=1), expected)
    assert (expected - torch.stack(frame_by_frame.train().local_branch.encode(clip), dim=1)).abs().max() > 0.01


def test_bn_init():
    for norm in batch_norms(tiny(bn_init="ones")).values():
        assert (norm.weight == 1).all() and (norm.bias == 0).all()
    uniform = torch.cat([norm.weight for norm in batch_norms(tiny(bn_init="uniform")).values()])
    assert uniform.min() >= 0 and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.1 and abs(uniform.std() - 12 ** -0.5) < 0.05
    assert all((norm.bias == 0).all() for norm in batch_norms(tiny(bn_init="uniform")).values())


def test_eval_output_does_not_depend_on_the_batch():
    model, _, _ = twins()
    model.eval()
    clips = random_clip(B=3)
    together = model(clips)
    for b in range(3):
        alone = model(clips[b:b + 1])
        close(together.prediction[b], alone.prediction[0])
        close(together.queries[0][b], alone.queries[0][0])


def test_autocast_leaves_queries_in_float32():
    model, _, _ = twins()
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(random_clip())
        losses = total_loss(model, random_clip(T=5))
    queries, = out.queries
    assert queries.dtype == torch.float32 and all(loss.dtype == torch.float32 for loss in losses)
    close(queries.norm(dim=1), torch.ones(2, 2, 3))
    assert F.cosine_similarity(queries, model(random_clip()).queries[0]).min() > 0.99       # autocast did not break it


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_inference_keeps_the_first_blocks_of_e_glo_out_of_autocast(training):
    model = twins()[0].train(training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model.prototype_encoder(random_clip())
    coarse = torch.bfloat16
    assert [x.dtype for x in features] == [coarse if training else torch.float32] * 2 + [coarse] * 2
