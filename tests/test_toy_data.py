"""scripts/make_toy_data.py: same bytes for the same seed, labels that mean what they say, nothing half-written."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lgn_net.errors import UserError

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "make_toy_data.py"
spec = importlib.util.spec_from_file_location("make_toy_data", SCRIPT)
toy = importlib.util.module_from_spec(spec)
sys.modules["make_toy_data"] = toy                                 # dataclasses look their module up
spec.loader.exec_module(toy)

TINY = toy.Settings(training_videos=1, testing_videos=2, frames=30, width=64, height=48)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def intruders(s, video):
    return [actor for actor in toy.cast(s, "testing", video) if actor.kind != "walker"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    assert toy.make_toy_data(TINY, out)
    return out


def test_layout(tiny):
    assert [path.name for path in tiny.iterdir()] == ["toy"]       # the temporary folder is gone
    frames = [f"{t:03d}.jpg" for t in range(30)]
    for folder in ("training/frames/01", "testing/frames/01", "testing/frames/02"):
        assert sorted(path.name for path in (tiny / "toy" / folder).iterdir()) == frames
    assert len(files(tiny / "toy")) == 3 * 30 + 2
    assert cv2.imread(str(tiny / "toy/training/frames/01/000.jpg")).shape == (48, 64, 3)
    labels = np.load(tiny / "toy/frame_labels_toy.npy")
    assert labels.dtype == np.uint8 and labels.shape == (60,)
    np.testing.assert_array_equal(labels, np.concatenate([toy.frame_labels(TINY, 0), toy.frame_labels(TINY, 1)]))
    assert json.loads((tiny / "toy/settings.json").read_text()) == dataclasses.asdict(TINY)


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tiny, tmp_path):
    toy.make_toy_data(TINY, tmp_path / "again")
    assert files(tmp_path / "again") == files(tiny)
    toy.make_toy_data(dataclasses.replace(TINY, seed=1), tmp_path / "other")
    frame = "toy/training/frames/01/000.jpg"
    assert files(tmp_path / "other")[frame] != files(tiny)[frame]


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_occurs_every_video_has_both_classes_and_neither_class_is_rare(seed):
    s = toy.Settings(seed=seed)
    kinds = [{actor.kind for actor in intruders(s, video)} for video in range(s.testing_videos)]
    assert set().union(*kinds) == {"cyclist", "cart", "runner"}
    assert any(len(k) == 2 for k in kinds)
    labels = [toy.frame_labels(s, video) for video in range(s.testing_videos)]
    assert all(0 < label.mean() < 1 for label in labels)
    assert 0.3 < np.mean(labels) < 0.6


def test_training_videos_show_walkers_going_right_only():
    actors = [actor for video in range(8) for actor in toy.cast(toy.Settings(), "training", video)]
    assert {actor.kind for actor in actors} == {"walker"}
    assert min(actor.speed for actor in actors) > 0


def test_intruders_move_unlike_any_walker():
    s = toy.Settings()
    walks = [actor.speed / actor.size for actor in toy.cast(s, "training", 0)]
    for video in range(s.testing_videos):
        for actor in intruders(s, video):
            speed = actor.speed / actor.size
            assert speed < 0 if actor.kind == "runner" else speed > 1.5 * max(walks)
            assert abs(speed) > 1.5 * max(walks)


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


def test_a_second_run_changes_nothing(tiny, capsys):
    arguments = ["--out", str(tiny), *(f"--{name}={value}" for name, value in dataclasses.asdict(TINY).items())]
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    assert toy.main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before


def test_other_settings_are_refused(tiny, capsys):
    before = files(tiny)
    assert toy.main(["--out", str(tiny), "--seed", "7"]) == 2
    error = capsys.readouterr().err
    assert "other settings" in error and "--out" in error and error.count("\n") == 1
    assert files(tiny) == before


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


@pytest.mark.parametrize("argument", ["--frames=0", "--width=-3", "--seed=-1", "--testing_videos=0", "--frames=3"])
def test_bad_numbers_are_one_sentence(argument, tmp_path, capsys):
    assert toy.main(["--out", str(tmp_path), argument]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_anything_abnormal_is_refused():
    with pytest.raises(UserError, match="larger numbers"):
        toy.frame_labels(dataclasses.replace(TINY, frames=2), 0)
