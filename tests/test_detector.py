"""The library: `from lgn_net import AnomalyDetector`, on files, arrays, and sources that are cut, slow and silent."""

import contextlib
import functools
import http.server
import json
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime

import cv2
import numpy as np
import pytest
from helpers import ROOT, load_script, run, shell
from test_footage import write
from test_predict_video import exported, frames_of, write_videos

from lgn_net import AnomalyDetector
from lgn_net.data.footage import Frame, open_footage
from lgn_net.errors import UserError
from lgn_net.scores.score_file import read_scores
from lgn_net.video import source
from lgn_net.video.output import Annotator

predict = load_script("scripts/predict_video.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    write_videos(folder / "made/training/frames", [9, 12])
    write_videos(folder / "made/testing/frames", [20])
    exported(folder, folder, {})
    return folder


@pytest.fixture
def detector(data):
    return AnomalyDetector.load(data / "small.pt", "cpu", threshold=-1.0, min_frames=1, gap=0)


@pytest.fixture
def pictures(data):
    return frames_of(data / "made/testing/frames/00")


def test_package_is_cheap_until_the_detector_is_asked_for():
    done = shell("-c", "import sys, lgn_net as lgn; print(*(name in sys.modules for name in ('torch', 'numpy')));"
                       "print(lgn.AnomalyDetector.__name__, 'torch' in sys.modules); lgn.other")
    assert done.out.split() == ["False", "False", "AnomalyDetector", "True"]
    assert "AttributeError: module 'lgn_net' has no attribute 'other'" in done.err


def test_watching_a_file_is_scoring_its_pictures(detector, pictures, data, tmp_path):
    video = write(tmp_path / "00.avi", pictures, "ffv1", "bgr0")
    watched, scores = list(detector.watch(video)), detector.score(pictures)
    assert [frame.number for frame in watched] == list(range(20)) and np.isnan(scores.normality[:4]).all()
    assert [frame.seconds for frame in watched] == pytest.approx([t / 10 for t in range(20)])
    np.testing.assert_allclose([frame.normality for frame in watched], scores.normality)
    np.testing.assert_allclose([frame.signals["psnr"] for frame in watched[4:]], scores.signals["psnr"][4:])
    assert [frame.alarm for frame in watched] == scores.alarm.tolist() == (scores.normality < -1).tolist()
    grey = detector.score(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in pictures)
    np.testing.assert_allclose(grey.normality, scores.normality)
    assert detector.score([]).normality.shape == (0,) and detector.score(pictures[:3]).signals == {}
    normal = AnomalyDetector.load(data / "last.pt", "cpu")
    with pytest.raises(UserError, match="does not say how it scores normal frames"):
        next(normal.watch(video))
    assert np.nanmean(normal.calibrate(video).score(pictures).normality) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("update_memory", [False, True])
def test_each_part_between_gaps_starts_anew(detector, pictures, tmp_path, update_memory):
    """A hole in the time stamps, and None of a source; the memory, if it is updated, goes on."""
    times = [t + 60 * (t >= 9) for t in range(20)]
    path = write(tmp_path / "hole.mkv", pictures, "ffv1", "bgr0", times=times)
    watched = list(detector.watch(path, update_memory=update_memory))
    assert [t for t, frame in enumerate(watched) if not frame.signals] == [0, 1, 2, 3, 9, 10, 11, 12]
    assert [frame.number for frame in watched] == list(range(20)) and watched[9].seconds == pytest.approx(6.9)
    if not update_memory:
        alone = [detector.score(pictures[:9]).normality, detector.score(pictures[9:]).normality]
        np.testing.assert_allclose([frame.normality for frame in watched], np.concatenate(alone))
        assert detector.score(pictures).normality == pytest.approx(detector.score(pictures).normality, nan_ok=True)
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
    x = np.array([[frame.signals["psnr"], frame.signals["distance"]] for frame in watched[4:71]])
    middle = np.median(x, axis=0)
    scale = 1.4826 * np.median(abs(x - middle), axis=0)
    weights = np.array([0.6, -0.4])
    known = ((x - middle) / scale) @ weights
    assert normality[71:] == pytest.approx([((np.array([f.signals["psnr"], f.signals["distance"]]) - middle) / scale)
                                            @ weights for f in watched[71:]])
    limit = np.median(known) - 2.3263 * 1.4826 * np.median(abs(known - np.median(known)))             # 1 % below
    assert detector.limit() == pytest.approx(limit, rel=1e-3) == watched[-1].threshold and not detector.of_training
    with pytest.raises(UserError, match="ended before 60 seconds and 50 scored frames"):
        list(detector.watch(path, calibrate_seconds=60))


# --------------------------------------------------------------------------------------------------- live, on loopback

class Camera(http.server.BaseHTTPRequestHandler):
    """A network camera: each connection gets frames, then silence, then a cut, as planned."""

    def log_message(self, *_):
        pass

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


def test_file_at_an_address_is_read_like_a_file(detector, pictures, tmp_path, recwarn):
    video = write(tmp_path / "a.mkv", pictures * 3, "ffv1", "bgr0")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened = source.Source(f"http://127.0.0.1:{server.server_port}/a.mkv", 1)
        watched = list(detector.watch(opened))
        server.shutdown()
    expected = list(detector.watch(video))
    assert [frame.normality for frame in watched[4:]] == pytest.approx([frame.normality for frame in expected[4:]])
    assert [frame.seconds for frame in watched] == [frame.seconds for frame in expected]
    assert not (opened.live or opened.dropped or recwarn)


@pytest.mark.parametrize(("plan", "options", "status", "words", "longest"), [
    ([(20, 20, 0.02)], ["--seconds", 2], 0, "is silent after frame 19", 4),
    ([(20, 20, 0.02)], ["--patience", 1.5], 3, "gave no picture for 1.5 seconds; is it still on?; scored up to", 4),
    ([(0, 20, 0)], ["--seconds", 1], 2, "gave no picture; is it on?", 3),
    ([], [], 2, "no stream answers at http://***@127.0.0.1", 3)])
def test_silent_stream_ends_in_time_and_says_so(data, camera, tmp_path, plan, options, status, words, longest):
    begin = time.monotonic()
    done = run(predict.main, "--checkpoint", data / "small.pt", "--device", "cpu", "--out", tmp_path / "out",
               "--no_video", "--video", camera(*plan), "--threshold", -1e9, *options)
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
    assert [line.split()[1::4][:2] for line in said] == [["begin", "4,"], ["end", "39,"], ["begin", "44,"]]
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


def test_interrupted_stream_leaves_whole_files(data, camera, tmp_path, monkeypatch):
    """Ctrl-C at the twelfth frame."""
    def draw(annotator, frame, peak):
        if frame.number == 12:
            signal.raise_signal(signal.SIGINT)
        return usual(annotator, frame, peak)

    usual, out = Annotator.draw, tmp_path / "out"
    monkeypatch.setattr(Annotator, "draw", draw)
    done = run(predict.main, "--checkpoint", data / "small.pt", "--out", out, "--video", camera((100, 0, 0.05)),
               "--threshold", -1e9)
    scored = read_scores(out / "scores.csv", ["normality"], labelled=False)[0]
    assert done.status == 0 and scored.name == "stream" and scored.frames.tolist() == list(range(4, 13))   # at once
    with open_footage(out / "annotated.mp4") as footage:
        seconds = [frame.seconds for frame in footage.frames]
    assert len(seconds) == 13 and seconds[4:] == pytest.approx(scored.signals["seconds"], abs=1e-3)
    assert {path.name for path in out.iterdir()} == {
        "scores.csv", "alarms.csv", "events.jsonl", "curve.png", "annotated.mp4", "report.html"}
