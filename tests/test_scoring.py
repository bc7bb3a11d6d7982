"""From predictions to the AUC: by hand, by loops, and the promises of `score_videos`."""

import itertools
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from reference import compactness, memory_update, query_rows
from reference import psnr as psnr_by_hand
from reference import regular_score as regular_score_by_hand

from lgn_net.config import Config, DataConfig, ModelConfig, ScoreConfig
from lgn_net.data.clips import read_frames, to_float
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.errors import UserError
from lgn_net.inference.loop import (
    judge_prediction,
    predict_frames,
    query_distance,
    score_videos,
    score_windows,
    sweep_gamma,
)
from lgn_net.model.build import build_model
from lgn_net.model.lgn_net import LGNNet
from lgn_net.model.memory import PrototypeMemory

CPU = torch.device("cpu")
TINY = Config(data=DataConfig(image_size=16, workers=0), score=ScoreConfig(batch_size=1),
              model=ModelConfig(base_width=4, hidden_width=4, lstm_layers=1, memory_items=5))


def with_knobs(config=TINY, **knobs):
    return replace(config, score=replace(config.score, **knobs))


def frames_of(*values):
    """Values on [0, 1] -> images (B, 1, 1, W) on [-1, 1]."""
    return torch.tensor(values)[:, None, None, :] * 2 - 1


# ------------------------------------------------------------------------------------------------- signals by hand

def test_psnr_and_regular_score_by_hand():
    predicted, target = frames_of([0.5, 0.0], [1.0, 0.5]), frames_of([0.0, 0.0], [0.0, 0.0])
    psnr, regular = judge_prediction(predicted, target)
    # Squared errors (0.25, 0) and (1, 0.25); 1 - exp(-1) = 0.632121, 1 - exp(-0.25) = 0.221199.
    assert psnr.tolist() == pytest.approx([10 * math.log10(8), 10 * math.log10(1.6)], abs=1e-4)
    assert regular.tolist() == pytest.approx([0.25, (0.632121 + 0.221199 * 0.25) / (0.632121 + 0.221199)], abs=1e-5)
    psnr, same = judge_prediction(predicted, target, "prediction")                # peaks 0.5 and 1
    assert psnr.tolist() == pytest.approx([10 * math.log10(0.25 * 8), 10 * math.log10(1.6)], abs=1e-4)
    assert torch.equal(same, regular)


def test_perfect_prediction_is_finite():
    psnr, regular = judge_prediction(frames_of([0.3, 0.7]), frames_of([0.3, 0.7]))
    assert (psnr.item(), regular.item()) == (pytest.approx(120), 0)


def test_distance_by_hand():
    memory = PrototypeMemory(2, 2)
    memory.items.copy_(torch.eye(2))
    queries = torch.tensor([[[0.6, 1.0], [0.8, 0.0]], [[0.0, 0.0], [1.0, -1.0]]])[..., None]     # (B, D, h, 1)
    # Queries (.6, .8) and (1, 0); then (0, 1) and (0, -1), whose cosines with the items are 0 and -1.
    assert query_distance(queries, memory).tolist() == pytest.approx([(0.36 + 0.04 + 0) / 4, (0 + 1 + 1) / 4], abs=1e-6)


# ---------------------------------------------------------------------------------------------------- score_videos

@pytest.fixture
def videos(blob_dataset):
    return index_videos(find_split(blob_dataset(testing=(9, 8, 10)), "blobs", "testing"))


@pytest.fixture
def model():
    """Random weights, but with predictions that depend visibly on the memory."""
    torch.manual_seed(0)
    model = build_model(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


def scores_by_loop(model, videos, mode, gamma):
    """The protocol word for word: frame after frame, whole forward passes, signals and update by the slow reference."""
    model.eval()
    items, rows = model.memory.items.clone(), []
    for v, video in enumerate(videos):
        clip = to_float(read_frames(video.frames, 3, 16))
        if mode == "reset":
            model.memory.items.copy_(items)
        for t in range(4, len(clip)):
            with torch.no_grad():
                out = model(clip[None, t - 4:t])
            rows.append((v, t, psnr_by_hand(out.prediction[0], clip[t]),
                         compactness(model.memory.items, query_rows(out.queries[0])).item(),
                         regular_score_by_hand(out.prediction[0], clip[t])))
            updated = mode != "off" and rows[-1][4] < gamma
            rows[-1] += (updated,)
            if updated:
                model.memory.items.copy_(memory_update(model.memory.items, query_rows(out.queries[0])))
    model.memory.items.copy_(items)
    return rows


def middle_gamma(model, videos):
    """A gamma that is far from every regular score, with frames of every video on both sides."""
    signals = score_videos(model, videos, with_knobs(memory_update="off"), CPU)
    by_video = [[s.regular_score for s in signals if s.video == v] for v in range(len(videos))]
    low, high = max(map(min, by_video)), min(map(max, by_video))
    inside = sorted({low, high, *(r for rs in by_video for r in rs if low <= r <= high)})
    a, b = max(itertools.pairwise(inside), key=lambda pair: pair[1] - pair[0])
    assert b > a
    return (a + b) / 2


def assert_same_signals(signals, expected):
    assert [(s[0], s[1], s[5]) for s in signals] == [(e[0], e[1], e[5]) for e in expected]
    psnr, distance, regular = ([np.sum(s[k]) for s in signals] for k in (2, 3, 4))
    expected_psnr, expected_distance, expected_regular = ([np.sum(e[k]) for e in expected] for k in (2, 3, 4))
    np.testing.assert_allclose(psnr, expected_psnr, rtol=0, atol=1e-4)                                   # dB
    np.testing.assert_allclose(distance, expected_distance, rtol=0, atol=1e-7)                           # D
    np.testing.assert_allclose(regular, expected_regular, rtol=1e-4)                                     # R


@pytest.mark.parametrize("mode", ["off", "carry", "reset"])
def test_scores_are_those_of_the_loop_at_every_batch_size(model, videos, mode):
    gamma, items = middle_gamma(model, videos), model.memory.items.clone()
    expected = scores_by_loop(model, videos, mode, gamma)
    updates = sum(row[5] for row in expected)
    assert updates == 0 if mode == "off" else 0 < updates < len(expected)
    for batch_size in (1, 3, 64):
        signals = score_videos(model, videos, with_knobs(memory_update=mode, gamma=gamma, batch_size=batch_size), CPU)
        assert_same_signals(signals, expected)
        assert torch.equal(model.memory.items, items)                             # as before


def test_frames_count_from_n_and_short_videos_are_left_out(model, videos):
    videos = [videos[0], videos[1]._replace(name="short", frames=videos[1].frames[:4]), videos[2]]
    with pytest.warns(UserWarning, match="short"):
        signals = score_videos(model, videos, with_knobs(memory_update="off"), CPU)
    assert [(s.video, s.frame) for s in signals] == [(0, t) for t in range(4, 9)] + [(2, t) for t in range(4, 10)]
    with pytest.warns(UserWarning), pytest.raises(UserError, match="no video"):
        score_videos(model, videos[1:2], TINY, CPU)


def test_carry_and_reset_part_after_the_first_video(model, videos):
    gamma = middle_gamma(model, videos)
    off, carry, reset = (score_videos(model, videos, with_knobs(memory_update=mode, gamma=gamma), CPU)
                         for mode in ("off", "carry", "reset"))
    first, later = slice(0, 5), slice(5, None)
    assert any(s.memory_updated for s in carry[first])
    assert carry[first] == reset[first] != off[first]
    assert all(a.distance != b.distance for a, b in zip(carry[later], reset[later], strict=True))
    alone = score_videos(model, videos[1:], with_knobs(memory_update="reset", gamma=gamma), CPU)
    assert [s[1:] for s in alone] == [s[1:] for s in reset[later]]                # whatever came before


def test_gamma_is_a_strict_bound(model, videos):
    first = score_videos(model, videos, with_knobs(memory_update="off"), CPU)[0].regular_score
    for gamma, updated in ((first, False), (np.nextafter(np.float32(first), np.float32(1)).item(), True), (0, False)):
        assert score_videos(model, videos, with_knobs(gamma=gamma), CPU)[0].memory_updated == updated


@pytest.mark.parametrize("mode", ["off", "carry", "reset"])
def test_a_sweep_gives_what_each_gamma_gives_alone(model, videos, mode):
    middle, items = middle_gamma(model, videos), model.memory.items.clone()
    every = sorted(s.regular_score for s in score_videos(model, videos, with_knobs(memory_update="off"), CPU))
    gammas = [0, middle, every[1] + 1e-6, every[-2] + 1e-6, middle, 10.0]                    # one of them twice
    swept = sweep_gamma(model, videos, with_knobs(memory_update=mode), gammas, CPU)
    assert list(swept) == list(dict.fromkeys(gammas))
    for gamma, signals in swept.items():
        assert signals == score_videos(model, videos, with_knobs(memory_update=mode, gamma=gamma), CPU)
    updates = {sum(s.memory_updated for s in signals) for signals in swept.values()}
    assert updates == {0} if mode == "off" else {0, len(every)} < updates
    assert torch.equal(model.memory.items, items)                                             # as before


@pytest.mark.parametrize("mode", ["off", "carry", "reset"])
def test_single_frames_again_as_they_were_predicted(model, videos, mode):
    config, items = with_knobs(memory_update=mode, gamma=middle_gamma(model, videos)), model.memory.items.clone()
    watched = {}

    def watch(video, first, predicted, target):
        for k, pair in enumerate(zip(predicted.clone(), target.clone(), strict=True)):
            assert watched.setdefault((video, first + k), pair) is pair                       # each frame once

    signals = score_videos(model, videos, with_knobs(config, batch_size=2), CPU, watches=[watch])
    assert sorted(watched) == [(s.video, s.frame) for s in signals]
    for wanted in ([(0, 4)], [(2, 9), (0, 6), (2, 5)], sorted(watched)):
        again = list(predict_frames(model, videos, config, signals, wanted, CPU))
        assert [(v, t) for v, t, *_ in again] == sorted(wanted)
        for v, t, predicted, target in again:
            torch.testing.assert_close(predicted, watched[v, t][0], atol=1e-5, rtol=0)
            assert torch.equal(target, to_float(read_frames(videos[v].frames[t:t + 1], 3, 16))[0])
        assert torch.equal(model.memory.items, items)
    moved = [(s.video, s.frame) for s in signals]
    off = {(s.video, s.frame): s.psnr for s in score_videos(model, videos, with_knobs(memory_update="off"), CPU)}
    mattered = any(s.psnr != off[key] for s, key in zip(signals, moved, strict=True))
    assert mode == "off" or mattered


def test_windows_spread_over_all_videos(model, videos):
    everything = score_videos(model, videos, with_knobs(memory_update="off"), CPU)           # 5 + 4 + 6 windows
    for count in (15, 400):
        assert_same_signals(score_windows(model, videos, with_knobs(batch_size=4), count, CPU)[0], everything)
    some, _ = score_windows(model, videos, with_knobs(batch_size=4), 3, CPU)
    assert [(s.video, s.frame) for s in some] == [(0, 4), (1, 6), (2, 9)]                     # windows 0, 7, 14
    assert_same_signals(some, [s for s in everything if (s.video, s.frame) in {(0, 4), (1, 6), (2, 9)}])


class Persistence(LGNNet):
    """Predicts that nothing changes: the last frame it saw."""

    def encode(self, clip, gates=None):
        return super().encode(clip)[0], {"last": clip[:, -1]}

    def decode(self, prototypes, queries, context):
        return context["last"]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_jump_shows_at_its_own_frame(tmp_path, batch_size):
    """The scene changes once per video, for good: the frame of the change alone is mispredicted, by a known error."""
    videos, jumps, error = [], (4, 9, 7), (90 - 40) / 255
    for v, jump in enumerate(jumps):
        (tmp_path / str(v)).mkdir()
        for t in range(10):
            frame = np.full((12, 20, 3), 90 if t >= jump else 40, np.uint8)
            cv2.imwrite(str(tmp_path / str(v) / f"{t}.png"), frame)
        videos.append(Video(str(v), tuple(str(tmp_path / str(v) / f"{t}.png") for t in range(10))))
    model = Persistence(base_width=4, hidden_width=4, lstm_layers=1, memory_items=5)
    signals = score_videos(model, videos, with_knobs(batch_size=batch_size), CPU)
    surprising = {(s.video, s.frame): s for s in signals if s.psnr < 100}
    assert list(surprising) == list(enumerate(jumps))
    for s in surprising.values():
        assert s.psnr == pytest.approx(-20 * math.log10(error), abs=1e-3)
        assert s.regular_score == pytest.approx(error**2, rel=1e-4)
    assert [s.memory_updated for s in signals] == [(s.video, s.frame) not in surprising for s in signals]


@pytest.mark.parametrize("name", ["decoder.head.6.weight", "prototype_encoder", "memory.items"])
def test_damaged_weights(model, videos, name):
    entry = next(key for key in model.state_dict() if key.startswith(name))
    model.state_dict()[entry].fill_(math.nan)
    for mode in ("off", "carry"):
        with pytest.raises(UserError, match=r"01.*not finite"):
            score_videos(model, videos, with_knobs(memory_update=mode, batch_size=3), CPU)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_one_prediction_that_is_not_finite(model, videos, batch_size, monkeypatch):
    """Named, wherever it stands in its batch; and the memory is left as it was."""
    bad, items = to_float(read_frames(videos[1].frames[5:6], 3, 16)), model.memory.items.clone()
    encode = model.encode

    def fail_after_the_bad_frame(clip, gates=None):
        queries, context = encode(clip, gates)
        broken = (clip[:, -1] == bad).flatten(1).all(dim=1)
        return queries, {"local": torch.where(broken[:, None, None, None], torch.nan, context["local"])}

    monkeypatch.setattr(model, "encode", fail_after_the_bad_frame)
    with pytest.raises(UserError, match=r"video 02, frame 6"):                    # the third of four
        score_videos(model, videos, with_knobs(batch_size=batch_size, gamma=1.0), CPU)
    assert torch.equal(model.memory.items, items)


def test_damaged_frame_is_named(model, videos):
    with open(videos[1].frames[6], "wb") as file:
        file.write(b"no picture")
    with pytest.raises(UserError, match=r"02/006\.png"):
        score_videos(model, videos, TINY, CPU)
