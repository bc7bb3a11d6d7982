"""scripts/export_weights.py and scripts/predict_video.py: the scores of everywhere, causal, in whole files."""

import functools
import itertools
import math
import re

import cv2
import numpy as np
import pytest
import torch
from helpers import edit_checkpoint, load_script, run, sentence, write_videos
from test_footage import write

import evaluate
from lgn_net.config import Config, DataConfig, ModelConfig, with_knobs
from lgn_net.data.footage import open_footage
from lgn_net.data.videos import index_videos
from lgn_net.inference.around import sample_normal
from lgn_net.inference.loop import score_videos, to_scores
from lgn_net.model.build import build_model
from lgn_net.scores.calibration import calibrated, threshold_at
from lgn_net.scores.normality import normality
from lgn_net.scores.protocols import paper_weights
from lgn_net.scores.score_file import read_scores
from lgn_net.training.checkpoint import load_checkpoint, save_checkpoint
from lgn_net.video.detector import FrameResult, with_alarms
from lgn_net.video.output import Annotator, heat

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
def base(data, tmp_path):
    """The arguments of all runs here; later ones win."""
    return "--checkpoint", data / "small.pt", "--device", "cpu", "--out", tmp_path / "out"


@pytest.fixture
def score(base, tmp_path):
    """A function that runs the command with more arguments, and returns how it ended and the scores."""

    def run_and_read(*args):
        done = run(predict.main, *base, *args)
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
        return [frame.picture for frame in footage.frames]


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


# -------------------------------------------------------------------------------------------------------------- export

def test_exported_file_is_small_and_scores_alike(data):
    large, small = data / "last.pt", data / "small.pt"
    before, after = load_checkpoint(large)[1], load_checkpoint(small)[1]
    assert small.stat().st_size < large.stat().st_size / 2 and "optimizer" not in after
    for name, value in after["model"].items():
        expected = before["model"][name]
        exact = name == "memory.items" or not expected.is_floating_point()
        assert torch.equal(value, expected if exact else expected.half()), name
    old, new = (evaluated(path, data / "made/testing/frames").signals["psnr"] for path in (large, small))
    assert np.allclose(new, old, atol=0.05) and not np.array_equal(new, old)                  # rounding did happen


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


def test_rounding_only_and_parts(data, tmp_path):
    def enlarge(content):
        content["model"]["decoder.head.0.weight"][0, 0, 0, 0] = 1e5            # more than float16 can hold
    large = edit_checkpoint(data / "last.pt", tmp_path / "large.pt", enlarge)
    done = run(export.main, large, "--half", "--out", tmp_path / "half.pt")
    assert done.status == 0 and "decoder.head.0.weight" in done.out
    half, whole = load_checkpoint(tmp_path / "half.pt")[1], load_checkpoint(data / "small.pt")[1]["model"]
    assert half["model"].pop("decoder.head.0.weight")[0, 0, 0, 0] == 1e5 and "calibration" not in half
    assert all(torch.equal(value, whole[name]) for name, value in half["model"].items())
    assert run(export.main, large, "--parts", tmp_path / "parts").status == 0
    assert run(export.main, "--join", tmp_path / "parts", "--out", tmp_path / "joined.pt").status == 0
    assert (tmp_path / "joined.pt").read_bytes() == large.read_bytes()
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


# -------------------------------------------------------------------------------------------------------------- scores

def test_scores_are_those_of_an_evaluation(data, video, score, tmp_path):
    config, content = load_checkpoint(data / "small.pt")
    for source in video, write_video(tmp_path / "00.avi", frames_of(video)):
        _, scored = score("--video", source, "--no_video")
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
    source = write_video(tmp_path / "00.avi", frames)
    for mode, flags in ("frozen", []), ("carry", ["--update_memory"]):
        _, scored = score("--checkpoint", small, "--video", source, "--no_video", *flags)
        assert_same_scores(scored, evaluated(small, tmp_path / "png", mode), [*COLUMNS, "memory_updated"])
    assert 0 < scored.signals["memory_updated"].sum() < len(scored.frames)


def test_later_frames_change_nothing(video, score, tmp_path):
    frames = frames_of(video)
    other = frames[:13] + [255 - frame for frame in frames[13:]]
    a, b = (score("--video", write_video(tmp_path / "a.avi", content), "--no_video")[1] for content in (frames, other))
    before, a, b = a.frames < 13, a.signals["normality"], b.signals["normality"]
    assert np.array_equal(a[before], b[before]) and not np.isclose(a[~before], b[~before]).any()


def test_normal_video_replaces_the_calibration(data, video, score, tmp_path):
    _, own = score("--video", video, "--no_video", "--threshold", -1.5)
    expected = normality([own.signals], paper_weights(0.6), "training", own.signals)[0]
    (tmp_path / "out/scores.csv").rename(tmp_path / "normal.csv")
    for normal in video, tmp_path / "normal.csv":
        done, scored = score("--checkpoint", data / "last.pt", "--video", video, "--normal", normal, "--no_video",
                             "--false_alarms", 0.2)
        assert f"20 % of the normal frames are below); normal: 16 frames of {normal}" in done.out
        np.testing.assert_allclose(scored.signals["normality"], expected, atol=0.2)          # rounded weights, or not


@pytest.mark.parametrize(("knobs", "first", "distances"), [
    ({"model.memory": False}, 4, 0), ({"model.name": "msn_net"}, 4, 3),
    ({"model.input_frames": 1, "model.name": "mnad_recon"}, 0, 1)], ids=str)
def test_variants(data, video, score, tmp_path, knobs, first, distances):
    _, scored = score("--checkpoint", exported(tmp_path, data, knobs), "--video", video, "--no_video")
    assert scored.frames.tolist() == list(range(first, 20))
    assert sum(name.startswith("distance") for name in scored.signals) == distances


# --------------------------------------------------------------------------------------------------------------- video

def shown(number, normality, alarm=False, picture=None, error=None, threshold=-2.0):
    return FrameResult(number, math.nan, picture, {}, error, normality, threshold, alarm)


def is_box(picture):
    """Where a picture is blue as the box is; grey and heat are not, even after lossy coding."""
    return picture[..., 0].astype(int) - picture[..., 2] > 60


def test_annotated_video_has_every_frame_and_the_box_in_alarms_only(score, tmp_path):
    """A grey scene of moving noise; a square that jumps."""
    background = np.random.default_rng(0).integers(60, 120, (90, 121, 1), np.uint8).repeat(3, axis=2)
    frames = np.stack([np.roll(background, t, axis=1) for t in range(40)])
    for t in range(15, 30):
        frames[t, 20:50, 10 + 50 * (t % 2):40 + 50 * (t % 2)] = 255 * ((t // 2) % 2)
    path = write_video(tmp_path / "square.avi", frames)
    threshold = np.median(score("--video", path, "--no_video")[1].signals["normality"])
    _, scored = score("--video", path, "--threshold", threshold, "--min_frames", 1, "--gap", 0)
    pictures, inside = read_video(tmp_path / "out/annotated.mp4"), np.zeros(40, bool)
    for line in (tmp_path / "out/alarms.csv").read_text().splitlines()[1:]:
        name, start, end, *seconds, lowest = line.split(",")
        first, last = int(start), int(end)
        inside[first:last + 1] = True
        assert name == "square" and [float(x) for x in seconds] == [first / 10, last / 10]
        assert float(lowest) == pytest.approx(scored.signals["normality"][first - 4:last - 3].min(), abs=1e-4)
    expected = scored.signals["normality"] < threshold
    assert inside.tolist() == 4 * [False] + expected.tolist() and 0 < inside.sum() < 36
    assert len(pictures) == 40 and pictures[0].shape == (90 + 14 + 16, 122, 3)
    assert np.array_equal([is_box(picture[:90]).sum() >= 8 for picture in pictures], inside)
    assert cv2.PSNR(pictures[0][:90, :121], frames[0]) > 25     # the picture itself, where there is no heat
    assert not list((tmp_path / "out").glob(".*")) and (tmp_path / "out/curve.png").stat().st_size > 5000


def test_heat_and_box_are_where_the_error_is():
    error = np.full((32, 32), 1e-4, np.float32)
    error[8:16, 20:28] = 0.1
    picture = np.full((64, 128, 3), 100, np.uint8)
    frame = shown(0, -9.0, True, picture, error)
    hot = heat(frame, 0.01)
    assert (hot[20:28, 88:104, 2] > 150).all() and np.array_equal(hot[40:], picture[40:])
    assert np.array_equal(heat(frame, 0.2), picture)                  # no more than in normal frames
    y, x = np.nonzero(is_box(Annotator().draw(frame, 0.01)[:64]))
    assert (abs(np.array([x.min(), x.max() + 1, y.min(), y.max() + 1]) - [80, 112, 16, 32]) <= 4).all()


def test_strip_marks_alarms_at_the_right_and_forgets():
    annotator, picture = Annotator(), np.zeros((60, 20, 3), np.uint8)
    for t in range(30):
        alarm = t >= 25 or 10 <= t < 15
        drawn = annotator.draw(shown(t, -5.0 if alarm else math.nan if t < 22 else 0.0, alarm, picture), 1.0)[60 + 14:]
    red = (drawn == (40, 40, 150)).all(axis=2).any(axis=0)
    assert red.tolist() == [False] * 10 + [True] * 10
    line, limit = (drawn > 180).all(axis=2), (drawn[:, 1] == (60, 190, 255)).all(axis=1).argmax()
    assert line[:limit, 8].any() and line[limit + 1:, 18].any()


@pytest.mark.parametrize(("H", "W"), [(640, 360), (426, 120), (240, 360), (720, 1280)])
def test_text_of_the_strip_is_whole(H, W):
    """The last letter of ALARM ends inside the picture, and the word is there."""
    picture, band = np.zeros((H, W, 3), np.uint8), round(40 * max(0.35, H / 720))
    drawn = [Annotator().draw(shown(123456, -123.45, alarm, picture), 1.0)[H:H + band].max(axis=(0, 2)) > 60
             for alarm in (False, True)]
    assert np.flatnonzero(drawn[1])[-1] < W - 1 and drawn[1].sum() > 1.1 * drawn[0].sum()


def test_mishaps_are_sentences_and_leave_nothing(data, video, base, tmp_path):
    short = write_video(tmp_path / "short.avi", frames_of(video)[:4])
    (tmp_path / "labels.csv").write_text("video,frame\n00,5\n")
    for args, words in [
        (["--video", short], "short: 4 frames, fewer than"),
        (["--video", video, "--normal", short], "short.avi: 4 frames, fewer than"),
        (["--video", video, "--normal", "0"], "0 holds no picture"),
        (["--video", video, "--normal", tmp_path / "labels.csv"], "labels.csv lacks the columns"),
        (["--video", video, "--checkpoint", data / "last.pt"], "does not say how it scores normal frames; give"),
    ]:
        assert words in sentence(run(predict.main, *base, *args)), args
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
