"""The authors' checkpoint pair, imported: the same network, the same scores, the same training."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from reference import authors_evaluate, authors_forward, authors_training_steps, official_name, random_official_state
from reference import normality as normality_by_loops
from torch import nn
from torch.testing import assert_close

from lgn_net.config import Config, DataConfig, ModelConfig, ScoreConfig
from lgn_net.data.videos import Video
from lgn_net.errors import UserError
from lgn_net.losses import compute_losses
from lgn_net.model.lgn_net import LGNNet
from lgn_net.model.official import load_official
from lgn_net.scoring.infer import score_videos
from lgn_net.scoring.protocols import paper_weights
from lgn_net.scoring.score import normality

NAMES = Path(__file__).parents[2] / "shared" / "official_state_dict.json"
SMALL = {"width": 4, "hidden": 6, "layers": 2, "n": 4, "channels": 3, "items": 5}
OURS = {"width": "base_width", "hidden": "hidden_width", "layers": "lstm_layers", "n": "input_frames",
        "channels": "channels", "items": "memory_items"}


@pytest.fixture
def pair(tmp_path):
    """Writes (state, items) as the authors do and returns both paths."""
    def write(state, items):
        torch.save(state, tmp_path / "60model.pth")
        torch.save(items, tmp_path / "60keys.pt")
        return tmp_path / "60model.pth", tmp_path / "60keys.pt"
    return write


def imported(paths, **switches):
    sizes, state = load_official(*paths)
    model = LGNNet(**sizes, **switches)
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
    sizes, ours = load_official(*pair(state, items))
    assert sizes == {"input_frames": 4, "channels": 3, "base_width": 64, "hidden_width": 128, "lstm_layers": 4,
                     "memory_items": 10}
    with torch.device("meta"):
        expected = LGNNet().state_dict()
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in expected.items()}


def test_reference_has_the_published_names_and_shapes():
    if not NAMES.exists():
        pytest.skip("needs ../shared/official_state_dict.json")
    state, _ = random_official_state(0)
    assert {name: list(tensor.shape) for name, tensor in state.items()} == json.loads(NAMES.read_text())["lgn"]


@pytest.mark.parametrize("change", [{}, {"n": 2, "channels": 1}, {"n": 5, "hidden": 8, "layers": 1},
                                    {"n": 3, "channels": 4, "width": 3, "layers": 5, "items": 200}], ids=str)
def test_every_tensor_arrives_and_every_size_is_inferred(pair, change):
    wanted = SMALL | change
    state, items = random_official_state(3, **wanted)
    sizes, ours = load_official(*pair(state, items))
    assert sizes == {OURS[name]: size for name, size in wanted.items()}
    assert torch.equal(ours["memory.items"], items)
    arrived = {official_name(name): tensor for name, tensor in ours.items() if name != "memory.items"}
    assert set(state) - set(arrived) == {name for name in state if name.startswith("encoder.moduleBatchNorm.")}
    assert all(torch.equal(tensor, state[name]) for name, tensor in arrived.items())
    model = imported(pair(state, items)).eval()
    clip = scaled(random_videos([wanted["n"]], channels=wanted["channels"])[0])[None]
    for value, expected in zip(model(clip), authors_forward(state, items, clip), strict=True):
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
    R = [row["regular_score"] for row in authors_evaluate(state, items, [scaled(v) for v in videos], 0, "off")]
    return state, items, [scaled(video) for video in videos], files, sorted(R)[len(R) // 2] + 1e-4


@pytest.mark.filterwarnings("ignore:.*skipped")
@pytest.mark.parametrize("batch_size, layout", [(1, torch.contiguous_format), (3, torch.channels_last)])
@pytest.mark.parametrize("update_max", ["all", "own"])
@pytest.mark.parametrize("mode", ["off", "carry", "reset"])
def test_scores_of_every_frame(pair, scored, mode, update_max, batch_size, layout):
    state, items, videos, files, gamma = scored
    paths = pair(state, items)
    model = imported(paths, update_max=update_max).to(memory_format=layout)
    sizes, _ = load_official(*paths)
    config = Config(data=DataConfig(image_size=16, channels=sizes.pop("channels")),
                    model=ModelConfig(**sizes, update_max=update_max),
                    score=ScoreConfig(gamma=gamma, memory_update=mode, batch_size=batch_size))
    rows = score_videos(model, files, config, torch.device("cpu"))
    expected = authors_evaluate(state, items, videos, gamma, mode, update_max)
    assert [(row.video, row.frame) for row in rows] == [(row["video"], row["frame"]) for row in expected]
    assert min(abs(row["regular_score"] - gamma) for row in expected) > 1e-6      # no flag hangs on rounding
    assert [row.memory_updated for row in rows] == [row["updated"] for row in expected]
    assert sum(row.memory_updated for row in rows) in ([0] if mode == "off" else range(3, len(rows) - 2))
    for ours, theirs in zip(rows, expected, strict=True):
        assert ours.psnr == pytest.approx(theirs["psnr"], abs=1e-3)
        assert ours.distance == pytest.approx(theirs["distance"], abs=1e-6)
        assert ours.regular_score == pytest.approx(theirs["regular_score"], abs=1e-6)
    assert torch.equal(model.memory.items, items)                                 # as before


def test_the_modes_of_test_time_update_differ(scored):
    state, items, videos, _, gamma = scored
    runs = [authors_evaluate(state, items, videos, gamma, mode) for mode in ("off", "carry", "reset")]
    D = [[row["distance"] for row in rows] for rows in runs]
    assert D[1][:5] == D[2][:5] and D[1][5:] != D[2][5:]                          # the first video has 5 scored frames
    assert max(abs(a - b) for a, b in zip(D[0], D[1], strict=True)) > 1e-3


def test_normality_of_every_video(scored):
    state, items, videos, _, gamma = scored
    rows = authors_evaluate(state, items, videos, gamma, "carry")
    psnr, distance = ([np.array([row[signal] for row in rows if row["video"] == v]) for v in (0, 2, 3)]
                      for signal in ("psnr", "distance"))
    for ours, p, d in zip(normality([{"psnr": p, "distance": d} for p, d in zip(psnr, distance)], paper_weights(0.6)), psnr, distance, strict=True):
        np.testing.assert_allclose(ours, normality_by_loops(p.tolist(), d.tolist(), weight=0.6), atol=1e-12)


# -------------------------------------------------------------------------------------------------------- training

def test_three_training_steps(pair):
    state, items = random_official_state(0, **SMALL)
    model = imported(pair(state, items)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    batches = [scaled(torch.stack(random_videos([5, 5], H=32, W=32, seed=seed))) for seed in range(3)]
    expected = authors_training_steps(state, items, batches, lr=2e-4, lambda_c=10, lambda_s=5)
    for batch, wanted, tolerance in zip(batches, expected, (1e-5, 1e-4, 2e-3), strict=True):
        out = model(batch[:, :-1])
        losses = compute_losses(out, target=batch[:, -1], memory=model.memory, compactness_weight=10,
                                separateness_weight=5, margin=1.0)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        model.memory.update_(out.queries)
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
        for length in {len(whole) - 1, *range(1, len(whole), len(whole) // 23)}:
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
