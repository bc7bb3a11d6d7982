"""From predictions to signals: by hand, by loops, and what scoring, sweeping and predicting again promise."""

import math

import numpy as np
import pytest
import reference
import torch
from helpers import check_equal, write_videos
from reference import query_rows
from test_model import members_by_time
from torch.testing import assert_close

from lgn_net.config import Config, DataConfig, ModelConfig, with_knobs
from lgn_net.data.clips import read_frames, to_float
from lgn_net.data.videos import index_videos
from lgn_net.errors import UserError
from lgn_net.inference import loop
from lgn_net.inference.around import make_maps, sample_normal, to_scores
from lgn_net.inference.loop import copy_items, restore_items
from lgn_net.inference.signals import psnr, query_distance, regular_score
from lgn_net.inference.stream import by_graph, for_inference, stream_windows
from lgn_net.inference.sweep import sweep_gamma
from lgn_net.model.build import build_model
from lgn_net.model.lgn_net import LGNNet
from lgn_net.model.memory import PrototypeMemory
from lgn_net.scores.maps import error_map

CPU = torch.device("cpu")
TINY = Config(data=DataConfig(image_size=16, workers=0, channels=1),
              model=ModelConfig(base_width=4, hidden_width=4, lstm_layers=1, memory_items=5))


def score_videos(*args, **kwargs):
    """All signals at once."""
    return [*loop.score_videos(*args, **kwargs)]


def knobs(config=TINY, **values):
    return with_knobs(config, {"score.batch_size": 1} | {f"score.{name}": value for name, value in values.items()})


def vivid(model):
    """Predictions that depend visibly on the memory."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0 if parameter.dim() > 1 else 1.0)
    return model


@pytest.fixture
def videos(tmp_path):
    write_videos(tmp_path / "videos", (9, 8, 10), channels=3)
    return index_videos(tmp_path / "videos")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return vivid(build_model(TINY))


def test_signals_by_hand():
    """Of frames (3, 1, 1, 2) with these values on [0, 1]."""
    predicted, target = (2 * torch.tensor(values)[:, None, None] - 1 for values in (
        ([0.5, 0.0], [1.0, 0.5], [0.3, 0.7]), ([0.0, 0.0], [0.0, 0.0], [0.3, 0.7])))
    # Squared errors (0.25, 0), (1, 0.25) and none; 1 - exp(-1) = 0.632121, 1 - exp(-0.25) = 0.221199.
    assert psnr(predicted, target).tolist() == pytest.approx([10 * math.log10(8), 10 * math.log10(1.6), 120], abs=1e-4)
    assert psnr(predicted[:2], target[:2], "prediction").tolist() == pytest.approx(                  # peaks 0.5 and 1
        [10 * math.log10(0.25 * 8), 10 * math.log10(1.6)], abs=1e-4)
    assert regular_score(predicted, target).tolist() == pytest.approx(
        [0.25, (0.632121 + 0.221199 * 0.25) / (0.632121 + 0.221199), 0], abs=1e-5)
    memory = PrototypeMemory(2, 2)
    memory.items.copy_(torch.eye(2))
    queries = torch.tensor([[[0.6, 1.0], [0.8, 0.0]], [[0.0, 0.0], [1.0, -1.0]]])[..., None]     # (B, D, h, 1)
    # Queries (.6, .8) and (1, 0); then (0, 1) and (0, -1), whose cosines with the items are 0 and -1.
    assert query_distance(memory.lookup(queries), memory).tolist() == pytest.approx([(.36 + .04) / 4, 2 / 4], abs=1e-6)


def scored_one_by_one(model, videos, config):
    """The plain path: a window decoded, a whole forward pass, signals by the slow reference, and the update.

    Returns (PSNR, R, D of each memory) of every frame, PSNRs of copying and extrapolation, and whether it moved the
    memories.
    """
    model.eval()
    mode, window, items = config.score.memory_update, config.model.window, copy_items(model)
    rows, simple, updates = [], [], []
    for video in videos:
        if mode == "reset":
            restore_items(model, items)
        for t in range(window - 1, len(video.frames)):
            frames = video.frames[t + 1 - window:t + 1]
            clip = to_float(read_frames(frames, config.data.channels, config.data.image_size))
            with torch.no_grad():
                out = model(clip[None, :config.model.input_frames])
            pair = out.prediction[0], clip[-1]
            rows.append((reference.psnr(*pair), reference.regular_score(*pair),
                         *(reference.compactness(memory.items, query_rows(lookup.queries)).item()
                           for memory, lookup in zip(model.memories, out.lookups, strict=True))))
            simple += [{"psnr_copy": reference.psnr(clip[-2], clip[-1]),
                        "psnr_linear": reference.psnr((2 * clip[-2] - clip[-3]).clip(-1, 1), clip[-1])}
                       if window > config.model.input_frames else {}]
            updates.append(mode != "frozen" and bool(model.memories) and rows[-1][1] < config.score.gamma)
            for memory, lookup in zip(model.memories, out.lookups):
                if updates[-1]:
                    memory.items.copy_(reference.memory_update(memory.items, query_rows(lookup.queries)))
    restore_items(model, items)
    return np.array(rows), simple, updates


def middle_gamma(regular):
    """A gamma amid the regular scores, as far as possible from every one, so that no update hangs on rounding."""
    regular = np.sort(regular)
    k = max(range(len(regular) // 4, 3 * len(regular) // 4), key=lambda k: regular[k + 1] - regular[k])
    return float(regular[k] + regular[k + 1]) / 2


@pytest.mark.filterwarnings("ignore:.*skipped")
@members_by_time
def test_scores_are_those_of_the_loop_at_every_batch_size(videos, member, monkeypatch):
    """Of videos one of which is too short to score; grey or in colour."""
    monkeypatch.setattr(loop, "CALM_WINDOWS", 1)                  # several windows at once also in short videos
    channels = 3 if member.name == "lgn_net" else 1
    model, config = vivid(member.model(channels)), member.config(channels)
    videos = [videos[1], videos[0]._replace(frames=videos[0].frames[:4]),
              videos[0]._replace(frames=videos[0].frames[:7]), videos[1]._replace(name="again")]
    items, gamma = copy_items(model), middle_gamma(scored_one_by_one(model, videos, config)[0][:, 1])

    def check(expected, simple, updates, psnr_tolerance, distance_tolerance, **values):
        signals = score_videos(model, videos, knobs(config, **values), CPU)
        assert [(s.video, s.frame) for s in signals] == [
            (v, t) for v, video in enumerate(videos) for t in range(member.window - 1, len(video.frames))]
        assert [s.memory_updated for s in signals] == updates
        for s, x in zip(signals, simple, strict=True):
            assert s.more == pytest.approx(x, abs=1e-4)
        found = np.array([(s.psnr, s.regular_score, *s.distance) for s in signals])
        np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=0, atol=psnr_tolerance)                # dB
        np.testing.assert_allclose(found[:, 2:], expected[:, 2:], rtol=0, atol=distance_tolerance)          # D
        assert_close(copy_items(model), items, atol=0, rtol=0)                                              # as before

    for mode in ("frozen", "carry", "reset") if member.depths else ["carry"]:
        expected = scored_one_by_one(model, videos, knobs(config, memory_update=mode, gamma=gamma))
        updates = expected[-1]
        assert 0 < sum(updates) < len(updates) if member.depths and mode != "frozen" else not any(updates)
        for batch_size in (1, 12):
            check(*expected, 1e-4, 1e-7, memory_update=mode, gamma=gamma, batch_size=batch_size)
    check(*scored_one_by_one(model, videos, knobs(config, gamma=10.0)), 0.2, 0.01, gamma=10.0, precision="bfloat16")


def test_gamma_is_a_strict_bound_in_float32(model, videos):
    """Neither R itself nor a number that float32 rounds to it updates; the next one does, also in a sweep."""
    R = score_videos(model, videos[:1], knobs(memory_update="frozen"), CPU)[0].regular_score
    above = float(np.nextafter(np.float32(R), np.float32(1)))
    expected = {R: False, R + (above - R) / 4: False, above: True}
    swept = sweep_gamma(model, videos[:1], knobs(), expected, CPU)
    for gamma, updated in expected.items():
        assert score_videos(model, videos[:1], knobs(gamma=gamma), CPU)[0].memory_updated == updated
        assert swept[gamma][0].memory_updated == updated


@torch.inference_mode()
def test_single_windows_by_a_graph(model, videos, monkeypatch):
    """With a backend that writes every result over the last one, as a CUDA graph does; others take the usual way."""
    monkeypatch.setattr(loop, "CALM_WINDOWS", 1)
    real, outputs = torch.compile, []

    def backend(graph, _inputs):
        def replay(*inputs):
            outputs.extend(graph(*inputs))
            return outputs[0].copy_(outputs[-1]),
        return replay

    monkeypatch.setattr(torch, "compile", lambda decode, **_: real(decode, backend=backend, dynamic=False))
    R = sorted(s.regular_score for s in score_videos(model, videos, knobs(memory_update="frozen"), CPU))
    config = knobs(batch_size=6, gamma=R[3])
    usual, graph = (for_inference(model, config) for _ in range(2))
    graph.decode = by_graph(graph.decode)
    ranges = [(v, range(len(video.frames))) for v, video in enumerate(videos)]
    expected, found = ([*loop.predict(one, stream_windows(one, videos, ranges, config, CPU), config)]
                       for one in (usual, graph))
    assert {len(x) for x in outputs} == {1} and 2 < len(outputs) < sum(len(scored.signals) for scored in expected)
    for one, other in zip(expected, found, strict=True):
        assert one.signals == other.signals and torch.equal(one.predicted, other.predicted)


@pytest.mark.parametrize("mode", ["carry", "reset"])
def test_a_sweep_gives_what_each_gamma_gives_alone(model, videos, mode):
    items = copy_items(model)
    every = sorted(s.regular_score for s in score_videos(model, videos, knobs(memory_update="frozen"), CPU))
    gammas = [0, middle_gamma(every), every[1] + 1e-6, middle_gamma(every), 10.0]                # one of them twice
    swept = sweep_gamma(model, videos, knobs(memory_update=mode), gammas, CPU)
    assert list(swept) == list(dict.fromkeys(gammas))
    for gamma, signals in swept.items():
        check_equal(score_videos(model, videos, knobs(memory_update=mode, gamma=gamma, batch_size=6), CPU), signals)
    assert {0, len(every)} < {sum(s.memory_updated for s in signals) for signals in swept.values()}
    assert_close(copy_items(model), items, atol=0, rtol=0)


@pytest.mark.parametrize("mode", ["carry", pytest.param("reset", marks=pytest.mark.slow)])
def test_single_frames_again_as_they_were_predicted(model, videos, mode):
    every = [s.regular_score for s in score_videos(model, videos, knobs(memory_update="frozen"), CPU)]
    config, seen = knobs(memory_update=mode, gamma=middle_gamma(every), batch_size=2), {}

    def observe(video, frame, predicted, target):
        seen[video, frame] = predicted.clone()
        return {"mean": predicted.mean().item()}

    signals = score_videos(model, videos, config, CPU, observers=[observe])
    assert list(seen) == [(s.video, s.frame) for s in signals]
    assert [s.more["mean"] for s in signals] == [predicted.mean().item() for predicted in seen.values()]
    scored = to_scores(signals, videos)
    normal = [video.signals["psnr"] for video in scored]
    for wanted in ([(2, 9), (0, 6), (2, 5)], sorted(seen)):
        again = make_maps(model, videos, config, scored, normal, [(v, t, "chosen") for v, t in wanted], CPU)
        for (v, t), one in zip(wanted, again, strict=True):
            assert (one.video, one.frame, one.normality) == (videos[v].name, t, normal[v][t - 4])
            target = read_frames(videos[v].frames[t:t + 1], 1, 16)[0]
            assert np.array_equal(one.image, target.transpose(1, 2, 0))
            assert_close(one.error, error_map(seen[v, t], to_float(target)), atol=1e-5, rtol=0)


def test_windows_spread_over_all_videos(model, videos):
    everything = score_videos(model, videos, knobs(memory_update="frozen"), CPU)              # 5 + 4 + 6 windows
    apart = [(0, 4), (1, 4), (2, 4), (2, 9)]                                # the last begins where the one before ends
    for count, expected in ((3, [(0, 4), (1, 6), (2, 9)]), (4, apart), (400, [(s.video, s.frame) for s in everything])):
        found, (about,) = sample_normal(model, videos, knobs(batch_size=4, gamma=10.0), count, CPU)
        assert [(s.video, s.frame) for s in found] == expected
        assert [s.psnr for s in found] == pytest.approx([s.psnr for s in everything if (s.video, s.frame) in expected],
                                                        abs=1e-4)
        assert sum(about["queries_of_item"]) == 4 * len(expected) and not any(s.memory_updated for s in found)
        assert about["live_items"] == np.count_nonzero(about["queries_of_item"])


def test_one_prediction_that_is_not_finite_is_named(model, videos, monkeypatch):
    bad, encode = to_float(read_frames(videos[1].frames[5:6], 1, 16)), LGNNet.encode

    def fail_after_the_bad_frame(self, clip, gates=None):
        queries, context = encode(self, clip, gates)
        broken = (clip[:, -1] == bad).flatten(1).all(dim=1)
        return queries, {"local": torch.where(broken[:, None, None, None], torch.nan, context["local"])}

    monkeypatch.setattr(LGNNet, "encode", fail_after_the_bad_frame)
    with pytest.raises(UserError, match="frame 6: .* not finite"):        # the third of four
        score_videos(model, videos, knobs(memory_update="frozen", batch_size=3), CPU)
