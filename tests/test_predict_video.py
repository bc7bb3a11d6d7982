"""Own videos: scripts/export_weights.py, `AnomalyDetector`, scripts/predict_video.py, on files and loopback streams."""

import base64
import contextlib
import functools
import http.server
import itertools
import json
import math
import os
import re
import signal
import threading
import time
from datetime import datetime

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, edit_checkpoint, load_script, run, sentence, write_videos
from test_footage import read, write
from test_page import browser, open_page  # noqa: F401

import evaluate
from lgn_net import AnomalyDetector
from lgn_net.config import Config, DataConfig, ModelConfig, with_knobs
from lgn_net.data.videos import index_videos
from lgn_net.errors import UserError
from lgn_net.inference.around import sample_normal, to_scores
from lgn_net.inference.loop import score_videos
from lgn_net.model.build import build_model
from lgn_net.report import figures as page_figures
from lgn_net.scores.normality import calibrated, normality
from lgn_net.scores.protocols import paper_weights
from lgn_net.scores.score_file import read_scores
from lgn_net.training.checkpoint import load_checkpoint, save_checkpoint
from lgn_net.video import output, source
from lgn_net.video.detector import FrameResult, with_alarms
from lgn_net.video.output import Output, boxes_of, marked

export, predict = load_script("scripts/export_weights.py"), load_script("scripts/predict_video.py")
write_video = functools.partial(write, codec="ffv1", form="bgr0")
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
def pictures(data):
    return [cv2.imread(str(path)) for path in sorted((data / "made/testing/frames/00").iterdir())]


@pytest.fixture
def detector(data):
    return AnomalyDetector.load(data / "small.pt", "cpu", threshold=-1.0, min_frames=1, gap=0)


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


def test_calibration_is_that_of_sampled_windows(data, detector):
    videos, weights = index_videos(data / "made/training/frames"), paper_weights(detector.config.score.psnr_weight)
    signals, _ = sample_normal(detector.model, videos, detector.config, 256, torch.device("cpu"))
    values = {"psnr": np.array([s.psnr for s in signals]), "distance": np.array([s.distance[0] for s in signals])}
    assert detector.calibration["frames"] == len(signals) == 5 + 8
    for name, x in values.items():
        assert detector.calibration["signals"][name] == pytest.approx({"mean": np.mean(x), "std": np.std(x)})
    expected = normality([values], weights, "training", [values])[0]
    np.testing.assert_allclose(calibrated(values, weights, detector.calibration), expected)
    for share in 0, 0.05, 0.7, 1:
        limit = AnomalyDetector.load(data / "small.pt", "cpu", false_alarms=share).limit()
        assert limit == pytest.approx(np.quantile(expected, share))
    again = AnomalyDetector.load(data / "small.pt", "cpu").calibrate(*(data / "made/training/frames").iterdir())
    assert detector.calibration["peak_error"] == pytest.approx(again.calibration["peak_error"], rel=1e-4)


def test_exported_file_is_small_and_rounded(data, tmp_path):
    """All but the memory items and what is too large for float16; --half does that and nothing else."""
    def enlarge(content):
        content["model"]["decoder.head.0.weight"][0, 0, 0, 0] = 1e5
    large, small = edit_checkpoint(data / "last.pt", tmp_path / "large.pt", enlarge), data / "small.pt"
    assert run(export.main, large, "--half", "--out", tmp_path / "half.pt").status == 0
    half, after, before = (load_checkpoint(path)[1] for path in (tmp_path / "half.pt", small, large))
    assert half["model"].pop("decoder.head.0.weight")[0, 0, 0, 0] == 1e5 and "calibration" not in half
    for name, value in half["model"].items():
        exact = name == "memory.items" or not value.is_floating_point()
        assert torch.equal(value, before["model"][name] if exact else before["model"][name].half()), name
        assert torch.equal(value, after["model"][name])
    assert small.stat().st_size < large.stat().st_size / 2 and "optimizer" not in after
    for argv in [large, "--half", "--out", large], [large, "--half"], ["--join", tmp_path, "--out", tmp_path / "a.pt"]:
        assert run(export.main, *argv).status == 2 and not (tmp_path / "a.pt").exists()


def test_parts_are_joined_as_before_or_damage_is_named(tmp_path):
    content, out = bytes(k * k % 251 for k in range(2500)), tmp_path / "joined.pt"
    (tmp_path / "net.pt").write_bytes(content)
    export.split_file(tmp_path / "net.pt", tmp_path / "parts", size=1000)
    parts, argv = sorted((tmp_path / "parts").iterdir()), ("--join", tmp_path / "parts", "--out", out)
    assert run(export.main, *argv).status == 0 and out.read_bytes() == content and len(parts) == 3
    out.unlink()
    parts[1].write_bytes(b"x" * 1000)
    assert parts[1].name in sentence(run(export.main, *argv))
    parts[1].unlink()
    assert "2 parts" in sentence(run(export.main, *argv)) and not out.exists()


@pytest.mark.parametrize(("length", "gap"), [(1, 0), (3, 0), (3, 1), (4, 3)])
def test_alarms_against_a_slow_search(length, gap):
    """The longest runs of low frames with short gaps, found in "0110..."; and how long a frame waits for its answer."""
    for bits in itertools.product("01", repeat=10):
        low, taken, found = "".join(bits), [], ""
        frames = (taken.append(t) or shown(t, -float(x), threshold=-0.5) for t, x in enumerate(low))
        for frame in with_alarms(frames, length, gap):
            found += str(int(frame.alarm))
            assert len(taken) - frame.number - 1 <= length + gap
        expected = re.sub(f"1(0{{0,{gap}}}1)*", lambda lows: len(lows[0]) * "01"[len(lows[0]) >= length], low)
        assert found == expected, low


@pytest.mark.parametrize(("place", "channels", "update"), [("00", 1, "frozen"), ("00.avi", 1, "frozen"),
                                                           ("00.avi", 3, "carry")])
def test_scores_are_those_of_an_evaluation(data, tmp_path, place, channels, update):
    """Of images and of a video file; grey, or in colour while some frames update the memory."""
    frames = np.random.default_rng(0).integers(0, 256, (9, 18, 22, channels), np.uint8).repeat(3 // channels, axis=3)
    frames //= np.arange(1, 10, dtype=np.uint8)[:, None, None, None]          # darker and darker
    (tmp_path / "videos/00").mkdir(parents=True)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"videos/00/{t}.png"), frame)
    write_video(tmp_path / "videos/00.avi", frames)
    small = exported(tmp_path, data, {"data.channels": channels, "score.gamma": 0.2})
    detector = AnomalyDetector.load(small, "cpu", {"score.memory_update": update})
    videos = index_videos(tmp_path / "videos")
    expected, = to_scores(score_videos(detector.model, videos, detector.config, torch.device("cpu")), videos)
    rows = [frame.signals for frame in detector.watch(tmp_path / "videos" / place)][4:]
    for name in "psnr", "distance", "regular_score", "memory_updated":
        np.testing.assert_allclose([row[name] for row in rows], expected.signals[name], rtol=2e-5)
    assert (0 < expected.signals["memory_updated"].sum() < 5) == (update == "carry")


def shown(number, normality, alarm=False, picture=None, error=None, threshold=-2.0):
    return FrameResult(number, math.nan, picture, {"psnr": 1.0}, error, normality, threshold, alarm)


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
    pictures, inside = [frame.picture for frame in read(tmp_path / "out/annotated.mp4")[0]], np.zeros(40, bool)
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
    assert np.array_equal([picture[-8:, -2:].mean(axis=(0, 1)) @ [-1, 0, 1] > 50 for picture in pictures], inside)
    assert cv2.PSNR(pictures[0][:90, :121], frames[0]) > 25     # the picture itself, where there is no heat
    assert not list((tmp_path / "out").glob(".*")) and (tmp_path / "out/curve.png").stat().st_size > 5000
    page, count = (tmp_path / "out/report.html").read_text(), len(np.flatnonzero(np.diff(inside.astype(int)) > 0))
    assert page.count("data:video/mp4") == page.count("data:image/jpeg") == count > 1
    clip = re.findall(r'data:video/mp4;base64,([^"]+)', page)[-1]
    (tmp_path / "clip.mp4").write_bytes(base64.b64decode(clip))
    clip = [frame.picture for frame in read(tmp_path / "clip.mp4")[0]]
    assert 10 <= len(clip) < 30 and np.array_equal(clip, pictures[-len(clip):])          # not coded anew
    assert "<b>&" not in page and "<h1>&lt;b&gt;&amp;</h1>" in page


@pytest.mark.slow
def test_page_plays_its_alarms(browser, square, score, tmp_path):  # noqa: F811
    """In a real browser, on a desktop and on a phone, alone in a folder: nothing is cut, and the videos play."""
    from selenium.webdriver.support.wait import WebDriverWait
    score("--video", square[1], "--threshold", 1e9)
    page = (tmp_path / "out/report.html").rename(tmp_path / "sent.html")
    for width in 1400, 390:
        open_page(browser, page, width, phone=width < 500)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script("return [...document.images].every(one => one.naturalWidth > 100)")
        browser.execute_script("document.querySelectorAll('video').forEach(one => one.play())")
        for _ in range(2):                                                     # it goes on
            WebDriverWait(browser, 10).until(lambda _: browser.execute_script(
                "let video = document.querySelector('.alarm video'), before = window.before || 0;"
                "window.before = video.currentTime;"
                "return video.currentTime != before && video.videoHeight == 120"))


@pytest.mark.parametrize(("H", "W"), [(640, 360), (426, 120), (240, 360)])
def test_strip_adapts_and_its_text_is_whole(H, W):
    """Of the last frames 5 are in an alarm, 5 not; two pixels each. The last letter of ALARM is inside the picture."""
    out, picture, band = Output(None, None, None, None), np.zeros((H, W, 3), np.uint8), round(40 * max(0.35, H / 720))
    for t in range(W):
        alarm = t >= W - 5 or W - 20 <= t < W - 15
        normality = -50.0 if t == W - 3 else -5.0 if alarm else math.nan if t < W - 8 else 0.0
        drawn = out.draw(shown(t, normality, alarm, picture))[H + band:]
    red, bright = (drawn == (40, 40, 150)).all(axis=2).any(axis=0), (drawn > 180).all(axis=2)
    assert np.flatnonzero(red[-50:]).tolist() == [*range(10, 20), *range(40, 50)]
    limit = (drawn[:, 0] == (60, 190, 255)).all(axis=1).argmax()
    lowest = np.flatnonzero(bright[:, -5])[-1]
    assert bright[:limit, -12].any() and limit < np.flatnonzero(bright[:, -2])[0] < H // 12 and lowest >= H // 6 - 4
    texts = [out.draw(shown(123456, -123.45, alarm, picture))[H:H + band].max(axis=(0, 2)) > 60
             for alarm in (False, True)]
    assert np.flatnonzero(texts[1])[-1] < W - 1 and texts[1].sum() > 1.1 * texts[0].sum()


def test_heat_and_boxes_are_where_the_error_is():
    """Two regions burn, the larger one first; a third is much weaker."""
    error = np.full((32, 32), 1e-4, np.float32)
    error[8:16, 20:28], error[20:28, 2:8], error[28:30, 28:30] = 0.1, 0.09, 0.02
    picture, out = np.full((64, 128, 3), 100, np.uint8), Output(None, None, None, None)
    frame, out.peak = shown(0, -9.0, True, picture, error), 0.01
    hot = marked(frame._replace(alarm=False), 0.01)
    assert (hot[20:28, 88:104, 2] > 150).all() and np.array_equal(hot[:10, :70], picture[:10, :70])
    assert np.array_equal(marked(frame._replace(alarm=False), 0.2), picture)   # no more than in normal frames
    boxes = boxes_of(frame, 0.01)
    assert (abs(np.array(boxes) - [[80, 16, 112, 32], [8, 40, 32, 56]]) <= 4).all() and len(boxes_of(frame, 0.2)) == 1
    drawn = is_box(out.draw(frame)[:64])
    for x0, y0, x1, y1 in boxes:
        assert drawn[y0, x0:x1].all() and drawn[y0:y1, x1 - 1].all() and not drawn[(y0 + y1) // 2, (x0 + x1) // 2]


def test_curve_of_two_hours_shows_the_alarm_and_the_hole(monkeypatch, tmp_path):
    figures, number = [], np.r_[:120_000, 130_000:190_000]
    monkeypatch.setattr(page_figures, "save_figure", lambda figure, *_, **__: figures.append(figure))
    page_figures.plot_normality(tmp_path / "curve", {"number": number, "seconds": number / 25, "normality": np.where(
        number == 90_002, -9.0, 0.0), "alarm": abs(number - 90_002) < 3}, -2.0, "two hours")
    figures[0].draw_without_rendering()
    axes, = figures[0].axes
    assert {"00:30:00", "01:00:00", "01:30:00"} <= {tick.get_text() for tick in axes.get_xticklabels()}
    x, y = axes.lines[0].get_data()
    assert np.nanmin(y) == -9 and abs(x[np.nanargmin(y)] - np.datetime64(3600, "s")) < np.timedelta64(9, "s")
    hole, = np.flatnonzero(np.isnan(y))
    assert x[hole - 1] < np.datetime64(4800, "s") and x[hole + 1] == np.datetime64(5200, "s") and len(x) < 1010
    span, = axes.patches
    assert span.get_linewidth() > 0.5 and abs(24 * 3600 * span.get_x() - 3600) < 1          # seen however short it is


def test_mishaps_are_sentences_and_leave_nothing(data, pictures, start, tmp_path):
    video, short = data / "made/testing/frames/00", write_video(tmp_path / "short.avi", pictures[:4])
    (tmp_path / "labels.csv").write_text("video,frame\n00,5\n")
    for args, words in [
        (["--video", short], "short: 4 frames, fewer than"),
        (["--video", video, "--normal", short], "short.avi: 4 frames, fewer than"),
        (["--video", video, "--normal", tmp_path / "labels.csv"], "labels.csv lacks the columns"),
        (["--video", video, "--checkpoint", data / "last.pt"], "does not say how it scores normal frames; give"),
        *[(["--video", video, f"--{name}={value}"], f"--{name} is {value}; give") for name, values in {
            "seconds": ["nan", -1], "false_alarms": [2, -0.1], "threshold": ["nan"], "fps": [0, -5, "inf"],
            "gap": [-1], "min_frames": [0], "calibrate": [-3], "patience": ["nan"]}.items() for value in values],
    ]:
        assert words in sentence(start(*args)), args
        assert not list(tmp_path.glob("out/*")), args


def test_cut_video_is_scored_as_far_as_it_goes_and_seconds_end_it(score, tmp_path):
    path = write_video(tmp_path / "cut.avi", np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8))
    done, scored = score("--video", path, "--seconds", "1.2", "--no_video")
    assert scored.frames[-1] == 11 and "cut off" not in done.err
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    path = path.rename(tmp_path / os.fsdecode(b"caf\xe9.avi"))                 # not UTF-8
    done, scored = score("--video", path)
    assert scored.name == "caf?"
    count = len(read(tmp_path / "out/annotated.mp4")[0])
    assert 10 < count == scored.frames[-1] + 1 < 30
    assert f"cut off or damaged after {count} frames" in " ".join(done.warnings())


def test_watching_a_file_is_scoring_its_pictures(detector, pictures, data, score, tmp_path):
    """By the library and by the command, whose scores evaluate.py can measure."""
    video = write_video(tmp_path / "00.avi", pictures)
    watched, scores = list(detector.watch(video)), detector.score(pictures)
    assert [frame.number for frame in watched] == list(range(20)) and np.isnan(scores.normality[:4]).all()
    assert [frame.seconds for frame in watched] == pytest.approx([t / 10 for t in range(20)])
    np.testing.assert_allclose([frame.normality for frame in watched], scores.normality)
    assert [frame.alarm for frame in watched] == scores.alarm.tolist() == (scores.normality < -1).tolist()
    _, scored = score("--video", data / "made/testing/frames/00", "--no_video")
    assert scored.name == "00" and scored.frames.tolist() == list(range(4, 20))
    for name, x in {"psnr": scores.signals["psnr"], "normality": scores.normality}.items():
        np.testing.assert_allclose(scored.signals[name], x[4:], rtol=1e-6)
    (tmp_path / "one.csv").write_text("video,start,end\n00,8,9\n")
    assert run(evaluate.main, "--scores", tmp_path / "out/scores.csv", "--labels", tmp_path / "one.csv").status == 0
    grey = detector.score(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in pictures)
    np.testing.assert_allclose(grey.normality, scores.normality)
    for picture in pictures[0] / 255, pictures[0][..., :2]:
        with pytest.raises(UserError, match="give uint8"):
            detector.score([picture])
    assert detector.score([]).normality.shape == (0,) and detector.score(pictures[:3]).signals == {}

    # Other frames are normal: those of a video, or of its scores.csv.
    normal = AnomalyDetector.load(data / "last.pt", "cpu").calibrate(video).score(pictures).normality[4:]
    assert np.mean(normal) == pytest.approx(0, abs=1e-6)
    done, scored = score("--checkpoint", data / "last.pt", "--video", video, "--normal", video, "--false_alarms", 0.2)
    assert "20 % of the normal frames are below); normal: 16 frames of" in done.out
    np.testing.assert_allclose(scored.signals["normality"], normal, atol=1e-4)
    again = AnomalyDetector.load(data / "last.pt", "cpu").calibrate(tmp_path / "out/scores.csv").score(pictures)
    np.testing.assert_allclose(again.normality[4:], normal, atol=1e-4)


def test_each_part_between_gaps_starts_anew(detector, pictures, tmp_path):
    """A hole in the time stamps, and None of a source."""
    times = [t + 60 * (t >= 9) for t in range(20)]
    path = write(tmp_path / "hole.mkv", pictures, "ffv1", "bgr0", times=times)
    watched = list(detector.watch(path))
    assert [frame.number for frame in watched] == list(range(20)) and watched[9].seconds == pytest.approx(6.9)
    alone = [detector.score(pictures[:9]).normality, detector.score(pictures[9:]).normality]
    np.testing.assert_allclose([frame.normality for frame in watched], np.concatenate(alone))
    frames = [(t, detector.to_frame(picture)) for t, picture in enumerate(pictures[:7])]
    watched = detector.watch([None, *frames[:6], None, None, frames[6]])
    assert [bool(frame.signals) for frame in watched] == [False] * 4 + [True] * 2 + [False]


@pytest.mark.parametrize(("distance", "settings", "foreign"), [
    (99, {}, True), (0, {}, False), (99, {"threshold": 1e9}, False)])
def test_another_scene_is_told_of(data, pictures, recwarn, monkeypatch, distance, settings, foreign):
    """After the first 50 scored frames; a cut after one frame does not make the scene known."""
    detector = AnomalyDetector.load(data / "small.pt", "cpu", **settings)
    usual = type(detector).normality
    monkeypatch.setattr(type(detector), "normality", lambda *args: 0.1 * (usual(*args)) - distance)
    taken, numbers = [], []
    for frame in detector.watch(None if t == 1 else taken.append(t) or (t, detector.to_frame(pictures[t % 20]))
                                for t in range(80)):
        numbers.append(frame.number)
        assert np.isnan(frame.threshold) == foreign == (len(recwarn) == 1) and not (foreign and frame.alarm)
        assert len(numbers) > 1 or len(taken) <= 59 + detector.config.score.batch_size
    assert numbers == [0, *range(2, 80)] and frame.alarm == bool(settings)
    assert not foreign or "--normal VIDEO" in str(recwarn[0].message) and "--calibrate SEC" in str(recwarn[0].message)


def test_precision_is_settled(data, monkeypatch):
    monkeypatch.setattr("lgn_net.device.conv_rate", lambda _, precision: {"float32": 1.0, "bfloat16": 3.0}[precision])
    torch.backends.cudnn.allow_tf32 = True                                # PyTorch's default
    two = [AnomalyDetector.load(data / "last.pt", "cpu", {"score.precision": asked}) for asked in ("auto", "float32")]
    assert [x.config.score.precision for x in two] == ["bfloat16", "float32"] and not torch.backends.cudnn.allow_tf32


def test_beginning_taken_as_normal_by_median_and_mad(data, tmp_path):
    """Of seven seconds the third one is abnormal, which must not spread what is normal."""
    noise = np.random.default_rng(0).integers(0, 240, (90, 18, 22, 3), np.uint8)
    noise[[*range(30, 40), *range(84, 90)]] //= 4
    path = write_video(tmp_path / "a.avi", list(noise))
    detector = AnomalyDetector.load(data / "last.pt", "cpu", min_frames=2)                      # without a calibration
    watched = list(detector.watch(path, calibrate_seconds=7.0))
    normality = np.array([frame.normality for frame in watched])
    assert np.isnan(normality[:71]).all() and np.flatnonzero([frame.alarm for frame in watched]).min() in (84, 85)
    x = np.array([[frame.signals["psnr"], frame.signals["distance"]] for frame in watched[4:]])
    middle = np.median(x[:67], axis=0)
    x = (x - middle) / (1.4826 * np.median(abs(x[:67] - middle), axis=0)) @ [0.6, -0.4]
    assert normality[71:] == pytest.approx(x[67:])
    known = x[:67]
    limit = np.median(known) - 2.3263 * 1.4826 * np.median(abs(known - np.median(known)))             # 1 % below
    assert detector.limit() == pytest.approx(limit, rel=1e-3) == watched[-1].threshold
    with pytest.raises(UserError, match="ended before 60 seconds and 50 scored frames"):
        list(detector.watch(path, calibrate_seconds=60))


class Camera(http.server.BaseHTTPRequestHandler):
    """A network camera: each connection gets frames, then silence, then a cut, as planned."""

    def log_message(self, *_):
        """Nothing: the command's own output is looked at."""

    def do_GET(self):
        count, silence = self.server.plan.pop(0) if self.server.plan else (0, 0)
        with contextlib.suppress(OSError):
            if count:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
                self.end_headers()
            for t in range(count):
                picture = cv2.circle(np.full((48, 64, 3), 40, np.uint8), (t % 64, 24), 8, (200, 200, 200), -1)
                jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
                self.wfile.write(b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
                self.wfile.write(jpeg + b"\r\n")
                time.sleep(0.02)
            time.sleep(silence)
            if not count:
                self.send_error(503)


@pytest.fixture
def camera(monkeypatch):
    """A function that starts a camera with a plan: for each connection frames and seconds of silence."""
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


def test_slow_network_drops_frames_and_does_not_lag(detector, camera, monkeypatch):
    usual = type(detector).normality
    monkeypatch.setattr(source, "KEEP", 4)
    monkeypatch.setattr(type(detector), "normality", lambda *args: time.sleep(0.06) or usual(*args))
    opened, lags = source.Source(camera((100, 0)), 1, seconds=1.5), []
    for frame in detector.watch(opened):
        lags.append(opened.received - frame.number)
    assert opened.dropped > 10 and max(lags[5:]) <= source.KEEP + 8 and 1 < frame.seconds < 1.5
    assert frame.alarm == (frame.normality < -1)                               # what was dropped is no new beginning


@pytest.mark.parametrize(("plan", "options", "status", "words"), [
    ([(20, 20)], ["--seconds", 1.5], 0, "is silent after frame 19; waiting 60 s"),
    ([(20, 0)], ["--patience", 1, "--calibrate", 60], 3, "gave no picture for 1 seconds before 60 seconds and 50"),
    ([(0, 20)], ["--seconds", 1], 2, "gave no picture"), ([], [], 2, "no stream answers at http://***@127.0.0.1")])
def test_silent_stream_ends_in_time_and_says_so(start, camera, tmp_path, plan, options, status, words):
    begin = time.monotonic()
    done = start("--no_video", "--video", camera(*plan), "--threshold", -1e9, *options)
    assert done.status == status and done.err.count(words) == 1 and time.monotonic() - begin < 4, done
    assert done.err.count("; waiting ") == (status in (0, 3))
    assert "secret" not in done.out + done.err and (tmp_path / "out/scores.csv").exists() == (status != 2)


def test_events_of_a_stream_are_told_at_once(start, camera, tmp_path):
    """Two alarms; the stream is cut in between, stays away after the second, and ends the command with status 3."""
    out, told = tmp_path / "out", tmp_path / "told"
    command = f"cat >> {told}; wc -l < {out}/events.jsonl >> {tmp_path}/written; exit 7"
    done = start("--no_video", "--video", camera((40, 0), (0, 0), (20, 20)), "--threshold", 1e9,
                 "--patience", 2, "--gap", 9, "--on_alarm", command)
    assert done.status == 3 and "gave no picture for 2 seconds; scored up to" in done.err, done
    assert done.err.count("is cut after frame 39; waiting 2 s") == done.err.count("is silent after frame 59;") == 1
    assert done.err.index("the end of an alarm, frame 59") < done.err.index("gave no picture for 2 s")     # by silence
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [(one["event"], one["start"], one["end"]) for one in events] == [
        ("begin", 4, 4), ("end", 4, 39), ("begin", 44, 44), ("end", 44, 59)]
    for event, line in zip(events, done.out.splitlines()):
        moment = datetime.fromisoformat(event["end_time"])
        assert f"alarm {event['event']:5} at frame {event['end']}, {event['end_time']}" in line
        assert abs(moment.timestamp() - time.time()) < 30 and (out / event["picture"]).exists()
        x0, y0, x1, y1 = event["box"]
        assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 48 and event["boxes"][0] == event["box"]
    scores = read_scores(out / "scores.csv", ["psnr", "normality"], labelled=False)[0]
    first = scores.signals["normality"][:36]
    assert events[1]["lowest_normality"] == pytest.approx(first.min(), abs=1e-4)
    assert events[1]["lowest_frame"] == first.argmin() + 4
    assert (np.diff(scores.signals["seconds"]) > 0).all() and scores.frames[36] == 44
    assert [json.loads(one) for one in told.read_text().splitlines()] == events
    assert int((tmp_path / "written").read_text().split()[0]) >= 1                      # while the command runs
    assert (out / "alarms.csv").read_text().splitlines()[1].startswith("stream,4,39,")
    assert done.err.count("has status 7") == 4 and "the end of an alarm, frame 39:" in done.err
    assert "secret" not in done.err and "wc -l" not in done.err


def test_interrupted_stream_leaves_whole_files(start, camera, tmp_path, monkeypatch):
    """Ctrl-C at the twelfth frame, in an alarm whose command hangs."""
    def draw(self, frame):
        return (signal.raise_signal(signal.SIGINT) if frame.number == 12 else None) or usual(self, frame)

    usual, out = Output.draw, tmp_path / "out"
    out.mkdir()
    for name in "events.jsonl", "scores.csv":
        (out / name).write_text("older")
    (out / ".annotated.mp4.killed").touch()
    monkeypatch.setattr(Output, "draw", draw)
    monkeypatch.setattr(output, "HANGS", 0.5)
    done = start("--video", camera((100, 0)), "--threshold", 1e9, "--on_alarm", "sleep 60")
    assert done.err.count("status none after 0.5 seconds, and was ended") == 2
    scored = read_scores(out / "scores.csv", ["normality"], labelled=False)[0]
    assert done.status == 0 and scored.name == "stream" and scored.frames.tolist() == list(range(4, 13))   # at once
    seconds = [frame.seconds for frame in read(out / "annotated.mp4")[0]]
    assert len(seconds) == 13 and seconds[4:] == pytest.approx(scored.signals["seconds"], abs=1e-3)
    assert {path.suffix for path in out.iterdir()} == {".csv", ".jsonl", ".png", ".mp4", ".html", ".jpg"}
    assert (out / "events.jsonl").read_text().startswith("older{")             # to which the new ones are added
    assert [path.read_text() for path in out.glob("scores_*T*.csv")] == ["older"]


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
