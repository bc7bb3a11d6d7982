"""scripts/make_toy_data.py: always the same bytes, labels that mean what they say, nothing half-written."""

import cv2
import numpy as np
from helpers import load_script, run

toy = load_script("scripts/make_toy_data.py")


def test_layout_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "FRAMES", 8)
    monkeypatch.setattr(toy, "VIDEOS", {"training": 1, "testing": 2})
    for out in ("a", "b"):
        assert run(toy.main, "--out", tmp_path / out).status == 0
    names = [f"{split}/frames/{v:02d}/{t:03d}.jpg" for split, v in (("testing", 1), ("testing", 2), ("training", 1))
             for t in range(8)]
    assert ["frame_labels_toy.npy", *names] == sorted(
        str(path.relative_to(tmp_path / "a/toy")) for path in (tmp_path / "a").rglob("*.*"))
    assert all((tmp_path / "a/toy" / name).read_bytes() == (tmp_path / "b/toy" / name).read_bytes() for name in names)
    labels = np.load(tmp_path / "a/toy/frame_labels_toy.npy")
    assert labels.dtype == np.uint8 and np.array_equal(labels, [*toy.frame_labels(0), *toy.frame_labels(1)])
    frame = next(toy.draw_video("testing", 1))
    assert frame.shape == (120, 160, 3) and cv2.PSNR(frame, cv2.imread(str(tmp_path / "a/toy" / names[8]))) > 35


def test_cast_and_labels():
    """Neither class is rare; an intruder moves unlike any walker, and is drawn where the labels say."""
    walkers = [actor for video in range(8) for actor in toy.cast("training", video)]
    fastest = max(actor.speed / actor.size for actor in walkers)
    assert {actor.kind for actor in walkers} == {"walker"} and min(actor.speed for actor in walkers) > 0
    labels = [toy.frame_labels(video) for video in range(6)]
    assert all(0 < label.mean() < 1 for label in labels) and 0.43 < np.mean(labels) < 0.45
    for video in range(3):                                                       # a cyclist, a cart, a runner
        actor, = (actor for actor in toy.cast("testing", video) if actor.kind != "walker")
        assert abs(actor.speed) / actor.size > 1.3 * fastest and (actor.speed < 0) == (actor.kind == "runner")
        for t in range(0, 100, 8):
            canvas = np.zeros((toy.HEIGHT * toy.SCALE, (toy.WIDTH + 200) * toy.SCALE, 3), np.uint8)
            toy.draw(canvas, actor._replace(start=actor.start + 100), t)         # wide enough for all of it
            drawn = canvas.any(axis=2).sum(axis=0)                               # pixels per column
            inside = drawn[100 * toy.SCALE:-100 * toy.SCALE].sum() / max(1, drawn.sum())
            assert inside > 0.2 if labels[video][t] else inside < 0.5            # a third of the box, about
