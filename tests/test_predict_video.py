"""Own videos: scripts/export_weights.py, `AnomalyDetector`, scripts/predict_video.py, on files and loopback streams."""

import contextlib
import functools
import http.server
import itertools
import json
import math
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, edit_checkpoint, load_script, run, sentence, write_videos
from test_footage import write
from test_page import browser, open_page, wait_for  # noqa: F401

import evaluate
from lgn_net import AnomalyDetector
from lgn_net.config import Config, DataConfig, ModelConfig, with_knobs
from lgn_net.data.footage import Frame, open_footage
from lgn_net.data.videos import index_videos
from lgn_net.errors import UserError
from lgn_net.inference.around import sample_normal
from lgn_net.inference.loop import score_videos, to_scores
from lgn_net.model.build import build_model
from lgn_net.report import figures as page_figures
from lgn_net.scores.calibration import calibrated, threshold_at
from lgn_net.scores.protocols import normality, paper_weights
from lgn_net.scores.score_file import read_scores
from lgn_net.training.checkpoint import load_checkpoint, save_checkpoint
from lgn_net.video import output, source
from lgn_net.video.detector import FrameResult, with_alarms
from lgn_net.video.output import Annotator, boxes_of, heat

export, predict = load_script("scripts/export_weights.py"), load_script("scripts/predict_video.py")
write_video = functools.partial(write, codec="ffv1", form="bgr0")
CPU, COLUMNS = torch.device("cpu"), ["psnr", "distance", "regular_score"]
TINY = Config(data=DataConfig(dataset="made", image_size=16, channels=1, workers=0),
              model=ModelConfig(base_width=4, hidden_width=4, lstm_layers=1, memory_items=5))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A test video, two training videos, a checkpoint last.pt and its small.pt."""
    folder = tmp_path_factory.mktemp("made")
    write_videos(folder / "made/training/frames", [9, 12])
    write_videos(folder / "made/testing/frames", [20])
    exported(folder, folder, {})
    return folder


def exported(folder, data, knobs):
    """The small.pt of a network that was not trained."""
    torch.manual_seed(0)
    config = with_knobs(TINY, knobs)
    save_checkpoint(folder / "last.pt", config, build_model(config).state_dict(), optimizer=torch.zeros(100_000))
    done = run(export.main, folder / "last.pt", "--dataset_path", data, "--out", folder / "small.pt", "--device", "cpu")
    assert done.status == 0, done.err
    return folder / "small.pt"


@pytest.fixture
def video(data):
    return data / "made/testing/frames/00"


@pytest.fixture
def start(data, tmp_path):
    """A function that runs the command with more arguments; later ones win."""
    return functools.partial(run, predict.main, "--checkpoint", data / "small.pt", "--device", "cpu", "--out",
                             tmp_path / "out")


@pytest.fixture
def score(start, tmp_path):
    """The same, and returns how it ended and the scores."""

    def run_and_read(*args):
        done = start(*args)
        assert done.status == 0, done.err
        return done, read_scores(tmp_path / "out/scores.csv", ["psnr", "normality"], labelled=False)[0]

    return run_and_read


def network(path):
    """Configuration and network of a checkpoint, and its file's content."""
    config, content = load_checkpoint(path)
    model = build_model(config)
    model.load_state_dict(content["model"])
    return config, model, content


def read_video(path):
    with open_footage(path) as footage:
        return list(footage.frames)


def frames_of(folder):
    return [cv2.imread(str(path)) for path in sorted(folder.iterdir())]


def evaluated(checkpoint, folder, memory_update="frozen"):
    """The scores of the video in the folder as an evaluation computes them."""
    config, model, _ = network(checkpoint)
    videos, config = index_videos(folder), with_knobs(config, {"score.memory_update": memory_update})
    return to_scores(score_videos(model, videos, config, CPU), videos)[0]


def assert_same_scores(scored, expected, columns=COLUMNS):
    assert scored.frames.tolist() == expected.frames.tolist()
    for name in columns:
        np.testing.assert_allclose(scored.signals[name], expected.signals[name], rtol=2e-5)


@pytest.fixture
def detector(data):
    return AnomalyDetector.load(data / "small.pt", "cpu", threshold=-1.0, min_frames=1, gap=0)


@pytest.fixture
def pictures(video):
    return frames_of(video)


def test_calibration_is_that_of_sampled_windows(data):
    config, model, content = network(data / "small.pt")
    signals, _ = sample_normal(model, index_videos(data / "made/training/frames"), config, 256, CPU)
    calibration, weights = content["calibration"], paper_weights(config.score.psnr_weight)
    values = {"psnr": np.array([s.psnr for s in signals]), "distance": np.array([s.distance[0] for s in signals])}
    assert calibration["frames"] == len(signals) == 5 + 8
    for name, x in values.items():
        assert calibration["signals"][name] == pytest.approx({"mean": np.mean(x), "std": np.std(x)})
    expected = normality([values], weights, "training", values)[0]
    np.testing.assert_allclose(calibrated(values, weights, calibration), expected)
    for share in 0, 0.05, 0.7, 1:
        assert threshold_at(calibration, share) == pytest.approx(np.quantile(expected, share))


def test_exported_file_is_small_and_rounded(data, tmp_path):
    """All but the memory items and what is too large for float16; --half does that and nothing else."""
    def enlarge(content):
        content["model"]["decoder.head.0.weight"][0, 0, 0, 0] = 1e5
    large, small = edit_checkpoint(data / "last.pt", tmp_path / "large.pt", enlarge), data / "small.pt"
    done = run(export.main, large, "--half", "--out", tmp_path / "half.pt")
    assert done.status == 0
    half, after, before = (load_checkpoint(path)[1] for path in (tmp_path / "half.pt", small, large))
    assert half["model"].pop("decoder.head.0.weight")[0, 0, 0, 0] == 1e5 and "calibration" not in half
    for name, value in half["model"].items():
        expected = before["model"][name]
        exact = name == "memory.items" or not expected.is_floating_point()
        assert torch.equal(value, expected if exact else expected.half()), name
        assert torch.equal(value, after["model"][name])
    assert small.stat().st_size < large.stat().st_size / 2 and "optimizer" not in after
    for argv in [large, "--half", "--out", large], [large, "--half"], ["--join", tmp_path, "--out", tmp_path / "a.pt"]:
        assert run(export.main, *argv).status == 2 and not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize(("length", "gap"), [(1, 0), (3, 0), (3, 1), (4, 3)])
def test_alarms_against_a_slow_search(length, gap):
    """The longest runs of low frames with short gaps, found in "0110..."; and how long a frame waits for its answer."""
    for bits in itertools.product("01", repeat=10):
        low, taken, found, expected = "".join(bits), [], "", ["0"] * 10
        frames = (taken.append(t) or shown(t, -float(x), threshold=-0.5) for t, x in enumerate(low))
        for frame in with_alarms(frames, length, gap):
            found += str(int(frame.alarm))
            assert len(taken) - frame.number - 1 <= length + gap
        for run_of_lows in re.finditer(f"1(0{{0,{gap}}}1)*", low):
            if len(run_of_lows[0]) >= length:
                expected[slice(*run_of_lows.span())] = "1" * len(run_of_lows[0])
        assert found == "".join(expected), low


def test_scores_are_those_of_an_evaluation(data, video, score, tmp_path):
    config, content = load_checkpoint(data / "small.pt")
    for place in video, write_video(tmp_path / "00.avi", frames_of(video)):
        _, scored = score("--video", place, "--no_video")
        assert_same_scores(scored, evaluated(data / "small.pt", video.parent))
        np.testing.assert_allclose(scored.signals["normality"], calibrated(
            scored.signals, paper_weights(config.score.psnr_weight), content["calibration"]))
        assert scored.name == "00" and not scored.signals["memory_updated"].any()
    (tmp_path / "one.csv").write_text("video,start,end\n00,8,9\n")
    measured = run(evaluate.main, "--scores", tmp_path / "out/scores.csv", "--labels", tmp_path / "one.csv")
    assert measured.status == 0, measured.err                                 # the score file is one of this project's


def test_colour_scores_with_memory_updates(data, score, tmp_path):
    """Colour survives the way through a video file, and the memory is updated as in an evaluation."""
    small = exported(tmp_path, data, {"data.channels": 3, "score.gamma": 0.2})
    frames = np.random.default_rng(0).integers(0, 256, (9, 18, 22, 3), np.uint8)
    frames //= np.arange(1, 10, dtype=np.uint8)[:, None, None, None]          # darker and darker
    (tmp_path / "png/00").mkdir(parents=True)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"png/00/{t}.png"), frame)
    colour = write_video(tmp_path / "00.avi", frames)
    for mode, flags in ("frozen", []), ("carry", ["--update_memory"]):
        _, scored = score("--checkpoint", small, "--video", colour, "--no_video", *flags)
        assert_same_scores(scored, evaluated(small, tmp_path / "png", mode), [*COLUMNS, "memory_updated"])
    assert 0 < scored.signals["memory_updated"].sum() < len(scored.frames)


def shown(number, normality, alarm=False, picture=None, error=None, threshold=-2.0):
    return FrameResult(number, math.nan, picture, {}, error, normality, threshold, alarm)


def is_box(picture):
    """Where a picture is blue as the box is; grey and heat are not, even after lossy coding."""
    return picture[..., 0].astype(int) - picture[..., 2] > 60


@pytest.fixture
def square(tmp_path):
    """A grey scene of moving noise, and a square that jumps; its name is markup."""
    background = np.random.default_rng(0).integers(60, 120, (90, 121, 1), np.uint8).repeat(3, axis=2)
    frames = np.stack([np.roll(background, t, axis=1) for t in range(40)])
    for t in range(15, 30):
        frames[t, 20:50, 10 + 50 * (t % 2):40 + 50 * (t % 2)] = 255 * ((t // 2) % 2)
    return frames, write_video(tmp_path / "<b>&.avi", frames)


def test_annotated_video_has_every_frame_and_the_box_in_alarms_only(square, score, tmp_path):
    frames, path = square
    threshold = np.median(score("--video", path, "--no_video")[1].signals["normality"])
    _, scored = score("--video", path, "--threshold", threshold, "--min_frames", 1, "--gap", 0)
    pictures, inside = [frame.picture for frame in read_video(tmp_path / "out/annotated.mp4")], np.zeros(40, bool)
    for line in (tmp_path / "out/alarms.csv").read_text().splitlines()[1:]:
        name, start, end, *seconds, lowest = line.split(",")
        first, last = int(start), int(end)
        inside[first:last + 1] = True
        assert name == "<b>&" and [float(x) for x in seconds] == [first / 10, last / 10]
        assert float(lowest) == pytest.approx(scored.signals["normality"][first - 4:last - 3].min(), abs=1e-4)
    expected = scored.signals["normality"] < threshold
    assert inside.tolist() == 4 * [False] + expected.tolist() and 0 < inside.sum() < 36
    assert len(pictures) == 40 and pictures[0].shape == (90 + 14 + 16, 122, 3)
    assert np.array_equal([is_box(picture[:90]).sum() >= 8 for picture in pictures], inside)
    assert cv2.PSNR(pictures[0][:90, :121], frames[0]) > 25     # the picture itself, where there is no heat
    assert not list((tmp_path / "out").glob(".*")) and (tmp_path / "out/curve.png").stat().st_size > 5000


def test_heat_and_boxes_are_where_the_error_is():
    """Two regions burn, the larger one first; a third is hardly more than normal frames have."""
    error = np.full((32, 32), 1e-4, np.float32)
    error[8:16, 20:28], error[20:26, 2:8], error[28:30, 28:30] = 0.1, 0.04, 0.02
    picture = np.full((64, 128, 3), 100, np.uint8)
    frame = shown(0, -9.0, True, picture, error)
    hot = heat(frame, 0.01)
    assert (hot[20:28, 88:104, 2] > 150).all() and np.array_equal(hot[:10, :70], picture[:10, :70])
    assert np.array_equal(heat(frame, 0.2), picture)                           # no more than in normal frames
    boxes, places = boxes_of(frame, 0.01), [[80, 16, 112, 32], [8, 40, 32, 52]]
    assert len(boxes) == 2 and (abs(np.array(boxes) - places) <= 4).all() and len(boxes_of(frame, 0.2)) == 1
    drawn = is_box(Annotator().draw(frame, 0.01)[:64])
    for x0, y0, x1, y1 in boxes:
        assert drawn[y0, x0:x1].all() and drawn[y0:y1, x1 - 1].all() and not drawn[(y0 + y1) // 2, (x0 + x1) // 2]


def test_curve_of_two_hours_is_readable(monkeypatch, tmp_path):
    """Its axis says hours and minutes; the lowest frame and an alarm of five frames are seen."""
    figures, number = [], np.arange(180_000)
    monkeypatch.setattr(page_figures, "save_figure", lambda figure, *_, **__: figures.append(figure))
    page_figures.plot_normality(tmp_path / "curve", {"number": number, "seconds": number / 25, "normality": np.where(
        number == 90_002, -9.0, 0.0), "alarm": abs(number - 90_002) < 3}, -2.0, "two hours")
    figures[0].draw_without_rendering()
    axes, = figures[0].axes
    times = [tick.get_text() for tick in axes.get_xticklabels()]
    assert {"00:30:00", "01:00:00", "01:30:00"} <= set(times) and len(times) < 12
    x, y = axes.lines[0].get_data()
    assert len(x) <= 1000 and y.min() == -9 and abs(x[y.argmin()] - np.datetime64(3600, "s")) < np.timedelta64(9, "s")
    shade = np.concatenate([path.vertices[:, 0] for path in axes.collections[0].get_paths()])
    assert np.ptp(shade) * 24 * 3600 > 5                                       # seconds: a column of the picture


@pytest.mark.parametrize("scale", [1, 100])
def test_curve_of_two_alarms_has_a_hole_where_there_were_no_frames(monkeypatch, tmp_path, scale):
    figures, number = [], np.concatenate([np.arange(20 * scale), np.arange(30 * scale, 50 * scale)])
    monkeypatch.setattr(page_figures, "save_figure", lambda figure, *_, **__: figures.append(figure))
    columns = {"number": number, "seconds": number * math.nan, "normality": 0 * number - 9.0, "alarm": 0 * number + 1}
    page_figures.plot_normality(tmp_path / "curve", columns, -2.0, "cut")
    axes, = figures[0].axes
    x, y = axes.lines[0].get_data()
    assert np.isnan(y).sum() == 1 and abs(x[np.isnan(y)] - 20 * scale) <= 1
    ends = [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in axes.collections[0].get_paths()]
    assert len(ends) == 2 and ends[0][1] <= 20 * scale and ends[1][0] >= 30 * scale - 1


@pytest.mark.slow
def test_page_plays_its_alarms(browser, square, score, tmp_path):  # noqa: F811
    """In a real browser, on a desktop and on a phone: nothing is cut or missing, and the videos play."""
    middle = np.median(score("--video", square[1], "--no_video")[1].signals["normality"])
    score("--video", square[1], "--threshold", middle, "--min_frames", 1, "--gap", 0)
    count = len((tmp_path / "out/alarms.csv").read_text().splitlines()) - 1
    for width in 1400, 390:
        open_page(browser, tmp_path / "out/report.html", width, phone=width < 500)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script("return document.querySelector('h1').innerText") == "<b>&"
        assert browser.execute_script("return [...document.images].every(one => one.naturalWidth > 100)")
        assert browser.execute_script("return document.querySelectorAll('.alarm video').length") == count > 1
        browser.execute_script("document.querySelectorAll('video').forEach(one => one.play())")
        for _ in range(2):                                                     # it goes on
            wait_for(lambda: browser.execute_script(
                "let all = [...document.querySelectorAll('video')], before = window.times || all.map(() => 0);"
                "window.times = all.map(one => one.currentTime);"
                "return all.every((one, k) => one.currentTime != before[k] && one.videoHeight == 120)"))


@pytest.mark.parametrize(("H", "W"), [(60, 20), (640, 360), (426, 120), (720, 1280)])
def test_strip_marks_alarms_at_the_right_and_its_text_is_whole(H, W):
    """Of the last frames 5 are in an alarm, 5 not; two pixels each. The last letter of ALARM is inside the picture."""
    annotator, picture, band = Annotator(), np.zeros((H, W, 3), np.uint8), round(40 * max(0.35, H / 720))
    for t in range(W):
        alarm = t >= W - 5 or W - 20 <= t < W - 15
        drawn = annotator.draw(shown(t, -5.0 if alarm else math.nan if t < W - 8 else 0.0, alarm, picture), 1.0)[H:]
    red = (drawn[band:] == (40, 40, 150)).all(axis=2).any(axis=0)
    assert red[-20:].tolist() == [False] * 10 + [True] * 10 and red.sum() == (20 if W > 20 else 10)
    line, limit = (drawn[band:] > 180).all(axis=2), (drawn[band:, -2] == (60, 190, 255)).all(axis=1).argmax()
    assert line[:limit, -12].any() and line[limit + 1:, -2].any()
    texts = [Annotator().draw(shown(123456, -123.45, alarm, picture), 1.0)[H:H + band].max(axis=(0, 2)) > 60
             for alarm in (False, True)]
    assert W < 100 or (np.flatnonzero(texts[1])[-1] < W - 1 and texts[1].sum() > 1.1 * texts[0].sum())


def test_mishaps_are_sentences_and_leave_nothing(data, video, start, tmp_path):
    short = write_video(tmp_path / "short.avi", frames_of(video)[:4])
    (tmp_path / "labels.csv").write_text("video,frame\n00,5\n")
    whole = write(tmp_path / "whole.mp4", frames_of(video), "mpeg4", "yuv420p").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[:whole.rindex(b"moov") - 4])
    for args, words in [
        (["--video", short], "short: 4 frames, fewer than"),
        (["--video", video, "--normal", short], "short.avi: 4 frames, fewer than"),
        (["--video", video, "--normal", tmp_path / "labels.csv"], "labels.csv lacks the columns"),
        (["--video", tmp_path / "cut.mp4"], "cut off before its index was written"),
        (["--video", video, "--checkpoint", data / "last.pt"], "does not say how it scores normal frames; give"),
        *[(["--video", video, f"--{name}={value}"], f"{name} is {value}; give") for name, values in {
            "seconds": ["nan", -1], "false_alarms": [2.0, -0.1], "threshold": ["nan"], "fps": [0, -5, "inf"],
            "gap": [-1], "min_frames": [0], "calibrate": [-3], "patience": ["nan"]}.items() for value in values],
    ]:
        assert words in sentence(start(*args)), args
        assert not list(tmp_path.glob("out/*")), args


def test_cut_video_is_scored_as_far_as_it_goes_and_seconds_end_it(score, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / "cut.avi", noise)
    for seconds, count in ("1.2", 12), ("9", 40):
        done, scored = score("--video", path, "--seconds", seconds, "--no_video")
        assert scored.frames[-1] == count - 1 and "cut off" not in done.err and f"{count}/{count}" in done.err
    folder = write_videos(tmp_path / "unknown", [40]) or tmp_path / "unknown/00"              # of no known frame rate
    assert score("--video", folder, "--seconds", 0.5, "--no_video")[1].frames[-1] == 12
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    done, scored = score("--video", path)
    count = len(read_video(tmp_path / "out/annotated.mp4"))
    assert 10 < count == scored.frames[-1] + 1 < 30
    assert f"cut off or damaged after {count} frames" in " ".join(done.warnings())


def test_watching_a_file_is_scoring_its_pictures(detector, pictures, data, score, tmp_path):
    video = write(tmp_path / "00.avi", pictures, "ffv1", "bgr0")
    watched, scores = list(detector.watch(video)), detector.score(pictures)
    assert [frame.number for frame in watched] == list(range(20)) and np.isnan(scores.normality[:4]).all()
    assert [frame.seconds for frame in watched] == pytest.approx([t / 10 for t in range(20)])
    np.testing.assert_allclose([frame.normality for frame in watched], scores.normality)
    np.testing.assert_allclose([frame.signals["psnr"] for frame in watched[4:]], scores.signals["psnr"][4:])
    assert [frame.alarm for frame in watched] == scores.alarm.tolist() == (scores.normality < -1).tolist()
    grey = detector.score(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in pictures)
    np.testing.assert_allclose(grey.normality, scores.normality)
    grey = detector.score(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[..., None] for picture in pictures)
    np.testing.assert_allclose(grey.normality, scores.normality)
    for picture in pictures[0] / 255, pictures[0].astype(np.uint16), pictures[0][..., :2], pictures[0][0, :, 0]:
        with pytest.raises(UserError, match="give uint8"):
            detector.score([picture])
    with pytest.raises(UserError, match="no normal video"):
        detector.calibrate()
    assert detector.score([]).normality.shape == (0,) and detector.score(pictures[:3]).signals == {}
    normal = AnomalyDetector.load(data / "last.pt", "cpu")
    with pytest.raises(UserError, match="does not say how it scores normal frames"):
        next(normal.watch(video))
    assert np.nanmean(normal.calibrate(video).score(pictures).normality) == pytest.approx(0, abs=1e-6)
    done, scored = score("--checkpoint", data / "last.pt", "--video", video, "--normal", video, "--false_alarms", 0.2)
    own = tmp_path / "own.csv"
    (tmp_path / "out/scores.csv").rename(own)
    assert "20 % of the normal frames are below); normal: 16 frames of" in done.out
    again = normal.calibrate(own).score(pictures).normality[4:]
    np.testing.assert_allclose(again, scored.signals["normality"], atol=1e-4)


@pytest.mark.parametrize("update_memory", [False, True])
def test_each_part_between_gaps_starts_anew(detector, pictures, tmp_path, update_memory):
    """A hole in the time stamps, and None of a source; the memory, if it is updated, goes on."""
    detector.config = with_knobs(detector.config, {"score.gamma": 1.0})
    before = detector.score(pictures).normality
    times = [t + 60 * (t >= 9) for t in range(20)]
    path = write(tmp_path / "hole.mkv", pictures, "ffv1", "bgr0", times=times)
    watched = list(detector.watch(path, update_memory=update_memory))
    assert [t for t, frame in enumerate(watched) if not frame.signals] == [0, 1, 2, 3, 9, 10, 11, 12]
    assert [frame.number for frame in watched] == list(range(20)) and watched[9].seconds == pytest.approx(6.9)
    if not update_memory:
        alone = [detector.score(pictures[:9]).normality, detector.score(pictures[9:]).normality]
        np.testing.assert_allclose([frame.normality for frame in watched], np.concatenate(alone))
    assert detector.score(pictures).normality == pytest.approx(before, nan_ok=True)       # its own memory stays
    frames = [None, *((t, detector.to_frame(p)) for t, p in enumerate(pictures[:6])), None, None, (6, Frame(
        pictures[6], pictures[6][..., :1], 0.6))]
    assert [bool(frame.signals) for frame in detector.watch(frames)] == [False] * 4 + [True] * 2 + [False]


@pytest.mark.parametrize(("distance", "settings", "foreign"), [
    (99, {}, True), (0, {}, False), (99, {"threshold": 1e9}, False)])
def test_another_scene_is_told_of(data, pictures, recwarn, monkeypatch, distance, settings, foreign):
    detector = AnomalyDetector.load(data / "small.pt", "cpu", **settings)
    usual = type(detector).normality
    monkeypatch.setattr(type(detector), "normality", lambda *args: 0.1 * (usual(*args)) - distance)
    taken, numbers = [], []
    for frame in detector.watch(taken.append(t) or (t, detector.to_frame(pictures[t % 20])) for t in range(80)):
        numbers.append(frame.number)
        assert np.isnan(frame.threshold) == foreign and (len(recwarn) == 1) == foreign and not (foreign and frame.alarm)
        assert len(numbers) > 1 or len(taken) <= 54 + detector.config.score.batch_size
    assert numbers == list(range(80)) and frame.alarm == bool(settings)
    assert not foreign or "--normal VIDEO" in str(recwarn[0].message) and "--calibrate SEC" in str(recwarn[0].message)


def test_cut_after_one_frame_does_not_make_a_scene_known(data, pictures, monkeypatch):
    detector = AnomalyDetector.load(data / "small.pt", "cpu")
    monkeypatch.setattr(type(detector), "normality", lambda *_: -99.0)
    frames = [(t, detector.to_frame(pictures[t % 20])) for t in range(80)]
    with pytest.warns(UserWarning, match="another scene"):
        watched = list(detector.watch([frames[0], None, *frames[1:]]))
    assert len(watched) == 80 and np.isnan([one.threshold for one in watched[1:]]).all() and not watched[-1].alarm


def test_beginning_taken_as_normal_by_median_and_mad(data, tmp_path):
    """Of seven seconds the third one is abnormal, which must not spread what is normal."""
    noise = np.random.default_rng(0).integers(0, 240, (90, 18, 22, 3), np.uint8)
    noise[30:40] //= 4
    noise[84:] //= 4
    path = write(tmp_path / "a.avi", list(noise), "ffv1", "bgr0")
    detector = AnomalyDetector.load(data / "last.pt", "cpu", min_frames=2)                      # without a calibration
    watched = list(detector.watch(path, calibrate_seconds=7.0))
    normality = np.array([frame.normality for frame in watched])
    assert np.isnan(normality[:71]).all() and np.flatnonzero([frame.alarm for frame in watched]).min() in (84, 85)
    x = np.array([[frame.signals["psnr"], frame.signals["distance"]] for frame in watched[4:]])
    middle = np.median(x[:67], axis=0)
    x = (x - middle) / (1.4826 * np.median(abs(x[:67] - middle), axis=0)) @ [0.6, -0.4]
    known = x[:67]
    assert normality[71:] == pytest.approx(x[67:])
    limit = np.median(known) - 2.3263 * 1.4826 * np.median(abs(known - np.median(known)))             # 1 % below
    assert detector.limit() == pytest.approx(limit, rel=1e-3) == watched[-1].threshold and not detector.of_training
    with pytest.raises(UserError, match="ended before 60 seconds and 50 scored frames"):
        list(detector.watch(path, calibrate_seconds=60))


class Camera(http.server.BaseHTTPRequestHandler):
    """A network camera: each connection gets frames, then silence, then a cut, as planned."""

    def log_message(self, *_):
        """Nothing: the command's own output is looked at."""

    def do_GET(self):
        count, silence, pause = self.server.plan.pop(0) if self.server.plan else (0, 0, 0)
        if not count:
            time.sleep(silence)
            with contextlib.suppress(OSError):
                self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        with contextlib.suppress(OSError):
            for t in range(count):
                picture = cv2.circle(np.full((48, 64, 3), 40, np.uint8), (t % 64, 24), 8, (200, 200, 200), -1)
                picture[:, :24] = np.random.default_rng(t).integers(0, 256, (48, 24, 1)) if 10 <= t < 30 else 40
                jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
                self.wfile.write(b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
                self.wfile.write(jpeg + b"\r\n")
                time.sleep(pause)
            time.sleep(silence)


@pytest.fixture
def camera(monkeypatch):
    """A function that starts a camera with a plan: for each connection frames, seconds of silence, pause."""
    monkeypatch.setattr(source, "PAUSE", (0.1, 0.4))
    monkeypatch.setattr(source, "GAP", 0.7)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def start(*plan):
            server.plan = list(plan)
            return f"http://me:secret@127.0.0.1:{server.server_port}/?key=secret"

        yield start
        server.shutdown()


def test_stream_that_is_cut_restarted_and_stays_away(detector, camera):
    address, gaps, watched = camera((30, 0, 0.02), (0, 0, 0), (20, 0, 0.02)), [], []
    with pytest.warns(UserWarning, match=r"\*\*\*@.* is cut after frame \d+; waiting 2 s"), \
            pytest.raises(source.SourceLost, match=r"\*\*\*@.*gave no picture for 2 seconds") as lost:
        for frame in detector.watch(address, patience=2.0, on_gap=lambda: gaps.append(len(watched))):
            watched.append(frame)
    assert "secret" not in str(lost.value)
    unscored = [frame.number for frame in watched if not frame.signals]
    assert len(gaps) == 2 and gaps[1] == len(watched) and unscored[4:] == list(range(unscored[4], unscored[4] + 4))
    assert watched[gaps[0]].number == 30 == unscored[4]
    assert watched[gaps[0]].seconds - watched[gaps[0] - 1].seconds > 0.2


def test_slow_network_drops_frames_and_does_not_lag(detector, camera, monkeypatch):
    usual = type(detector).normality
    monkeypatch.setattr(source, "KEEP", 4)
    monkeypatch.setattr(type(detector), "normality", lambda *args: time.sleep(0.06) or usual(*args))
    opened, lags = source.Source(camera((100, 0, 0.02)), 1, seconds=1.5), []
    for frame in detector.watch(opened):
        lags.append(opened.received - frame.number)
    assert opened.dropped > 20 and max(lags[5:]) <= source.KEEP + 8 and 1.2 < frame.seconds < 1.5
    assert frame.number > 2 * len(lags) and frame.alarm == (frame.normality < -1)        # the gaps are no new beginning


@pytest.mark.parametrize(("plan", "options", "status", "words", "longest"), [
    ([(20, 20, 0.02)], ["--seconds", 2], 0, "is silent after frame 19", 4),
    ([(20, 20, 0.02)], ["--patience", 1.5], 3, "gave no picture for 1.5 seconds; is it still on?; scored up to", 4),
    ([(0, 20, 0)], ["--seconds", 1], 2, "gave no picture; is it on?", 3),
    ([], [], 2, "no stream answers at http://***@127.0.0.1", 3)])
def test_silent_stream_ends_in_time_and_says_so(start, camera, tmp_path, plan, options, status, words, longest):
    begin = time.monotonic()
    done = start("--no_video", "--video", camera(*plan), "--threshold", -1e9, *options)
    assert done.status == status and words in done.err and time.monotonic() - begin < longest, done
    assert "secret" not in done.out + done.err and (tmp_path / "out/scores.csv").exists() == (status != 2)


def test_killed_process_leaves_every_closed_event(data, camera, tmp_path):
    address, out = camera((40, 0, 0.02), (60, 60, 0.02)), tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "scripts/predict_video.py", "--checkpoint", data / "small.pt", "--out", out, "--no_video",
         "--video", address, "--threshold", "1e9", "--on_alarm", f"cat >> {tmp_path}/told"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True)
    said = [process.stdout.readline() for _ in range(3)]
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [(one["event"], one["start"], one["end"]) for one in events] == [
        ("begin", 4, 4), ("end", 4, 39), ("begin", 44, 44)]
    assert [line.split()[1::3][:2] for line in said] == [["begin", "4,"], ["end", "39,"], ["begin", "44,"]]
    for event, line in zip(events, said):
        moment = datetime.fromisoformat(event["end_time"])
        assert event["end_time"] in line and abs(moment.timestamp() - time.time()) < 30
        x0, y0, x1, y1 = event["box"]
        assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 48 and (out / event["picture"]).exists()
    scores = read_scores(out / "scores.csv", ["psnr", "normality"], labelled=False)[0]
    first = scores.signals["normality"][:36]
    assert events[1]["lowest_normality"] == pytest.approx(first.min(), abs=1e-4)
    assert events[1]["lowest_frame"] == first.argmin() + 4
    assert (np.diff(scores.signals["seconds"]) > 0).all() and scores.frames[36] == 44
    told = (tmp_path / "told").read_text().splitlines()
    assert [json.loads(one) for one in told] == events
    assert (out / "alarms.csv").read_text().splitlines()[1].startswith("stream,4,39,")


def test_command_of_alarms_runs_in_order_and_neither_hangs_nor_tells_secrets(start, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "HANGS", 1.0)
    video = write_video(tmp_path / "a.avi", pictures)
    for command, words in ("sleep 0.3; exit 7", "ended with status 7"), ("sleep 60", "took 1 seconds and was ended"):
        begin, told = time.monotonic(), tmp_path / "told"
        told.unlink(missing_ok=True)
        done = start("--video", video, "--no_video", "--threshold", 1e9, "--on_alarm", f"cat >> {told}; {command}")
        assert done.status == 0 and time.monotonic() - begin < 15 and done.err.count(words) == 2, done.err
        assert "the begin of an alarm, frame 4:" in done.err and "the end of an alarm, frame 19:" in done.err
        assert command not in done.err
        assert [json.loads(line)["event"] for line in told.read_text().splitlines()] == ["begin", "end"]


@pytest.mark.parametrize("checkpoint", ["small.pt", "last.pt"])
def test_source_lost_while_calibrated_has_no_statistics(data, start, camera, tmp_path, checkpoint):
    done = start("--checkpoint", data / checkpoint, "--no_video", "--video", camera((20, 20, 0.02)), "--patience", 1,
                 "--calibrate", 60)
    assert done.status == 3 and "went away while it was being calibrated" in done.err, done
    assert "RuntimeWarning" not in done.err and not done.out and not (tmp_path / "out/report.html").exists()


def test_interrupted_stream_leaves_whole_files(start, camera, tmp_path, monkeypatch):
    """Ctrl-C at the twelfth frame."""
    def draw(annotator, frame, peak):
        if frame.number == 12:
            signal.raise_signal(signal.SIGINT)
        return usual(annotator, frame, peak)

    usual, out = Annotator.draw, tmp_path / "out"
    out.mkdir()
    (out / "scores.csv").write_text("older")
    (out / ".annotated.mp4.killed").touch()
    monkeypatch.setattr(Annotator, "draw", draw)
    done = start("--video", camera((100, 0, 0.05)), "--threshold", -1e9)
    scored = read_scores(out / "scores.csv", ["normality"], labelled=False)[0]
    assert done.status == 0 and scored.name == "stream" and scored.frames.tolist() == list(range(4, 13))   # at once
    seconds = [frame.seconds for frame in read_video(out / "annotated.mp4")]
    assert len(seconds) == 13 and seconds[4:] == pytest.approx(scored.signals["seconds"], abs=1e-3)
    older, = out.glob("scores_*T*.csv")
    assert older.read_text() == "older"
    assert {path.name for path in out.iterdir()} == {older.name,
        "scores.csv", "alarms.csv", "events.jsonl", "curve.png", "annotated.mp4", "report.html"}


@pytest.mark.slow
def test_walk_of_the_docs(shared_data, tmp_path, monkeypatch):
    """The commands of docs/own-video.md on the videos that it names, and what it says of them."""
    monkeypatch.chdir(ROOT)
    walk = re.search(r"```bash\n(.*?)```", (ROOT / "docs/own-video.md").read_text(), re.DOTALL)[1].splitlines()
    places = {"VIDEO.avi": "testing_videos/20.avi", "NORMAL.avi": "training_videos/16.avi"}
    found, folder = [], shared_data / "avenue_partial"
    for line in walk:
        *words, out = [folder / places[word] if word in places else word for word in line.split()]
        done = run(predict.main, *words[2:], tmp_path / out)
        found.append([one.split(",")[1:3] for one in (tmp_path / out / "alarms.csv").read_text().splitlines()[1:]])
        assert done.status == 0 and (tmp_path / out / "report.html").exists(), done.err
        assert ("this is another scene than" in done.err) == (out == "look")
    assert found == [[], [["90", "113"]], [["99", "109"]]]
