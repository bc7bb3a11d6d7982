"""The authors' checkpoint pair, imported: the same network, the same scores, the same training."""

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import load_script, run
from reference import (
    authors_evaluate,
    authors_forward,
    authors_training_steps,
    mnad_pred,
    mnad_recon,
    official_name,
    random_official_state,
)
from reference import normality as normality_by_loops
from torch import nn
from torch.testing import assert_close

from lgn_net.cli import command_parser, parse_command
from lgn_net.config import Config, DataConfig, LossConfig, ModelConfig, ScoreConfig, load_config
from lgn_net.data.videos import Video
from lgn_net.errors import UserError
from lgn_net.files import ROOT
from lgn_net.inference.loop import score_videos
from lgn_net.model.build import build_model
from lgn_net.model.lgn_net import LGNNet
from lgn_net.model.losses import compute_losses
from lgn_net.model.memory import PrototypeMemory
from lgn_net.official import SYSTEMS, import_official, load_official
from lgn_net.scores.normality import normality
from lgn_net.scores.protocols import paper_weights
from lgn_net.training.checkpoint import load_checkpoint

NAMES = Path(__file__).parents[2] / "shared" / "official_state_dict.json"
SMALL = {"width": 4, "hidden": 6, "layers": 2, "n": 4, "channels": 3, "items": 5}
OURS = {"width": "base_width", "hidden": "hidden_width", "layers": "lstm_layers", "n": "input_frames",
        "channels": "channels"}


@pytest.fixture
def pair(tmp_path):
    """Writes (state, items) as the authors do and returns both paths."""
    def write(state, items):
        torch.save(state, tmp_path / "60model.pth")
        torch.save(items, tmp_path / "60keys.pt")
        return tmp_path / "60model.pth", tmp_path / "60keys.pt"
    return write


def imported(paths, **switches):
    system, sizes, state = load_official(*paths)
    assert system == "lgn_net"
    model = LGNNet(partial(PrototypeMemory, len(state["memory.items"]), **switches), **sizes)
    model.load_state_dict(state)                                          # strict: every name, every shape
    return model


def random_videos(lengths, H=16, W=24, channels=3, seed=0):
    """Noise of another contrast in every frame: a list of uint8 (T, C, H, W)."""
    rng, videos = torch.Generator().manual_seed(seed), []
    for T in lengths:
        contrast = torch.rand(T, 1, 1, 1, generator=rng)
        noise = torch.rand(T, channels, H, W, generator=rng) - 0.5
        videos.append((127.5 + 255 * noise * contrast).to(torch.uint8))
    return videos


def scaled(video):
    """uint8 -> [-1, 1]."""
    return video.float() / 127.5 - 1


# ---------------------------------------------------------------------------------------------- names and numbers

def test_published_names_and_shapes(pair):
    state, items = random_official_state(0)
    system, sizes, ours = load_official(*pair(state, items))
    assert system == "lgn_net"
    assert sizes == {"input_frames": 4, "channels": 3, "base_width": 64, "hidden_width": 128, "lstm_layers": 4}
    with torch.device("meta"):
        expected = LGNNet(partial(PrototypeMemory, 10)).state_dict()
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in expected.items()}


@pytest.mark.parametrize("system, there, n", [("lgn_net", "lgn", 4), ("mnad_pred", "mnad_pred", 4),
                                              ("mnad_recon", "mnad_recon", 1)])
def test_reference_has_the_published_names_and_shapes(system, there, n):
    if not NAMES.exists():
        pytest.skip("needs ../shared/official_state_dict.json")
    state, _ = random_official_state(0, system=system, n=n)
    assert {name: list(tensor.shape) for name, tensor in state.items()} == json.loads(NAMES.read_text())[there]


@pytest.mark.parametrize("change", [{}, {"n": 2, "channels": 1}, {"n": 5, "hidden": 8, "layers": 1},
                                    {"n": 3, "channels": 4, "width": 3, "layers": 5, "items": 200}], ids=str)
def test_every_tensor_arrives_and_every_size_is_inferred(pair, change):
    wanted = SMALL | change
    state, items = random_official_state(3, **wanted)
    _, sizes, ours = load_official(*pair(state, items))
    assert sizes == {OURS[name]: size for name, size in wanted.items() if name != "items"}
    assert torch.equal(ours["memory.items"], items)
    arrived = {official_name(name): tensor for name, tensor in ours.items() if name != "memory.items"}
    assert set(state) - set(arrived) == {name for name in state if name.startswith("encoder.moduleBatchNorm.")}
    assert all(torch.equal(tensor, state[name]) for name, tensor in arrived.items())
    model = imported(pair(state, items)).eval()
    clip = scaled(random_videos([wanted["n"]], channels=wanted["channels"])[0])[None]
    out = model(clip)
    for value, expected in zip((out.prediction, out.lookups[0].queries), authors_forward(state, items, clip), strict=True):
        assert_close(value, expected, atol=1e-5, rtol=1e-5)


# --------------------------------------------------------------------------------------------------------- scoring

@pytest.fixture(scope="module", params=[3, 1], ids=["colour", "grey"])
def scored(request, tmp_path_factory):
    """Weights, items, videos as tensors and as PNG files, and a gamma under which some frames update the memory."""
    C, folder = request.param, tmp_path_factory.mktemp("frames")
    state, items = random_official_state(0, **SMALL | {"channels": C})
    videos, files = random_videos([9, 4, 12, 7], H=16, W=16, channels=C), []      # the second is too short to score
    for v, video in enumerate(videos):
        paths = [str(folder / f"{v}_{t}.png") for t in range(len(video))]
        for path, frame in zip(paths, video, strict=True):
            cv2.imwrite(path, frame.permute(1, 2, 0).numpy())                     # channels are blue, green, red
        files.append(Video(f"{v}", tuple(paths)))
    R = [row["regular_score"] for row in authors_evaluate(state, items, [scaled(v) for v in videos], 0, "frozen")]
    return state, items, [scaled(video) for video in videos], files, sorted(R)[len(R) // 2] + 1e-4


@pytest.mark.filterwarnings("ignore:.*skipped")
@pytest.mark.parametrize("mode, update_max, batch_size, layout", [
    ("frozen", "all", 3, torch.channels_last), ("carry", "all", 1, torch.contiguous_format),
    ("carry", "own", 3, torch.channels_last), ("reset", "all", 3, torch.channels_last)], ids=str)
def test_scores_of_every_frame(pair, scored, mode, update_max, batch_size, layout):
    state, items, videos, files, gamma = scored
    paths = pair(state, items)
    model = imported(paths, update_max=update_max).to(memory_format=layout)
    _, sizes, _ = load_official(*paths)
    config = Config(data=DataConfig(image_size=16, channels=sizes.pop("channels")),
                    model=ModelConfig(**sizes, memory_items=len(items), update_max=update_max),
                    score=ScoreConfig(gamma=gamma, memory_update=mode, batch_size=batch_size))
    rows = score_videos(model, files, config, torch.device("cpu"))
    expected = authors_evaluate(state, items, videos, gamma, mode, update_max)
    assert [(row.video, row.frame) for row in rows] == [(row["video"], row["frame"]) for row in expected]
    assert min(abs(row["regular_score"] - gamma) for row in expected) > 1e-6      # no flag hangs on rounding
    assert [row.memory_updated for row in rows] == [row["updated"] for row in expected]
    assert sum(row.memory_updated for row in rows) in ([0] if mode == "frozen" else range(3, len(rows) - 2))
    for ours, theirs in zip(rows, expected, strict=True):
        assert ours.psnr == pytest.approx(theirs["psnr"], abs=1e-3)
        assert ours.distance == pytest.approx((theirs["distance"],), abs=1e-6)
        assert ours.regular_score == pytest.approx(theirs["regular_score"], abs=1e-6)
    assert torch.equal(model.memory.items, items)                                 # as before


def test_normality_of_every_video(scored):
    state, items, videos, _, gamma = scored
    rows = authors_evaluate(state, items, videos, gamma, "carry")
    psnr, distance = ([np.array([row[signal] for row in rows if row["video"] == v]) for v in (0, 2, 3)]
                      for signal in ("psnr", "distance"))
    signals = [{"psnr": p, "distance": d} for p, d in zip(psnr, distance, strict=True)]
    for ours, p, d in zip(normality(signals, paper_weights(0.6)), psnr, distance, strict=True):
        np.testing.assert_allclose(ours, normality_by_loops(p.tolist(), d.tolist(), weight=0.6), atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ MNAD

MNAD = {"mnad_pred": {"width": 4, "n": 4, "channels": 3, "items": 5},
        "mnad_recon": {"width": 4, "n": 1, "channels": 3, "items": 5}}
OWN = {"lgn_net": (0.6, 0.009), "mnad_pred": (0.6, 0.01), "mnad_recon": (0.7, 0.015)}       # lambda, gamma
SLOW = {"mnad_pred": mnad_pred, "mnad_recon": mnad_recon}


@pytest.mark.parametrize("system, change", [
    ("mnad_pred", {}), ("mnad_pred", {"n": 1, "channels": 1}), ("mnad_pred", {"n": 5, "width": 3, "items": 20}),
    ("mnad_recon", {}), ("mnad_recon", {"channels": 1, "width": 6, "items": 2})], ids=str)
def test_mnad_arrives_and_its_sizes_are_inferred(pair, system, change):
    wanted = MNAD[system] | change
    state, items = random_official_state(4, **wanted, system=system)
    paths = pair(state, items)
    found, sizes, ours = load_official(*paths)
    assert found == system and sizes == {OURS[name]: size for name, size in wanted.items() if name != "items"}
    config, again = import_official(Config(), *paths)
    assert config.model.name == system and config.data.channels == wanted["channels"]
    model = build_model(config).eval()
    model.load_state_dict(again)
    clip = scaled(random_videos([wanted["n"]], channels=wanted["channels"])[0])[None]
    prediction, queries = SLOW[system](state, [items], clip, False)
    out = model(clip)
    assert_close(out.prediction, prediction, atol=1e-5, rtol=1e-5)
    assert_close([lookup.queries for lookup in out.lookups], queries, atol=1e-5, rtol=1e-5)
    assert {name for name in state if not name.startswith("encoder.moduleBatchNorm.")} == {
        official_name(name) for name in ours if name != "memory.items"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_imported_network_is_scored_as_its_authors_do(pair, tmp_path, system):
    paths = pair(*random_official_state(0, **MNAD.get(system, SMALL), system=system))
    script = load_script("scripts/import_official.py")
    said = run(script.main, *paths, "--out", tmp_path / "own.pt")
    assert said.status == 0 and SYSTEMS[system] in said.out, said
    own, _ = load_checkpoint(tmp_path / "own.pt")
    assert own.model.name == system and (own.score.psnr_weight, own.score.gamma) == OWN[system]
    # Whoever names a configuration gets that one, even one for networks with other inputs.
    avenue = ROOT / "configs/avenue.yaml"
    assert run(script.main, *paths, "--config", avenue, "--out", tmp_path / "avenue.pt").status == 0
    assert load_checkpoint(tmp_path / "avenue.pt")[0].score == load_config(avenue).score
    small = import_official(load_config(ROOT / "configs/ped2_small.yaml"), *paths)[0]       # there, concat_query is on
    build_model(small).load_state_dict(load_official(*paths)[2])
    # The same on the command line of a program that takes the pair.
    parser = command_parser("", "x.py", needs_data=False)
    for flag in ("--model_dir", "--m_items_dir"):
        parser.add_argument(flag)
    given = ["--model_dir", str(paths[0]), "--m_items_dir", str(paths[1])]
    for words, expected in [([], OWN[system]), (["--dataset_type", "ped2"], OWN[system]), (["--lambda", "0.1"],
                            (0.1, OWN[system][1])), (["--config", str(avenue)], (0.5, 0.006))]:
        config, _ = parse_command(parser, [*given, *words])
        config, _ = import_official(config, *paths)
        assert config.model.name == system and (config.score.psnr_weight, config.score.gamma) == expected, words


def test_a_configuration_of_another_system_is_refused(pair):
    paths = pair(*random_official_state(0, **MNAD["mnad_pred"], system="mnad_pred"))
    for name, frames in (("mnad_recon", 1), ("glo_net", 4)):
        with pytest.raises(UserError, match=f"MNAD-Pred, and model.name is {name}"):
            import_official(Config(model=ModelConfig(name=name, input_frames=frames)), *paths)


# -------------------------------------------------------------------------------------------------------- training

def test_three_training_steps(pair):
    state, items = random_official_state(0, **SMALL)
    model = imported(pair(state, items)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    batches = [scaled(torch.stack(random_videos([5, 5], H=32, W=32, seed=seed))) for seed in range(3)]
    expected = authors_training_steps(state, items, batches, lr=2e-4, lambda_c=10, lambda_s=5)
    for batch, wanted, tolerance in zip(batches, expected, (1e-5, 1e-4, 2e-3), strict=True):
        out = model(batch[:, :-1])
        losses = compute_losses(out, batch[:, -1], model.memories, LossConfig())
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        model.memory.update_(out.lookups[0])
        assert [loss.item() for loss in losses] == pytest.approx(list(wanted), rel=tolerance)
    assert_close(model.memory.items, items, atol=1e-5, rtol=0)
    for name, tensor in model.state_dict().items():       # where the gradient is rounding, Adam still steps by +-lr
        if name != "memory.items":
            assert_close(tensor, state[official_name(name)], atol=2e-3, rtol=1e-3, msg=name)


# ----------------------------------------------------------------------------------------------- files that are not

def drop_name(state, items):
    del state["st_decoder.3.weight"]


def wrong_shape(state, items):
    state["decoder.moduleDeconv3.3.weight"] = state["decoder.moduleDeconv3.3.weight"][:, :-1].clone()


def wrong_cell_shape(state, items):
    state["pred.convlstm_list.1.conv_x.0.weight"] = state["pred.convlstm_list.1.conv_x.0.weight"][:-1].clone()


def unknown_name(state, items):
    state["decoder.moduleDeconv4.0.weight"] = torch.zeros(1)


def one_is_nan(state, items):
    state["decoder.moduleDeconv3.3.weight"][0, 0, 0, 0] = float("nan")


def with_a_local_branch(state, items):
    lgn, _ = random_official_state(0, **SMALL)
    state.update({name: lgn[name] for name in lgn if name.startswith("pred.")})


def another_skip(state, items):
    name = "decoder.moduleDeconv3.0.weight"
    state[name] = torch.cat([state[name], state[name]], dim=1)


@pytest.mark.parametrize("system", MNAD)
@pytest.mark.parametrize("spoil, named", [
    (lambda state, items: state.pop("decoder.moduleUpsample3.0.bias"), "decoder.moduleUpsample3.0.bias is missing"),
    (lambda state, items: state.pop("decoder.moduleUpsample4.0.weight"), "is not {}: decoder.moduleUpsample4.0.weight"),
    (lambda state, items: state.pop("encoder.moduleConv1.0.weight"), "encoder.moduleConv1.0.weight is missing"),
    (lambda state, items: state.pop("decoder.moduleConv.0.weight"), "MNAD"),
    (unknown_name, "decoder.moduleDeconv4.0.weight is unknown"), (one_is_nan, "not finite"),
    (with_a_local_branch, "st_decoder.0.weight is missing"),
    (another_skip, "decoder.moduleDeconv3.0.weight is 16 x 64 x 3 x 3"),
    (lambda state, items: items.resize_(5, 16), "16 features")])
def test_mnad_files_that_do_not_fit(pair, system, spoil, named):
    state, items = random_official_state(0, **MNAD[system], system=system)
    spoil(state, items)
    refused(pair(state, items), "60keys.pt" if "features" in named else "60model.pth", named.format(SYSTEMS[system]))


def no_local_branch(state, items):
    for name in [name for name in state if name.startswith(("pred.", "st_decoder."))]:
        del state[name]


@pytest.mark.parametrize("spoil, named", [(drop_name, "st_decoder.3.weight"), (no_local_branch, "pred."),
                                          (wrong_shape, "decoder.moduleDeconv3.3.weight"),
                                          (wrong_cell_shape, "pred.convlstm_list.1.conv_x.0.weight")])
def test_weights_that_do_not_fit(pair, spoil, named):
    state, items = random_official_state(0, **SMALL)
    spoil(state, items)
    refused(pair(state, items), "60model.pth", named)


@pytest.mark.parametrize("spoil", [lambda items: items[:, :-1].clone(), lambda items: items[0].clone(),
                                   lambda items: {"items": items}, lambda items: nn.Linear(3, 3).state_dict()])
def test_items_that_do_not_fit(pair, spoil):
    state, items = random_official_state(0, **SMALL)
    refused(pair(state, spoil(items)), "60keys.pt")


def test_a_file_is_missing_or_both_are_swapped(pair, tmp_path):
    model_path, items_path = pair(*random_official_state(0, **SMALL))
    refused((model_path, tmp_path / "nowhere.pt"), "nowhere.pt")
    refused((tmp_path / "nowhere.pth", items_path), "nowhere.pth")
    refused((items_path, model_path), "60keys.pt")


@pytest.mark.parametrize("content", [b"", b"hello", b"<!DOCTYPE html><title>404 Not Found</title>",
                                     b"version https://git-lfs.github.com/spec/v1", b"PK\x03\x04 and then nothing"])
def test_not_a_torch_file(pair, content):
    paths = pair(*random_official_state(0, **SMALL))
    for path in paths:
        whole = path.read_bytes()
        path.write_bytes(content)
        refused(paths, path.name, "PyTorch file")
        path.write_bytes(whole)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "pytorch_1.1"])
def test_files_of_old_pytorch_are_read_and_broken_downloads_refused(pair, zipped):
    state, items = random_official_state(0, **SMALL)
    paths = pair(state, items)
    for content, path in zip((state, items), paths, strict=True):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert_close(imported(paths).memory.items, items)
    for path in paths:
        whole = path.read_bytes()
        for length in {len(whole) - 1, *range(1, len(whole), len(whole) // 5)}:
            path.write_bytes(whole[:length])
            refused(paths, path.name)
        path.write_bytes(whole)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "pytorch_1.1"])
def test_a_pickled_module_is_not_loaded(pair, zipped):
    model_path, items_path = pair(*random_official_state(0, **SMALL))
    module = nn.Sequential(nn.Conv2d(3, 3, 3))                            # as MNAD publishes its models
    torch.save(module, model_path, _use_new_zipfile_serialization=zipped)
    refused((model_path, items_path), "60model.pth", "pickled")


def refused(paths, *mentioned):
    """UserError in one sentence that names the file and the trouble."""
    with pytest.raises(UserError) as caught:
        load_official(*paths)
    message = str(caught.value)
    assert "\n" not in message and 20 < len(message) < 500, message
    for text in mentioned:
        assert text in message, message
