"""scripts/check_data.py: every fault put into a small data set is found and named, and nothing else is."""

import shutil

import cv2
import numpy as np
import pytest
from helpers import load_script, run

check_data = load_script("scripts/check_data.py")
VIDEOS = {"training": ("01", "02", "03"), "testing": ("01", "02")}
H, W, T = 48, 64, 12


def write(path, seed, quality=95, shape=(H, W, 3)):
    """A frame of a noisy colour camera."""
    rng, picture = np.random.default_rng(seed), np.zeros(shape, np.uint8)
    if seed is not None:                                                              # else a black one
        picture = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), shape[1::-1])
        picture = cv2.add(picture, rng.integers(0, 12, shape, np.uint8))
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, quality])


def labels(folder, values):
    np.save(folder / "mine" / "frame_labels_mine.npy", np.array(values, np.uint8))


@pytest.fixture
def data(tmp_path):
    """DATA with a clean data set `mine`: 3 + 2 videos of T frames, the second half of each test video abnormal."""
    for video in (f"{split}/{name}" for split, names in VIDEOS.items() for name in names):
        frame(tmp_path, "", video).mkdir(parents=True)
        for t in range(T):
            write(frame(tmp_path, f"{t:03d}.jpg", video), (len(video), int(video[-1]), t))
    labels(tmp_path, 2 * ([0] * 6 + [1] * 6))
    return tmp_path


def frame(data, name, video="training/02"):
    split, video = video.split("/")
    return data / "mine" / split / "frames" / video / name


def check(data):
    """What was found: notes, problems."""
    result = run(check_data.main, data, "--dataset", "mine")
    notes, problems = ([line for line in result.out.splitlines() if line.startswith(kind)]
                       for kind in ("note: ", "problem: "))
    assert result.status == (len(problems) > 0), result
    return notes, problems


def converted(suffix, change):
    """All frames of a video as other files."""
    def convert(data):
        for path in frame(data, ".").iterdir():
            cv2.imwrite(str(path.with_suffix(suffix)), change(cv2.imread(str(path))))
            path.unlink()

    return convert


def rewrite(data, **how):
    for video in VIDEOS["testing"]:
        for t in range(T):
            write(frame(data, f"{t:03d}.jpg", f"testing/{video}"), (0, t), **how)


FAULTS = {
    "truncated": (lambda d: frame(d, "005.jpg").write_bytes(frame(d, "005.jpg").read_bytes()[:-40]),
                  ["training/02: frame ", "005.jpg is damaged or truncated"]),
    "resized": (lambda d: write(frame(d, "005.jpg"), 0, shape=(24, 32, 3)), ["11 of 64 x 48, 1 of 32 x 24"]),
    "resized_testing": (lambda d: rewrite(d, shape=(24, 32, 3)), ["testing frames are 32 x 24, training frames 64"]),
    "floats": (converted(".tif", np.float32), ["float32 pixels", "--depth_range"]),
    "dark": (converted(".png", lambda image: image // 16), ["training/02: 16 of 256 grey levels"]),
    "short_labels": (lambda d: labels(d, [0] * 11 + [1] * 12), ["23 labels", "24 frames"]),
    "no_labels": (lambda d: (d / "mine" / "frame_labels_mine.npy").unlink(), ["frame_labels_mine.npy", "--labels"]),
    "one_class": (lambda d: labels(d, [0] * 24), ["AUC"]),
    "no_training": (lambda d: shutil.rmtree(d / "mine" / "training"), ["no training frames of mine"]),
    "empty_video": (lambda d: (d / "mine" / "training" / "frames" / "04").mkdir(), ["04 holds no image"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(data, fault):
    inject, words = FAULTS[fault]
    inject(data)
    notes, problems = check(data)
    assert len(problems) == 1 and not notes, (notes, problems)
    assert [word for word in words if word not in problems[0]] == [], problems


def test_nothing_is_wrong(data):
    """Also with other names, a black start, and files that are no frames."""
    for t in range(T):
        frame(data, f"{t:03d}.jpg").rename(frame(data, f"cam2_{5 * t + 700}_v1.JPEG"))
    write(frame(data, "000.jpg", "testing/01"), None)
    frame(data, "Thumbs.db").write_bytes(b"not a frame")
    result = run(check_data.main, data / "mine", "--dataset", "mine")
    assert "training: 3 videos, 36 frames, 64 x 48, JPEG 95\n" in result.out and check(data) == ([], [])
    assert result.out.endswith("frame_labels_mine.npy, 12 of 24 frames abnormal\nOK\n")


@pytest.mark.parametrize("quality", [20, 75, 100])
def test_another_quality_is_noted(data, quality):
    rewrite(data, quality=quality)
    note = f"note: testing frames are JPEG {quality}, training frames JPEG 95; make them alike"
    assert check(data) == ([note], [])


@pytest.mark.slow
def test_real_ped2(shared_data):
    result = run(check_data.main, shared_data, "--dataset", "ped2")
    assert result.status == 0 and result.out.endswith("ped2.json, 1648 of 2010 frames abnormal\nOK\n")
    assert "training: 16 videos, 2550 frames, 360 x 240, JPEG 95" in result.out and "note: " not in result.out
