"""Winograd's kernels against the plain ones: layers, the local branch, and whole evaluations."""

import pytest
import torch
from helpers import check_equal, write_videos
from steps import config_of, take_steps
from torch.testing import assert_close

from lgn_net.config import Config, DataConfig, ModelConfig, with_knobs
from lgn_net.data.videos import find_split, index_videos
from lgn_net.files import ROOT
from lgn_net.inference.kernels import WinogradBranch, swap_in
from lgn_net.inference.loop import score_videos
from lgn_net.inference.stream import for_inference
from lgn_net.model.build import build_model
from lgn_net.model.local_branch import LocalBranch
from lgn_net.training.checkpoint import load_checkpoint
from lgn_net.training.step import prepare

CPU = torch.device("cpu")


@torch.no_grad()
@pytest.mark.parametrize("at_once", [1, 144])
@pytest.mark.parametrize("layers, B, T, H, W, forget_bias", [(1, 1, 4, 16, 16, 1.0), (3, 2, 4, 24, 40, 0.0),
                                                             (2, 3, 5, 8, 20, 1.0)])
def test_local_branch(monkeypatch, layers, B, T, H, W, forget_bias, at_once):
    monkeypatch.setattr("lgn_net.inference.kernels.AT_ONCE", at_once)
    torch.manual_seed(0)
    plain = LocalBranch(3, 4, 6, layers, forget_bias=forget_bias).eval()
    fast, clip = WinogradBranch(plain), torch.rand(B, T, 3, H, W) * 2 - 1
    expected, gates = plain(clip), [fast.frame_gates(frame) for frame in clip.unbind(1)]
    assert_close(fast(clip), expected, atol=1e-6, rtol=1e-4)
    for _ in range(2):                          # products of frames, kept while the window moves on, stay as they are
        assert_close(fast(clip, gates), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("model", [{"fold_time": True}, {"lstm_layers": 2, "forget_bias": 0.0}], ids=str)
def test_training(model):
    fast, expected = (take_steps(config_of(model, {"kernels": way}), (8, 3)) for way in ("winograd", "direct"))
    assert any(not torch.equal(x, expected.weights[name]) for name, x in fast.weights.items())
    assert_close(fast.losses, expected.losses, atol=1e-5, rtol=0)
    assert_close(fast.weights, expected.weights, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fold_time", [False, True])
def test_gradients_statistics_and_memory(fold_time):
    kept, found = [0, 0, 0], []
    for k, train in enumerate(({"kernels": "direct"}, {}, {"checkpoint_activations": True})):
        torch.manual_seed(0)
        config = config_of({"lstm_layers": 3, "fold_time": fold_time}, {"kernels": "winograd"} | train)
        model = build_model(config).train()
        prepare(model, config, CPU)
        branch, clip = model.local_branch, torch.rand(3, 4, 1, 24, 40) * 2 - 1

        def count(x, k=k):
            kept[k] += x.nbytes
            return x
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            branch(clip).square().sum().backward()
        found.append({name: x.grad for name, x in branch.named_parameters() if name.endswith("weight")}
                     | dict(branch.named_buffers()))                       # a BatchNorm takes the biases before it away
    for other in found[1:]:
        assert_close(other, found[0], rtol=1e-3, atol=1e-3)
    assert kept[2] < kept[0] / 2                                           # the cells compute again, too


def test_a_single_cell_of_another_width_stays():
    model = build_model(Config(model=ModelConfig(base_width=4, hidden_width=64, lstm_layers=1))).eval()
    assert swap_in(model, "auto", 128, 1) == "direct"


@pytest.mark.parametrize("name, concat_query, kernels", [
    ("lgn_net", True, "winograd (2 cells, 8 convolutions), short decoder"),
    ("mnad_pred", False, "winograd (8 convolutions)"), ("lgn_st", False, "winograd (7 convolutions), short decoder")])
def test_scores_of_systems(tmp_path, name, concat_query, kernels):
    config = Config(data=DataConfig("blobs", image_size=24, channels=1),
                    model=ModelConfig(name, base_width=4, hidden_width=6, lstm_layers=2, memory_items=5,
                                      concat_query=concat_query))
    torch.manual_seed(0)
    write_videos(tmp_path, (9, 8), channels=3)
    model, videos = build_model(config), index_videos(tmp_path)
    for weight in model.decoder.parameters():                            # predictions that depend visibly on the memory
        weight.data *= 2
    R = sorted(s.regular_score for s in score_videos(model, videos, config, CPU))
    direct, fast = (with_knobs(config, {"score.kernels": kernels, "score.gamma": R[len(R) // 2]})
                    for kernels in ("direct", "winograd"))
    expected, ready = [*score_videos(model, videos, direct, CPU)], for_inference(model, fast)
    found = [[*score_videos(one, videos, fast, CPU)] for one in (ready, ready)]      # a copy of it has its own memory
    assert found[0] == found[1] != expected and ready.kernels == kernels
    assert sum(s.memory_updated for s in expected) > 2
    check_equal(expected, found[0])


@pytest.mark.slow
def test_trained_weights_on_real_frames(shared_data):
    config, saved = load_checkpoint(ROOT / "weights/ped2_small.pt")
    model = build_model(config)
    model.load_state_dict(saved["model"])
    videos = index_videos(find_split(shared_data, "ped2", "testing"))[:2]
    check_equal(*(score_videos(model, videos, with_knobs(config, {"score.kernels": kernels}), CPU)
                  for kernels in ("direct", "winograd")))
