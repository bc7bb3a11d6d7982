"""scripts/export_weights.py and scripts/predict_video.py: the scores of everywhere, causal, in whole files."""

import csv
import http.server
import itertools
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, edit_checkpoint, load_script, run, sentence, write_videos
from test_footage import write

import evaluate
import train
from lgn_net.config import config_from_dict
from lgn_net.data.footage import open_footage
from lgn_net.data.videos import Video, index_videos
from lgn_net.inference.chosen import sample_normal
from lgn_net.inference.loop import score_videos, to_scores
from lgn_net.model.build import build_model
from lgn_net.scores.calibration import SHARES, calibrate, calibrated, threshold_at
from lgn_net.scores.normality import normality
from lgn_net.scores.protocols import paper_weights
from lgn_net.scores.score_file import VideoScores, read_scores
from lgn_net.training.checkpoint import load_checkpoint
from lgn_net.video.alarms import with_alarms
from lgn_net.video.overlay import Strip, draw_box, heat

export, predict = load_script("scripts/export_weights.py"), load_script("scripts/predict_video.py")
CPU, COLUMNS = torch.device("cpu"), ["psnr", "distance", "regular_score"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two grey test videos with labels, and two training videos."""
    folder = tmp_path_factory.mktemp("made")
    write_videos(folder / "made/training/frames", [9, 12])
    write_videos(folder / "made/testing/frames", [8, 20])
    (folder / "made/labels.csv").write_text("video,start,end\n00,5,6\n01,4,4\n01,8,9\n")
    (folder / "tiny.yaml").write_text(TINY)
    return folder


def trained(data, name, *knobs):
    assert run(train.main, "--config", data / "tiny.yaml", "--dataset_path", data, "--device", "cpu", "--exp_dir",
               data / name, *knobs).status == 0
    return data / name / "last.pt"


@pytest.fixture(scope="module")
def checkpoint(data):
    return trained(data, "run")


def exported_as(path, data, checkpoint):
    done = run(export.main, checkpoint, "--dataset_path", data, "--out", path, "--device", "cpu")
    assert done.status == 0, done.err
    return path


@pytest.fixture(scope="module")
def exported(data, checkpoint):
    return exported_as(data / "small.pt", data, checkpoint)


@pytest.fixture
def base(exported, tmp_path):
    """The arguments of all runs here; later ones win."""
    return "--checkpoint", exported, "--device", "cpu", "--out", tmp_path / "out"


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


def write_video(path, frames):
    return write(path, frames, "ffv1", "bgr0")


def read_video(path):
    with open_footage(path) as footage:
        return [frame.picture for frame in footage.frames]


def frames_of(folder):
    return [cv2.imread(str(path)) for path in sorted(folder.iterdir())]


def alarms_of(folder):
    with open(folder / "alarms.csv") as file:
        return list(csv.DictReader(file))


def assert_same_scores(scored, expected, columns=COLUMNS):
    assert scored.frames.tolist() == expected.frames.tolist()
    for name in columns:
        np.testing.assert_allclose(scored.signals[name], expected.signals[name], rtol=2e-5)


# -------------------------------------------------------------------------------------------------------------- export

def test_exported_file_is_small_and_scores_alike(data, checkpoint, exported, tmp_path):
    before, after = load_checkpoint(checkpoint)[1], load_checkpoint(exported)[1]
    assert exported.stat().st_size < checkpoint.stat().st_size / 2 and "optimizer" not in after
    for name, value in after["model"].items():
        expected = before["model"][name]
        exact = name == "memory.items" or not expected.is_floating_point()
        assert torch.equal(value, expected if exact else expected.half()), name
        assert exact or value.dtype == torch.float16
    files = []
    for name, path in ("before", checkpoint), ("after", exported):
        done = run(evaluate.main, "--checkpoint", path, "--dataset_path", data, "--device", "cpu", "--out",
                   tmp_path / name)
        assert done.status == 0, done.err
        files.append(read_scores(tmp_path / name / "scores.csv", COLUMNS))
    for old, new in zip(*files, strict=True):
        np.testing.assert_allclose(new.signals["psnr"], old.signals["psnr"], atol=0.05)
        assert not np.array_equal(new.signals["psnr"], old.signals["psnr"])               # rounding did happen
    assert run(train.main, "--config", data / "tiny.yaml", "--dataset_path", data, "--device", "cpu", "--exp_dir",
               tmp_path / "on", "--init_from", exported, "--train.max_steps", 1).status == 0


def test_calibration_is_that_of_sampled_windows(data, exported):
    config, model, content = network(exported)
    videos = index_videos(data / "made/training/frames")
    signals, _ = sample_normal(model, videos, config, 256, CPU)
    calibration, weights = content["calibration"], paper_weights(config.score.psnr_weight)
    pooled = {"psnr": np.array([s.psnr for s in signals]), "distance": np.array([s.distance[0] for s in signals])}
    assert calibration["frames"] == len(signals) == 5 + 8
    for name, values in pooled.items():
        assert calibration["signals"][name] == pytest.approx({"mean": np.mean(values), "std": np.std(values)})
    expected = normality([pooled], weights, "training", pooled)[0]
    np.testing.assert_allclose(calibrated(pooled, weights, calibration), expected)
    np.testing.assert_allclose(calibration["normality"], np.quantile(expected, SHARES))


def test_rounding_only_and_parts(checkpoint, exported, tmp_path):
    def enlarge(content):
        content["model"]["decoder.head.0.weight"][0, 0, 0, 0] = 1e5            # more than float16 can hold
    large = edit_checkpoint(checkpoint, tmp_path / "large.pt", enlarge)
    done = run(export.main, large, "--half", "--out", tmp_path / "half.pt")
    assert done.status == 0 and "decoder.head.0.weight" in done.out
    half, whole = load_checkpoint(tmp_path / "half.pt")[1], load_checkpoint(exported)[1]["model"]
    assert half["model"].pop("decoder.head.0.weight")[0, 0, 0, 0] == 1e5 and "calibration" not in half
    assert all(torch.equal(value, whole[name]) for name, value in half["model"].items())
    assert run(export.main, checkpoint, "--parts", tmp_path / "parts").status == 0
    assert run(export.main, "--join", tmp_path / "parts", "--out", tmp_path / "joined.pt").status == 0
    assert (tmp_path / "joined.pt").read_bytes() == checkpoint.read_bytes()
    for argv, status in [([large, "--half", "--out", large], 2), (["--half", "--out", tmp_path / "a.pt"], 2),
                         ([large, "--half"], 2), (["--join", tmp_path, "--out", tmp_path / "a.pt"], 2)]:
        assert run(export.main, *argv).status == status and not (tmp_path / "a.pt").exists()


# ------------------------------------------------------------------------------------------------- threshold and alarms

def test_threshold_is_the_quantile_of_normal_frames():
    psnr = np.random.default_rng(0).normal(30, 2, 1000)
    half = VideoScores("a", np.arange(500), {"psnr": psnr[:500]}, np.zeros(500)), \
        VideoScores("b", np.arange(500), {"psnr": psnr[500:]}, np.zeros(500))
    calibration = calibrate(half, {"psnr": 1.0}, [0.1, 0.3])
    normal = (psnr - psnr.mean()) / psnr.std()
    for share in (0.01, 0.05, 0.1):
        assert (normal < threshold_at(calibration, share)).sum() == 1000 * share
    assert 10 < (normal < threshold_at(calibration, 0.015)).sum() < 20
    assert threshold_at(calibration, 0) == pytest.approx(normal.min())
    assert calibration["peak_error"] == pytest.approx(0.2)


def flags(low, length, gap):
    """The frames of "0110..." that are in an alarm, and the longest wait."""
    taken, found, waited = [], "", 0
    for t, _, alarm in with_alarms((taken.append(t) or t for t in range(len(low))), lambda t: -float(low[t]), -0.5,
                                   length, gap):
        found += str(int(alarm))
        waited = max(waited, len(taken) - t - 1)
    return found, waited


@pytest.mark.parametrize(("low", "expected"), [
    ("0111100011111", "0000000011111"),            # 4 are too short, 5 are not, up to the end
    ("0110111000000", "0111111000000"),            # a gap of 1 is bridged, and counts
    ("0111001110000", "0111111110000"),            # so is one of 2
    ("0111000111000", "0000000000000"),            # not one of 3
    ("1111100111110", "1111111111110"),
])
def test_alarms_by_hand(low, expected):
    assert flags(low, 5, 2)[0] == expected


def test_alarms_against_a_slow_search():
    for bits in itertools.product("01", repeat=10):
        low = "".join(bits)
        for length, gap in (1, 0), (3, 0), (3, 1), (4, 3):
            groups = []
            for t in (t for t, x in enumerate(low) if x == "1"):
                if groups and t - groups[-1][-1] - 1 <= gap:
                    groups[-1].append(t)
                else:
                    groups.append([t])
            expected = ["0"] * 10
            for group in groups:
                if group[-1] - group[0] + 1 >= length:
                    expected[group[0]:group[-1] + 1] = "1" * (group[-1] - group[0] + 1)
            found, waited = flags(low, length, gap)
            assert found == "".join(expected) and waited <= length + gap, (low, length, gap)


# -------------------------------------------------------------------------------------------------------------- scores

@pytest.mark.parametrize("source", ["folder", "video"])
def test_grey_scores_are_those_of_score_videos(data, exported, score, tmp_path, source):
    config, model, content = network(exported)
    raw = content["config"] | {"score": content["config"]["score"] | {"memory_update": "off"}}
    folder = data / "made/testing/frames/01"
    video = Video("01", tuple(map(str, sorted(folder.iterdir()))))
    expected, = to_scores(score_videos(model, [video], config_from_dict(raw), CPU), [video])
    _, scored = score("--video", folder if source == "folder" else write_video(tmp_path / "01.avi", frames_of(folder)))
    assert_same_scores(scored, expected)
    weights = paper_weights(config.score.psnr_weight)
    np.testing.assert_allclose(scored.signals["normality"], calibrated(scored.signals, weights, content["calibration"]))
    assert scored.name == "01" and not scored.signals["memory_updated"].any()
    (tmp_path / "one.csv").write_text("video,start,end\n01,8,9\n")
    judged = run(evaluate.main, "--scores", tmp_path / "out/scores.csv", "--labels", tmp_path / "one.csv")
    assert judged.status == 0, judged.err                                 # the score file is one of this project's


def test_colour_scores_with_memory_updates(data, score, tmp_path):
    """Colour survives the way through a video file, and the memory is updated as in an evaluation."""
    small = exported_as(tmp_path / "small.pt", data,
                        trained(data, "colour", "--data.channels", 3, "--train.max_steps", 1, "--score.gamma", 0.2))
    frames = np.random.default_rng(0).integers(0, 256, (9, 18, 22, 3), np.uint8)
    frames //= np.arange(1, 10, dtype=np.uint8)[:, None, None, None]          # darker and darker
    folder = tmp_path / "png/00"
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{t}.png"), frame)
    videos = index_videos(tmp_path / "png")
    config, model, _ = network(small)
    expected, = to_scores(score_videos(model, videos, config, CPU), videos)
    _, scored = score("--checkpoint", small, "--video", write_video(tmp_path / "00.avi", frames), "--update_memory",
                      "--no_video")
    assert_same_scores(scored, expected, [*COLUMNS, "memory_updated"])
    assert 0 < scored.signals["memory_updated"].sum() < len(scored.frames)


def test_later_frames_change_nothing(data, score, tmp_path):
    frames = frames_of(data / "made/testing/frames/01")
    other = [255 - frame for frame in frames]
    a, b = (score("--video", write_video(tmp_path / name, video), "--no_video")[1]
            for name, video in (("a.avi", frames), ("b.avi", frames[:13] + other[13:])))
    before, a, b = a.frames < 13, a.signals["normality"], b.signals["normality"]
    assert np.array_equal(a[before], b[before]) and not np.isclose(a[~before], b[~before]).any()


def test_normal_video_replaces_the_calibration(data, checkpoint, score, tmp_path):
    video = data / "made/testing/frames/01"
    _, own = score("--video", video, "--no_video")
    expected = normality([own.signals], paper_weights(0.6), "training", own.signals)[0]
    shutil.copy(tmp_path / "out/scores.csv", tmp_path / "normal.csv")
    for normal in video, tmp_path / "normal.csv":
        done, scored = score("--checkpoint", checkpoint, "--video", video, "--normal", normal, "--no_video",
                             "--false_alarms", 0.2)
        assert f"20 % of the normal frames are below); normal: 16 frames of {normal}" in done.out
        assert "note" not in done.out
        np.testing.assert_allclose(scored.signals["normality"], expected, atol=0.2)          # rounded weights, or not
        assert abs(scored.signals["normality"].mean()) < 0.2
    plain, _ = score("--video", video, "--no_video", "--threshold", -1.5)
    assert "note       if this is another scene" in plain.out and "threshold  -1.50 (as given)" in plain.out


# --------------------------------------------------------------------------------------------------------------- video

def is_box(picture):
    """Where a picture is blue as the box is; grey and heat are not, even after lossy coding."""
    return picture[..., 0].astype(int) - picture[..., 2] > 60


def test_annotated_video_has_every_frame_and_the_box_in_alarms_only(score, tmp_path):
    """A grey scene of moving noise; a square that jumps."""
    background = np.random.default_rng(0).integers(60, 120, (90, 121), np.uint8)
    frames = []
    for t in range(40):
        frame = np.repeat(np.roll(background, t, axis=1)[..., None], 3, axis=2)
        if 15 <= t < 30:
            frame[20:50, 10 + 50 * (t % 2):40 + 50 * (t % 2)] = 255 * ((t // 2) % 2)
        frames.append(frame)
    video = write_video(tmp_path / "square.avi", frames)
    threshold = np.median(score("--video", video, "--no_video")[1].signals["normality"])
    _, scored = score("--video", video, "--threshold", threshold, "--min_frames", 2, "--gap", 1)
    pictures, alarms = read_video(tmp_path / "out/annotated.mp4"), alarms_of(tmp_path / "out")
    inside = np.zeros(40, bool)
    for line in alarms:
        inside[int(line["start"]):int(line["end"]) + 1] = True
        assert float(line["start_seconds"]) == int(line["start"]) / 10
        first, last = int(line["start"]) - scored.frames[0], int(line["end"]) - scored.frames[0]
        values = scored.signals["normality"][first:last + 1]
        assert float(line["lowest_normality"]) == pytest.approx(values.min(), abs=1e-4)
    assert 0 < inside.sum() < 36
    assert len(pictures) == 40 and pictures[0].shape[1] == 122 and pictures[0].shape[0] >= 90 + Strip(121, 90, 0).height
    shown = np.array([is_box(picture[:90]).sum() >= 8 for picture in pictures])
    assert np.array_equal(shown, inside)
    assert cv2.PSNR(pictures[0][:90, :121], frames[0]) > 25     # the picture itself, where there is no heat
    assert not list((tmp_path / "out").glob(".*")) and (tmp_path / "out/curve.png").stat().st_size > 5000


def test_heat_and_box_are_where_the_error_is():
    error = np.full((32, 32), 1e-4, np.float32)
    error[8:16, 20:28] = 0.1
    picture = np.full((64, 128, 3), 100, np.uint8)
    hot = heat(picture, error, 0.01)
    assert (hot[20:28, 88:104, 2] > 150).all() and np.array_equal(hot[40:], picture[40:])
    assert np.array_equal(heat(picture, error, 0.2), picture)                  # no more than in normal frames
    draw_box(picture, error)
    y, x = np.nonzero(is_box(picture))
    assert (abs(np.array([x.min(), x.max() + 1, y.min(), y.max() + 1]) - [80, 112, 16, 32]) <= 4).all()


def test_strip_marks_alarms_at_the_right_and_forgets():
    strip = Strip(20, 60, -2.0)
    for t in range(30):
        drawn = strip.draw(t, 0.0 if t < 25 else -5.0, t >= 25)
    assert drawn.shape == (strip.height, 20, 3) and len(strip.shown) == 10
    red = (drawn == (40, 40, 150)).all(axis=2).any(axis=0)
    assert red.tolist() == [False] * 10 + [True] * 10
    assert strip.row(-100) == strip.row(-6) > strip.row(-2) > strip.row(0) > strip.row(2) == strip.row(50)


# ------------------------------------------------------------------------------------------------- variants and mishaps

@pytest.mark.slow
@pytest.mark.parametrize("knobs", [["--model.memory", "false"], ["--model.name", "mnad_recon", "--model.base_width", 4],
                                   ["--model.name", "msn_net", "--model.base_width", 4]])
def test_variants(data, score, tmp_path, knobs):
    small = exported_as(tmp_path / "small.pt", data,
                        trained(data, "_".join(map(str, knobs)), *knobs, "--train.max_steps", 1))
    _, scored = score("--checkpoint", small, "--video", data / "made/testing/frames/01", "--fps", 5)
    config, _, content = network(small)
    assert scored.frames[0] == config.model.window - 1 == (0 if "mnad_recon" in knobs else 4)
    assert scored.frames[-1] == 19
    distances = [name for name in scored.signals if name.startswith("distance")]
    assert len(distances) == (0 if "false" in knobs else 3 if "msn_net" in knobs else 1)
    assert list(content["calibration"]["signals"]) == ["psnr", *distances]
    assert len(read_video(tmp_path / "out/annotated.mp4")) == 20


def test_mishaps_are_sentences_and_leave_nothing(data, checkpoint, exported, base, tmp_path):
    video = data / "made/testing/frames/01"
    short = write_video(tmp_path / "short.avi", frames_of(video)[:4])
    damaged = edit_checkpoint(exported, tmp_path / "damaged.pt",
                              lambda content: content["calibration"]["signals"].pop("distance"))
    for args, words in [
        (["--video", short], "short.avi: 4 frames, fewer than the 5"),
        (["--video", video, "--normal", short], "short.avi: 4 frames, fewer than the 5"),
        (["--video", video, "--normal", "0"], "--normal 0 is live"),
        (["--video", video, "--normal", data / "made/labels.csv"], "labels.csv lacks the columns"),
        (["--video", video, "--checkpoint", checkpoint], "does not say how it scores normal frames; give"),
        (["--video", video, "--checkpoint", damaged], "the calibration in"),
        (["--video", video, "--seconds", 1], "--seconds 1: the frame rate"),
        (["--video", video, "--false_alarms", 1], "--false_alarms 1.0"),
    ]:
        done = run(predict.main, *base, *args)
        assert words in sentence(done), (args, done.err)
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir()), args


def test_cut_video_is_scored_as_far_as_it_goes_and_seconds_end_it(score, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)
    video = write_video(tmp_path / "cut.avi", noise)
    for seconds, count in ("1.2", 12), ("9", 40):
        done, scored = score("--video", video, "--seconds", seconds, "--no_video")
        assert scored.frames[-1] == count - 1 and "could be decoded" not in done.err
    video.write_bytes(video.read_bytes()[:video.stat().st_size // 2])
    done, scored = score("--video", video)
    count = len(read_video(tmp_path / "out/annotated.mp4"))
    assert 10 < count == scored.frames[-1] + 1 < 30
    assert f"{count} of 40 frames could be decoded; it is cut off or damaged" in " ".join(done.warnings())


class SlowStream(http.server.BaseHTTPRequestHandler):
    """A network camera of twenty pictures a second, for ever."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        for t in itertools.count():
            picture = np.full((48, 64, 3), 40, np.uint8)
            cv2.circle(picture, (t % 64, 24), 8, (200, 200, 200), -1)
            jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
            try:
                self.wfile.write(b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
                self.wfile.write(jpeg + b"\r\n")
            except OSError:
                return
            time.sleep(0.05)

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_interrupted_stream_leaves_whole_files(exported, tmp_path):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), SlowStream) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        out = tmp_path / "out"
        address = f"http://127.0.0.1:{server.server_address[1]}/camera.mjpg"
        process = subprocess.Popen([sys.executable, "scripts/predict_video.py", "--checkpoint", str(exported),
                                    "--device", "cpu", "--video", address, "--out", str(out)],
                                   cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            for _ in range(600):
                if list(out.glob(".annotated.mp4.*")) or process.poll() is not None:
                    break
                time.sleep(0.1)
            time.sleep(1.5)
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        server.shutdown()
    assert process.returncode == 0 and "Traceback" not in errors, errors
    scored, = read_scores(out / "scores.csv", ["normality", *COLUMNS], labelled=False)
    assert scored.name == "stream" and len(scored.frames) >= 5 and f"{len(scored.frames)} scored" in printed
    assert len(read_video(out / "annotated.mp4")) == scored.frames[-1] + 1
    assert sorted(path.name for path in out.iterdir()) == ["alarms.csv", "annotated.mp4", "curve.png", "scores.csv"]
