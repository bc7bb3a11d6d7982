"""scripts/make_toy_data.py: same bytes for the same seed, labels that mean what they say, nothing half-written."""

import dataclasses

import cv2
import numpy as np
import pytest
from helpers import load_script, run, sentence

toy = load_script("scripts/make_toy_data.py")
TINY = toy.Settings(training_videos=1, testing_videos=2, frames=30, width=64, height=48)
FLAGS = [f"--{name}={value}" for name, value in dataclasses.asdict(TINY).items()]


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def intruders(s, video):
    return [actor for actor in toy.cast(s, "testing", video) if actor.kind != "walker"]


def test_layout_and_bytes(tmp_path):
    assert run(toy.main, "--out", tmp_path / "a", *FLAGS).status == 0
    names = [f"{folder}/{t:03d}.jpg" for folder in ("training/frames/01", "testing/frames/01", "testing/frames/02")
             for t in range(30)]
    made = files(tmp_path / "a")
    assert sorted(made) == sorted(f"toy/{name}" for name in (*names, "frame_labels_toy.npy", "settings.json"))
    assert cv2.imread(str(tmp_path / "a/toy" / names[0])).shape == (48, 64, 3)
    labels = np.load(tmp_path / "a/toy/frame_labels_toy.npy")
    assert labels.dtype == np.uint8 and np.array_equal(labels, [*toy.frame_labels(TINY, 0), *toy.frame_labels(TINY, 1)])
    # The same settings give the same bytes, once; other ones need another folder.
    toy.make_toy_data(TINY, tmp_path / "again")
    assert files(tmp_path / "again") == made
    assert "nothing to do" in run(toy.main, "--out", tmp_path / "a", *FLAGS).out
    assert "other settings" in sentence(run(toy.main, "--out", tmp_path / "a", *FLAGS, "--seed", 7))
    assert files(tmp_path / "a") == made
    toy.make_toy_data(dataclasses.replace(TINY, seed=1), tmp_path / "other")
    assert files(tmp_path / "other")[f"toy/{names[0]}"] != made[f"toy/{names[0]}"]


@pytest.mark.parametrize("seed", range(5))
def test_cast(seed):
    """Every kind occurs, neither class is rare, and an intruder moves unlike any walker."""
    s = toy.Settings(seed=seed)
    walkers = [actor for video in range(8) for actor in toy.cast(s, "training", video)]
    assert {actor.kind for actor in walkers} == {"walker"} and min(actor.speed for actor in walkers) > 0
    fastest = max(actor.speed / actor.size for actor in walkers)
    casts = [intruders(s, video) for video in range(s.testing_videos)]
    assert {actor.kind for actor in sum(casts, [])} == {"cyclist", "cart", "runner"} and max(map(len, casts)) == 2
    for actor in sum(casts, []):
        assert abs(actor.speed) / actor.size > 1.3 * fastest and (actor.speed < 0) == (actor.kind == "runner")
    labels = [toy.frame_labels(s, video) for video in range(s.testing_videos)]
    assert all(0 < label.mean() < 1 for label in labels) and 0.3 < np.mean(labels) < 0.6


@pytest.mark.parametrize("video", range(3))                        # a cyclist, a cart, a runner
def test_labels_agree_with_the_pixels_of_the_intruders(video):
    """Draw an intruder alone on a canvas wide enough for all of it, and count how much lies inside the frame."""
    s, margin = toy.Settings(), 100
    (actor,), labels = intruders(s, video), toy.frame_labels(s, video)
    for t in range(0, s.frames, 3):
        canvas = np.zeros((s.height * toy.SCALE, (s.width + 2 * margin) * toy.SCALE, 3), np.uint8)
        toy.draw(canvas, actor._replace(start=actor.start + margin), t)
        drawn = canvas.any(axis=2).sum(axis=0)                     # pixels per column
        inside = drawn[margin * toy.SCALE:-margin * toy.SCALE].sum() / max(1, drawn.sum())
        assert inside > 0.2 if labels[t] else inside < 0.5         # a third of the box is about a third of the pixels


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_nothing(failure, tmp_path, monkeypatch):
    draw = toy.draw_video

    def interrupted(*args):
        yield from draw(*args)
        raise failure

    monkeypatch.setattr(toy, "draw_video", interrupted)
    with pytest.raises(failure):
        toy.make_toy_data(TINY, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--frames=0", "--width=-3", "--seed=-1", "--testing_videos=0", "--frames=3"])
def test_bad_numbers(flag, tmp_path):
    assert sentence(run(toy.main, "--out", tmp_path, flag)) and list(tmp_path.iterdir()) == []
