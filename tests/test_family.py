"""Every relative of LGN-Net, with and without its switches: its size, its numbers, its gradients, its configuration."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from helpers import ROOT, TINY, run, sentence, write_videos
from reference import losses_of_family, official_name, random_official_state
from torch.testing import assert_close

import train
from lgn_net.cli import command_parser, parse_command
from lgn_net.config import Config, DataConfig, ModelConfig, load_config, parse
from lgn_net.data.clips import read_frames, to_float
from lgn_net.data.videos import find_split, index_videos
from lgn_net.errors import UserError
from lgn_net.inference.loop import items_of, predict_frames, score_videos, set_items, update_memories
from lgn_net.inference.stream import for_inference
from lgn_net.model.build import build_model
from lgn_net.model.losses import compute_losses
from lgn_net.model.prototype_branch import PrototypeEncoder
from lgn_net.training.checkpoint import (
    check_architecture,
    check_same_run,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)

TINY_SIZES = {"base_width": 4, "hidden_width": 6, "lstm_layers": 2, "memory_items": 5}
FAMILY = ["lgn_net", "lgn_st", "loc_net", "glo_net", "mnad_pred", "mnad_recon", "msn_net"]


class Member(NamedTuple):
    """One network of the family, and the slow one that it must equal."""

    name: str
    switches: dict
    slow: str
    depths: tuple[int, ...] = (8,)      # of each memory's items, in units of base_width
    scales: tuple[int, ...] = (8,)      # of each memory's queries: one for so many pixels

    @property
    def n(self):
        """Frames that go in."""
        return 1 if self.name == "mnad_recon" else 4

    @property
    def window(self):
        """Frames that come from a video at once: those that go in, and the one to predict."""
        return 1 if self.name == "mnad_recon" else 5

    def model(self, channels=3, **knobs):
        """The network at a tiny size, drawn from the same seed every time."""
        torch.manual_seed(0)
        knobs = TINY_SIZES | {"name": self.name, "input_frames": self.n} | self.switches | knobs
        return build_model(Config(data=DataConfig(channels=channels), model=ModelConfig(**knobs)))

    def twins(self):
        """The network and the weights and items of the slow one, the same."""
        state, _ = random_official_state(1, width=4, hidden=6, layers=2, n=self.n, items=5, memory=bool(self.depths),
                                         system="mnad_pred" if self.slow == "mnad_pred" else self.name)
        rng = torch.Generator().manual_seed(2)
        items = [F.normalize(torch.randn(5, 4 * depth, generator=rng), dim=1) for depth in self.depths]
        model = self.model()
        names = [name for name in model.state_dict() if not name.endswith("items")]
        used = {name for name in state if not name.startswith("encoder.moduleBatchNorm.")}
        assert {official_name(name) for name in names} == used
        model.load_state_dict({name: state[official_name(name)] for name in names}, strict=False)
        for memory, values in zip(model.memories, items, strict=True):
            memory.items.copy_(values)
        return model, state, items


MEMBERS = {
    "lgn_net": Member("lgn_net", {}, "lgn_net"),
    "lgn_st": Member("lgn_st", {}, "lgn_st"),
    "loc_net": Member("loc_net", {}, "loc_net", (), ()),
    "glo_net": Member("glo_net", {}, "glo_net"),
    "glo_net with skips": Member("glo_net", {"skips": True}, "mnad_pred"),
    "mnad_pred": Member("mnad_pred", {}, "mnad_pred"),
    "mnad_recon": Member("mnad_recon", {}, "mnad_recon"),
    "msn_net": Member("msn_net", {}, "msn_net", (2, 4, 8), (2, 4, 8)),
    "lgn_net without memory": Member("lgn_net", {"memory": False}, "lgn_net_without_memory", (), ()),
    "mnad_pred without memory": Member("mnad_pred", {"memory": False}, "mnad_pred", (), ()),
    "mnad_recon without memory": Member("mnad_recon", {"memory": False}, "mnad_recon", (), ()),
}
every_member = pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)


def random_clip(n, B=2, C=3, H=16, W=24, seed=0):
    return torch.rand(B, n, C, H, W, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def losses_of(member, model, clip):
    """clip (B, window, C, H, W)."""
    return compute_losses(model(clip[:, :member.n]), clip[:, -1], model.memories, 10, 5, margin=1.0)


# -------------------------------------------------------------------------------------------------- size and shape

@every_member
@pytest.mark.parametrize("channels, H, W", [(1, 16, 40), (3, 32, 16)])
def test_shapes(member, channels, H, W):
    model = member.model(channels)
    out = model(random_clip(member.n, 2, channels, H, W))
    assert out.prediction.shape == (2, channels, H, W) and out.prediction.abs().max() <= 1
    assert len(model.memories) == len(out.queries) == len(member.depths)
    for memory, queries, depth, scale in zip(model.memories, out.queries, member.depths, member.scales, strict=True):
        assert memory.items.shape == (5, 4 * depth)
        assert queries.shape == (2, 4 * depth, H // scale, W // scale) and queries.dtype == torch.float32
        length = queries.norm(dim=1)
        assert torch.where(length == 0, 1, length).sub(1).abs().max() < 1e-5       # 0: behind a ReLU, all may be 0
        assert (length > 0).float().mean() > 0.9
        memory.update_(queries)
        assert_close(memory.items.norm(dim=1), torch.ones(5))


def conv(a, b, kernel=3, bias=True):
    """Parameters of a convolution of a to b channels; of a transposed one, too."""
    return a * b * kernel ** 2 + bias * b


def norm(a):
    return 2 * a


def pair(a, b):
    """[a-b]: conv a-b BR, conv b-b BR."""
    return conv(a, b) + norm(b) + conv(b, b) + norm(b)


def up(a, b):
    return conv(a, b) + norm(b)


def e_glo(channels):
    return pair(channels, 64) + pair(64, 128) + pair(128, 256) + conv(256, 512) + norm(512) + conv(512, 512)


def head(a):
    return pair(a, 64) + conv(64, 3)


E_LOC = conv(3, 64) + norm(64) + conv(64, 64) + norm(64) + conv(64, 128) + norm(128) + conv(128, 128) + norm(128)
ST_LSTM = 4 * (conv(128, 7 * 128, bias=False) + conv(128, 4 * 128, bias=False) + conv(128, 3 * 128, bias=False)
               + conv(256, 128, bias=False) + conv(256, 128, kernel=1, bias=False))
CONV_LSTM = 4 * (conv(128, 4 * 128) + conv(128, 4 * 128))
LOCAL_DECONV = up(256, 128) + up(128, 64)
GLOBAL_PATH = pair(512, 512) + up(512, 256) + pair(256, 256) + up(256, 128) + pair(128, 128) + up(128, 64)
U_NET = up(512, 256) + pair(512, 256) + up(256, 128) + pair(256, 128) + up(128, 64)             # behind its first block
WIDE = up(512, 512) + pair(512, 256) + up(256, 256) + pair(256, 128) + up(128, 128)
QUERIES_TOO = 512 * 512 * 9                                                         # first decoder block 1024-512
PARAMETERS = {
    "lgn_net": E_LOC + ST_LSTM + LOCAL_DECONV + e_glo(12) + GLOBAL_PATH + head(128),
    "lgn_st": E_LOC + CONV_LSTM + LOCAL_DECONV + e_glo(12) + GLOBAL_PATH + head(128),
    "loc_net": E_LOC + CONV_LSTM + LOCAL_DECONV + head(64),
    "glo_net": e_glo(12) + GLOBAL_PATH + QUERIES_TOO + head(64),
    "glo_net with skips": e_glo(12) + pair(1024, 512) + U_NET + head(128),
    "mnad_pred": e_glo(12) + pair(1024, 512) + U_NET + head(128),
    "mnad_recon": e_glo(3) + pair(1024, 512) + WIDE + head(128),
    "msn_net": e_glo(12) + pair(512, 512) + U_NET + head(64),
    "lgn_net without memory": 22_752_643,
    "mnad_pred without memory": 15_650_819 - QUERIES_TOO,
    "mnad_recon without memory": 17_195_267 - QUERIES_TOO,
}


@pytest.mark.parametrize("name", MEMBERS)
def test_published_size(name):
    member = MEMBERS[name]
    with torch.device("meta"):
        model = build_model(Config(model=ModelConfig(name=member.name, input_frames=member.n, **member.switches)))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert [tuple(memory.items.shape) for memory in model.memories] == [(10, 64 * depth) for depth in member.depths]


def test_published_numbers_of_parameters():
    published = {"lgn_net": 22_752_643, "mnad_pred": 15_650_819, "mnad_recon": 17_195_267}
    assert {name: PARAMETERS[name] for name in published} == published


# ----------------------------------------------------------------------------------------- equal to the equations

@every_member
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_predictions_losses_and_gradients_equal_the_slow_ones(member, training):
    model, state, items = member.twins()
    model.train(training)
    clip = random_clip(member.window)
    weights = {name: state[official_name(name)].requires_grad_() for name, _ in model.named_parameters()}
    prediction, queries = getattr(reference, member.slow)(state, items, clip[:, :member.n], training)
    expected = losses_of_family(items, prediction, queries, clip[:, -1], 10, 5)
    out = model(clip[:, :member.n])
    losses = compute_losses(out, clip[:, -1], model.memories, 10, 5, margin=1.0)

    tolerance = {"atol": 2e-4 if training else 1e-5, "rtol": 1e-5}        # statistics of 12 values amplify rounding
    assert_close(out.prediction, prediction, **tolerance)
    assert_close(out.queries, queries, **tolerance)
    assert_close(torch.stack(losses), torch.stack([torch.as_tensor(loss) for loss in expected]), atol=1e-5, rtol=1e-4)
    for name, buffer in model.named_buffers():
        if not name.endswith("items"):
            assert_close(buffer, state[official_name(name)], **tolerance, msg=name)
    losses.total.backward()
    right = torch.autograd.grad(expected[0], list(weights.values()))
    largest = max(grad.abs().max().item() for grad in right)
    for (name, parameter), grad in zip(model.named_parameters(), right, strict=True):
        assert (parameter.grad - grad).abs().max() < (1e-3 if training else 1e-5) * largest, name


@every_member
def test_eval_output_does_not_depend_on_the_batch(member):
    model, _, _ = member.twins()
    model.eval()
    clips = random_clip(member.n, B=3)
    together = model(clips)
    for b in range(3):
        alone = model(clips[b:b + 1])
        assert_close(together.prediction[b], alone.prediction[0], atol=1e-5, rtol=1e-5)
        assert_close([q[b] for q in together.queries], [q[0] for q in alone.queries], atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------- gradients

@every_member
def test_every_parameter_learns(member):
    model, clip = member.model(), random_clip(member.window, W=16)
    # A convolution's bias in front of a batch-normalising BatchNorm has gradient zero by construction: eval mode first.
    for training in (False, True):
        model.train(training).zero_grad()
        losses_of(member, model, clip).total.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            if not training or not name.endswith("bias"):
                assert parameter.grad.abs().max() > 0, name


PREDICTION_TRAINS = {
    "lgn_net": {"local_branch", "decoder"},                               # E_glo learns from the memory losses alone
    "lgn_st": {"local_branch", "decoder"},
    "loc_net": {"local_branch", "head"},
    "glo_net": {"prototype_encoder", "decoder"},                          # by the query that the decoder sees
    "glo_net with skips": {"prototype_encoder", "decoder"},
    "mnad_pred": {"prototype_encoder", "decoder"},
    "mnad_recon": {"prototype_encoder", "decoder"},
    "msn_net": {"encoder", "decoder"},                                    # by the reads
    "lgn_net without memory": {"prototype_encoder", "local_branch", "decoder"},
    "mnad_pred without memory": {"prototype_encoder", "decoder"},
    "mnad_recon without memory": {"prototype_encoder", "decoder"},
}


@pytest.mark.parametrize("name", MEMBERS)
def test_which_loss_trains_which_box(name):
    member = MEMBERS[name]
    model, clip = member.model(), random_clip(member.window)

    def reached(loss):
        model.zero_grad()
        loss.backward()
        return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}

    by_prediction = reached(losses_of(member, model, clip).prediction)
    assert {name.split(".")[0] for name in by_prediction} == PREDICTION_TRAINS[name]
    encoder = PREDICTION_TRAINS[name] & {"prototype_encoder", "encoder"}
    assert all(f"{box}.block4.3.weight" in by_prediction for box in encoder)     # down to the query, not by skips alone
    for loss in ("compactness", "separateness"):
        value = getattr(losses_of(member, model, clip), loss)
        if member.depths:
            boxes = {name.split(".")[0] for name in reached(value)}
            assert boxes == {"encoder" if name == "msn_net" else "prototype_encoder"}
        else:
            assert value == 0 and not value.requires_grad


# --------------------------------------------------------------------------------------------------- configuration

# lambda_c, lambda_s, batch, lr, lambda, gamma; what is left out is the data set's.
OWN = {"mnad_pred": (0.1, 0.1, 4, 2e-4, 0.6, 0.01), "mnad_recon": (0.01, 0.01, 4, 2e-5, 0.7, 0.015),
       "msn_net": (0.1, 0.1, 8, 2e-4, 0.6, 0.01), "loc_net": (10, 5, 8, 2e-4, 1, 0.009)}
COMMAND = command_parser("", "x.py")


def family_file(name):
    return ROOT / "configs/family" / f"{name}.yaml"


def of_command(*argv, parser=COMMAND):
    return parse_command(parser, ["--dataset_path", "DATA", *map(str, argv)])[0]


def hyper_parameters(config):
    return (config.loss.compactness, config.loss.separateness, config.train.batch_size, config.train.lr,
            config.score.psnr_weight, config.score.gamma)


def test_every_member_has_a_file():
    assert sorted(path.stem for path in (ROOT / "configs/family").glob("*")) == sorted(FAMILY)


@pytest.mark.parametrize("name", FAMILY)
def test_name_on_the_command_line_brings_its_file(name):
    for base in ("ped2", "ped2_small"):
        file = ROOT / f"configs/{base}.yaml"
        expected = parse(COMMAND, ["--dataset_path", "DATA", f"--config={file}", f"--config={family_file(name)}"])[0]
        assert expected.model.name == name and expected.model.input_frames == (1 if name == "mnad_recon" else 4)
        assert of_command("--config", file, "--model.name", name) == expected
        assert of_command(f"--config={file}", f"--model.name={name}") == expected
        build_model(expected)
    for argv in (["--dataset_type", "ped2", "--model.name", name], ["--model.name", name, "--dataset_type=ped2"]):
        config = of_command(*argv)
        assert config.model.name == name
        assert hyper_parameters(config) == OWN.get(name, (10, 5, 8, 2e-4, 0.6, 0.009))
    load_config(family_file(name))


def test_later_flags_win_over_a_name_and_it_over_earlier_ones():
    config = of_command("--loss.compactness", 7, "--model.name", "mnad_pred", "--lambda=0.3", "--train.lr", 1)
    assert hyper_parameters(config) == (0.1, 0.1, 4, 1, 0.3, 0.01)
    config = of_command("--model.name", "mnad_pred", "--model.name", "lgn_st")
    assert config.model.name == "lgn_st" and hyper_parameters(config) == OWN["mnad_pred"]


def test_the_name_of_a_checkpoint_changes_nothing(tmp_path):
    trained = of_command("--dataset_type", "ped2", "--model.name", "mnad_pred", "--train.lr", 1e-3, "--gamma", 0.02)
    path = tmp_path / "last.pt"
    save_checkpoint(path, trained, {})

    def again(*argv):
        parser = command_parser("", "x.py")
        parser.add_argument("--resume")
        return of_command("--resume", path, *argv, parser=parser)

    assert again() == again("--model.name", "mnad_pred") == trained
    assert again("--model.name=mnad_pred", "--dataset_type", "ped2") == trained
    repeated = ["--config", ROOT / "configs/ped2.yaml", "--model.name", "mnad_pred", "--train.lr", 1e-3, "--gamma", .02]
    check_same_run(again(*repeated), trained, path)                       # the run's whole command line
    assert hyper_parameters(again(*repeated)) == hyper_parameters(trained)
    for name in ("glo_net", "mnad_recon"):
        frames = ["--model.input_frames", 1] if name == "mnad_recon" else []
        for check in (check_same_run, check_architecture):
            with pytest.raises(UserError, match=f"model.name is mnad_pred there, {name} here"):
                check(again("--model.name", name, *frames), trained, path)


def test_switches_that_change_the_network_are_compared(tmp_path):
    config = Config(model=ModelConfig(name="mnad_pred"))
    for knob, value in {"memory": False, "skips": True, "concat_query": True}.items():
        with pytest.raises(UserError, match=f"model.{knob} is"):
            check_architecture(config, Config(model=ModelConfig(name="mnad_pred", **{knob: value})), "CKPT")


@pytest.mark.parametrize("knobs, named", [
    ({"name": "mnad_recon"}, "input_frames"), ({"name": "loc_net", "memory": False}, "model.memory"),
    ({"name": "msn_net", "memory": False}, "model.memory"), ({"read_temperature": 0.0}, "read_temperature"),
    ({"ema": 1.0}, "model.ema"), ({"ema": -0.1}, "model.ema"), ({"revive_after": -1}, "revive_after")], ids=str)
def test_settings_that_are_not_defined(knobs, named):
    with pytest.raises(UserError, match=named):
        ModelConfig(**knobs)


# ---------------------------------------------------------------------------------------------- trained and scored

@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A training video of 7 frames, test videos of 6 and 8, and a tiny configuration."""
    folder = tmp_path_factory.mktemp("made")
    write_videos(folder / "made/training/frames", [7])
    write_videos(folder / "made/testing/frames", [6, 8])
    (folder / "tiny.yaml").write_text(TINY)
    return folder


@every_member
def test_trained_saved_and_scored(data, tmp_path, member):
    switches = [f"--model.{name}={str(value).lower()}" for name, value in member.switches.items()]
    done = run(train.main, "--config", data / "tiny.yaml", "--model.name", member.name, *switches, "--dataset_path",
               data, "--device", "cpu", "--exp_dir", tmp_path / "run", "--train.max_steps", 2, "--score.gamma", 1,
               "--model.revive_after", 1, "--model.memory_init", "queries")
    assert done.status == 0, done
    config, saved = load_checkpoint(tmp_path / "run/last.pt")
    assert config.model.name == member.name
    model = build_model(config)
    load_weights(model, saved["model"], "last.pt")
    videos, device = index_videos(find_split(data, "made", "testing")), torch.device("cpu")
    signals = score_videos(model, videos, config, device)
    first = member.window - 1                                             # MNAD's reconstruction scores every frame
    assert [(s.video, s.frame) for s in signals] == [(v, t) for v, T in enumerate((6, 8)) for t in range(first, T)]
    assert {len(s.distance) for s in signals} == {len(member.depths)}
    updates = bool(member.depths)
    assert [s.memory_updated for s in signals] == [updates and s.regular_score < 1 for s in signals]
    assert any(s.memory_updated for s in signals) == updates
    (v, t, predicted, truth), = predict_frames(model, videos, config, signals, [(1, 7)], device)
    psnr = 10 * torch.log10(4 / (predicted - truth).square().mean()).item()
    assert (v, t) == (1, 7) and psnr == pytest.approx(signals[-1].psnr, abs=1e-4)


def scored_one_by_one(model, videos, config):
    """The plain path: a window decoded, a whole forward pass, judged, and at once learned from.

    Returns (PSNR, R, D of each memory) of every frame, and whether it moved the memories.
    """
    model.eval()
    mode, window, items = config.score.memory_update, config.model.window, items_of(model)
    rows, updates = [], []
    for video in videos:
        if mode == "reset":
            set_items(model, items)
        for t in range(window - 1, len(video.frames)):
            clip = to_float(read_frames(video.frames[t + 1 - window:t + 1], 1, config.data.image_size))
            with torch.no_grad():
                out = model(clip[None, :config.model.input_frames])
            regular = reference.regular_score(out.prediction[0], clip[-1])
            rows.append((reference.psnr(out.prediction[0], clip[-1]), regular, *(
                reference.compactness(memory.items, reference.query_rows(q)).item()
                for memory, q in zip(model.memories, out.queries, strict=True))))
            updates.append(mode != "off" and bool(model.memories) and regular < config.score.gamma)
            if updates[-1]:
                update_memories(model, out.queries)
    set_items(model, items)
    return np.array(rows), updates


@every_member
def test_streaming_equals_one_by_one(data, member):
    """In every mode, at every batch size: of one video at a time or of several in step."""
    model = member.model(channels=1)
    with torch.no_grad():
        for parameter in model.parameters():                                 # predictions that depend on the memory
            parameter.mul_(2.0 if parameter.dim() > 1 else 1.0)
    videos = index_videos(find_split(data, "made", "testing"))
    videos.append(videos[0]._replace(name="again"))
    knobs = TINY_SIZES | {"name": member.name, "input_frames": member.n} | member.switches
    config = Config(data=DataConfig(image_size=16, channels=1), model=ModelConfig(**knobs))

    def score(**knobs):
        return replace(config, score=replace(config.score, **knobs))

    def check(expected, updates, psnr_tolerance, distance_tolerance, **knobs):
        signals = score_videos(model, videos, score(**knobs), torch.device("cpu"))
        found = np.array([(s.psnr, s.regular_score, *s.distance) for s in signals])
        assert [s.memory_updated for s in signals] == updates
        np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=0, atol=psnr_tolerance)                # dB
        np.testing.assert_allclose(found[:, 2:], expected[:, 2:], rtol=0, atol=distance_tolerance)          # D

    regular = np.sort(scored_one_by_one(model, videos, config)[0][:, 1])
    middle = range(len(regular) // 2 - 2, len(regular) // 2 + 2)
    k = max(middle, key=lambda k: regular[k + 1] - regular[k])                # so that no update hangs on rounding
    gamma = (regular[k] + regular[k + 1]).item() / 2
    for mode in ("off", "carry", "reset"):
        expected, updates = scored_one_by_one(model, videos, score(memory_update=mode, gamma=gamma))
        assert 1 < sum(updates) < len(updates) - 1 if member.depths and mode != "off" else not any(updates)
        for batch_size in (1, 2, 8):
            check(expected, updates, 1e-4, 1e-7, memory_update=mode, gamma=gamma, batch_size=batch_size)
        always = {"memory_update": mode, "gamma": 10.0}
        check(*scored_one_by_one(model, videos, score(**always)), 0.2, 0.01, **always, precision="bfloat16")

    half = for_inference(model, score(precision="bfloat16"))
    full = {id(p) for box in half.modules() if isinstance(box, PrototypeEncoder)
            for layer in (box.block1, box.block2) for p in layer.parameters()}
    assert all(p.dtype == (torch.float32 if id(p) in full else torch.bfloat16) for p in half.parameters())
    assert not any("running" in name for name in half.state_dict())
    assert all(memory.items.dtype == torch.float32 for memory in half.memories)


def test_unknown_name_lists_the_known_ones(data, tmp_path):
    for words in (["--model.name", "xyz"], ["--model.name=xyz"], ["--model.name", "../ped2"]):
        said = sentence(run(train.main, "--config", data / "tiny.yaml", "--dataset_path", data, "--exp_dir",
                            tmp_path / "run", *words))
        assert words[-1].removeprefix("--model.name=") in said and all(name in said for name in FAMILY)
    assert not (tmp_path / "run").exists()
