"""scripts/make_toy_data.py: same bytes for the same seed, labels that mean what they say, nothing half-written."""

import dataclasses
import json
import sys

import cv2
import numpy as np
import pytest
from helpers import load_script, run, sentence

from lgn_net.errors import UserError

toy = sys.modules.get("make_toy_data") or load_script("scripts/make_toy_data.py")
TINY = toy.Settings(training_videos=1, testing_videos=2, frames=30, width=64, height=48)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def intruders(s, video):
    return [actor for actor in toy.cast(s, "testing", video) if actor.kind != "walker"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    assert toy.make_toy_data(TINY, out)
    return out


def test_layout_and_bytes(tiny, tmp_path):
    names = [f"{folder}/{t:03d}.jpg" for folder in ("training/frames/01", "testing/frames/01", "testing/frames/02")
             for t in range(30)]
    assert sorted(files(tiny)) == sorted(f"toy/{name}" for name in (*names, "frame_labels_toy.npy", "settings.json"))
    assert cv2.imread(str(tiny / "toy" / names[0])).shape == (48, 64, 3)
    labels = np.load(tiny / "toy/frame_labels_toy.npy")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.concatenate([toy.frame_labels(TINY, 0), toy.frame_labels(TINY, 1)]))
    assert json.loads((tiny / "toy/settings.json").read_text()) == dataclasses.asdict(TINY)
    toy.make_toy_data(TINY, tmp_path / "again")
    assert files(tmp_path / "again") == files(tiny)
    toy.make_toy_data(dataclasses.replace(TINY, seed=1), tmp_path / "other")
    assert files(tmp_path / "other")[f"toy/{names[0]}"] != files(tiny)[f"toy/{names[0]}"]


@pytest.mark.parametrize("seed", range(5))
def test_cast(seed):
    """Every kind occurs, neither class is rare, and an intruder moves unlike any walker."""
    s = toy.Settings(seed=seed)
    walkers = [actor for video in range(8) for actor in toy.cast(s, "training", video)]
    assert {actor.kind for actor in walkers} == {"walker"} and min(actor.speed for actor in walkers) > 0
    fastest = max(actor.speed / actor.size for actor in walkers)
    casts = [intruders(s, video) for video in range(s.testing_videos)]
    kinds = [{actor.kind for actor in cast} for cast in casts]
    assert set().union(*kinds) == {"cyclist", "cart", "runner"} and any(len(some) == 2 for some in kinds)
    for actor in sum(casts, []):
        assert abs(actor.speed) / actor.size > 1.3 * fastest and (actor.speed < 0) == (actor.kind == "runner")
    labels = [toy.frame_labels(s, video) for video in range(s.testing_videos)]
    assert all(0 < label.mean() < 1 for label in labels) and 0.3 < np.mean(labels) < 0.6


@pytest.mark.slow
def test_labels_agree_with_the_pixels_of_the_intruders():
    """Draw every intruder alone on a canvas wide enough for all of it, and count how much lies inside the frame."""
    s, margin = toy.Settings(), 200
    scale = toy.SUPERSAMPLING
    for video in range(3):                                         # a cyclist, a cart, a runner
        inside = np.zeros(s.frames)
        for actor in intruders(s, video):
            for t in range(s.frames):
                canvas = np.zeros((s.height * scale, (s.width + 2 * margin) * scale, 3), np.uint8)
                x, heading = actor.x(t), 1 if actor.speed > 0 else -1
                if -margin / 2 < x < s.width + margin / 2:
                    pen = toy.Pen(canvas, x + margin, actor.ground, actor.size, heading)
                    toy.DRAW[actor.kind](pen, actor, travelled=abs(actor.speed) * t / actor.size)
                    drawn = canvas.any(axis=2).sum(axis=0)         # pixels per column
                    share = drawn[margin * scale:-margin * scale].sum() / drawn.sum()
                    inside[t] = max(inside[t], share)
        labels = toy.frame_labels(s, video)
        assert inside[labels == 1].min() > 0.2                     # a third of the box is about a third of the pixels
        assert inside[labels == 0].max() < 0.5


@pytest.mark.slow
def test_intruders_are_really_in_the_frames(monkeypatch):
    """Frames with and without them differ where the label is 1, and are the same before anything has come in."""
    s = toy.Settings(testing_videos=1)
    scene = toy.background(s)
    shown = np.stack(list(toy.draw_video(s, "testing", 0, scene))).astype(int)
    first = next(t for t in range(s.frames) if any(a.visible_share(t, s.width) > 0 for a in intruders(s, 0)))
    labels = toy.frame_labels(s, 0)
    walkers_only = [actor for actor in toy.cast(s, "testing", 0) if actor.kind == "walker"]
    monkeypatch.setattr(toy, "cast", lambda *_: walkers_only)
    hidden = np.stack(list(toy.draw_video(s, "testing", 0, scene))).astype(int)
    changed = (abs(shown - hidden).max(axis=3) > 20).sum(axis=(1, 2))                 # pixels per frame
    assert changed[labels == 1].min() > 50
    assert (shown[:first - 2] == hidden[:first - 2]).all()


def test_a_second_run_changes_nothing(tiny):
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    flags = [f"--{name}={value}" for name, value in dataclasses.asdict(TINY).items()]
    again = run(toy.main, "--out", tiny, *flags)
    assert again.status == 0 and "nothing to do" in again.out
    assert "other settings" in sentence(run(toy.main, "--out", tiny, "--seed", 7))
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_nothing(failure, tmp_path, monkeypatch):
    draw = toy.draw_video

    def interrupted(s, split, video, scene):
        yield from draw(s, split, video, scene)
        raise failure

    monkeypatch.setattr(toy, "draw_video", interrupted)
    with pytest.raises(failure):
        toy.make_toy_data(TINY, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--frames=0", "--width=-3", "--seed=-1", "--testing_videos=0", "--frames=3"])
def test_bad_numbers(flag, tmp_path):
    assert sentence(run(toy.main, "--out", tmp_path, flag)) and list(tmp_path.iterdir()) == []


def test_a_video_without_anything_abnormal_is_refused():
    with pytest.raises(UserError, match="larger numbers"):
        toy.frame_labels(dataclasses.replace(TINY, frames=2), 0)
