"""scripts/check_data.py finds and names every fault of a data set, and scripts/make_toy_data.py draws a sound one."""

import json
import shutil

import cv2
import numpy as np
import pytest
from helpers import load_script, run, write_videos

check_data, toy = load_script("scripts/check_data.py"), load_script("scripts/make_toy_data.py")


@pytest.fixture
def mine(tmp_path):
    """The folder of a clean data set: two videos in each split, JPEG of quality 95."""
    home = tmp_path / "mine"
    write_videos(home / "training/frames", (7, 7), channels=3)
    write_videos(home / "testing/frames", (8, 8), channels=3)
    labels(*8 * [0], *8 * [1])(home)
    converted(".jpg", quality=95)(home)
    return home


def check(home, *argv):
    """What was found: notes, problems."""
    result = run(check_data.main, home.parent, "--dataset", "mine", "--json", *argv)
    content = json.loads(result.out)
    assert result.status == (len(content["problem"]) > 0), result
    return content["note"], content["problem"]


def converted(suffix, change=lambda image: image, quality=95, where=""):
    """A function that writes all frames in a folder anew."""
    def convert(home):
        for path in (home / where).rglob("*.*g"):
            image = change(cv2.imread(str(path)))
            path.unlink()
            cv2.imwrite(str(path.with_suffix(suffix)), image, [cv2.IMWRITE_JPEG_QUALITY, quality])

    return convert


def labels(*values):
    return lambda home: np.save(home / "frame_labels_mine.npy", np.array(values, np.uint8))


FRAME = "training/frames/01/005.jpg"
AGAIN = "training/frames/01 && python scripts/prepare_data.py custom --name mine --source SOURCE --out DATA"


@pytest.mark.parametrize(("inject", "words"), [
    (lambda home: (home / FRAME).write_bytes((home / FRAME).read_bytes()[:-40]),
     ["training/01: frame ", "005.jpg is damaged or truncated", AGAIN]),
    (converted(".jpg", lambda image: np.arange(960).reshape(16, 20, 3) // 4, where="training/frames/01"),
     ["training/01: 6 of 7 frames repeat the one before: 001.jpg", AGAIN]),
    (lambda home: (home / FRAME).unlink(), ["training/01: frames seem lost", "004.jpg before 006.jpg", AGAIN]),
    (lambda home: cv2.imwrite(str(home / FRAME), np.zeros((24, 32), np.uint8)), ["6 of 20 x 16 RGB, 1 of 32 x 24 L"]),
    (converted(".jpg", lambda image: image[:12, :16], where="testing"), ["testing frames are 16 x 12 RGB, training"]),
    (converted(".tif", np.float32, where="training/frames/01"), ["float32 pixels", "--depth_range"]),
    (converted(".png", lambda image: image // 16, where="training/frames/01"), ["training/01: ", "of 256 grey levels"]),
    (labels(*7 * [0], *8 * [1]), ["15 labels", "16 frames"]), (labels(*16 * [0]), ["AUC"]),
    (lambda home: (home / "frame_labels_mine.npy").unlink(), ["frame_labels_mine.npy", "--labels"]),
    (lambda home: shutil.rmtree(home / "training"), ["no training frames of mine"]),
    (lambda home: (home / "training/frames/04").mkdir(), ["04 holds no image"])])
def test_fault(mine, inject, words):
    inject(mine)
    notes, problems = check(mine)
    assert len(problems) == 1 and not notes, problems
    assert [word for word in words if word not in problems[0]] == [], problems


def test_nothing_is_wrong(mine):
    """Also with a black start, and files that are no frames."""
    cv2.imwrite(str(mine / "testing/frames/00/000.jpg"), np.zeros((16, 20, 3), np.uint8))
    (mine / "training/frames/01/Thumbs.db").write_bytes(b"not a frame")
    result = run(check_data.main, mine, "--dataset", "mine")
    rows = [line.replace("|", " ").split() for line in result.out.splitlines()]
    assert ["all", "16", "8"] in rows and ["01", "20", "x", "16", "RGB", "JPEG", "95", "7"] in rows
    assert result.out.endswith("frame_labels_mine.npy\nOK\n") and check(mine) == check(mine, "--full") == ([], [])


def test_only_pixels_tell(mine):
    """Damage in the middle of a PNG."""
    (mine / FRAME).unlink()
    cv2.imwrite(str(path := (mine / FRAME).with_suffix(".png")), np.random.default_rng(0).integers(0, 256, (16, 20, 3)))
    path.write_bytes(path.read_bytes()[:500] + bytes(300) + path.read_bytes()[800:])
    assert check(mine) == ([], []) and "005.png is damaged" in check(mine, "--full")[1][0]


def test_labels_compared():
    result = run(check_data.main, "--dataset", "avenue", "--compare-labels")
    rows = [line.replace("|", " ").split() for line in result.out.splitlines()]
    assert ["08", "36", "10", "36", "26"] in rows and ["all", "15324", "3867", "3712", "441"] in rows


@pytest.mark.parametrize("quality", [20, 75, 100])
def test_another_quality_is_noted(mine, quality):
    converted(".jpg", quality=quality, where="testing")(mine)
    notes, problems = check(mine)
    assert problems == [] and f"testing frames are JPEG {quality}, training frames JPEG 95" in notes[0]


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
