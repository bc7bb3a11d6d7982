"""scripts/check_data.py: every fault put into a small data set is found and named, and nothing else is."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import load_script, run
from PIL import Image

from lgn_net.datasets import BENCHMARKS
from lgn_net.preparation.doctor import check_counts, check_labels, look

H, W, T = 96, 128, 12
VIDEOS = {"training": ("01", "02", "03"), "testing": ("01", "02")}
check_data = load_script("scripts/check_data.py")


def scene(seed, t, shape=(H, W, 3)):
    """A frame (H, W, 3) of a noisy colour camera."""
    rng = np.random.default_rng((seed, t))
    rough = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.add(cv2.resize(rough, shape[1::-1]), rng.integers(0, 12, shape, np.uint8))


def write(path, image, quality=95):
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, quality])


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    """DATA with a clean data set `mine`: 3 + 2 videos of T frames, the second half of each test video abnormal."""
    root = tmp_path_factory.mktemp("clean")
    for s, (split, names) in enumerate(VIDEOS.items()):
        for v, name in enumerate(names):
            folder = root / "mine" / split / "frames" / name
            folder.mkdir(parents=True)
            for t in range(T):
                write(folder / f"{t:03d}.jpg", scene(10 * s + v, t))
    labels(root / "mine", [0] * 6 + [1] * 6 + [0] * 6 + [1] * 6)
    return root


@pytest.fixture
def data(clean, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(clean, tmp_path / "data"))


def labels(folder, values):
    np.save(folder / "frame_labels_mine.npy", np.array(values, np.uint8))


def check(data, *argv, dataset="mine"):
    """Status and findings, each as (level, check), and their sentences in one string."""
    result = run(check_data.main, data, "--dataset", dataset, "--json", *argv)
    assert "warning" not in result.err and "error" not in result.err, result.err                 # but perhaps a bar
    content = json.loads(result.out)
    assert content["ok"] == (result.status == 0)
    return result.status, sorted((f["level"], f["check"]) for f in content["findings"]), \
        "\n".join(f"{f['text']} -> {f['fix']}" for f in content["findings"])


def frames(data, video="training/02"):
    split, name = video.split("/")
    return data / "mine" / split / "frames" / name


# ------------------------------------------------------------------------------------------------ nothing is wrong

@pytest.mark.parametrize("full", [[], ["--full"]])
def test_clean(clean, full):
    assert check(clean, *full) == (0, [], "")
    assert check(clean / "mine", *full) == (0, [], "")


def test_names_mean_nothing(data):
    """Other numberings and suffixes are no fault, as long as they are one numbering."""
    for t, path in enumerate(sorted(frames(data).iterdir())):
        path.rename(path.with_name(f"cam2_{5 * t + 700}_v1.JPEG"))
    for t, path in enumerate(sorted(frames(data, "testing/01").iterdir())):
        path.rename(path.with_name(f"2024-03-01_12-{t // 5:02d}-{t * 37 % 60:02d}.jpg"))
    (frames(data) / "Thumbs.db").write_bytes(b"not a frame")
    (frames(data) / ".hidden.jpg").write_bytes(b"not a frame")
    assert check(data) == (0, [], "")


def test_printed(data):
    (frames(data) / "005.jpg").write_bytes(b"")
    result = run(check_data.main, data, "--dataset", "mine")
    lines = result.out.splitlines()
    assert lines[1].split() == ["video", "frames", "published", "names", "size", "colour", "format", "MB"]
    assert lines[2].split()[:11] == ["01", "12", "-", "000", "to", "011", "128", "x", "96", "colour", "JPEG"]
    assert lines[5].split()[:2] == ["all", "36"]
    assert result.status == 1 and "02/005.jpg (0 bytes)" in result.out
    assert result.out.endswith(f" --name mine --out {data}\n1 problem\n")


# ------------------------------------------------------------------------------------------------------ the faults

def again(data, change, *videos, start=0):
    """`change(path, image, t)` for every frame of the videos, of both testing videos where none is given."""
    for video in videos or ("testing/01", "testing/02"):
        for t in range(start, T):
            path = frames(data, video) / f"{t:03d}.jpg"
            change(path, cv2.imread(str(path)), t)


def cut(data, name, length):
    path = frames(data) / name
    path.write_bytes(path.read_bytes()[:length])


def stuck(data):
    for t in range(4, 12):
        shutil.copy(frames(data) / "003.jpg", frames(data) / f"{t:03d}.jpg")


def grey(data, video):
    path = frames(data, video) / "005.jpg"
    write(path, cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))


def as_png(path, image, t):
    write(path.with_suffix(".png"), image)
    path.unlink()


def leak(data):
    shutil.rmtree(frames(data, "testing/02"))
    shutil.copytree(frames(data, "training/03"), frames(data, "testing/02"))


def half(path, image, t):
    write(path, image[::2, ::2])


PROBLEM = {name: ("problem", name) for name in
           ("damage", "names", "repeats", "size", "colour", "quality", "copies", "labels", "split")}
NOTE = {name: ("note", name) for name in ("names", "repeats", "format", "quality", "labels")}
FAULTS = {
    "truncated": (lambda d: cut(d, "005.jpg", -40), [PROBLEM["damage"]], ["training: ", "02/005.jpg ("]),
    "html": (lambda d: (frames(d) / "005.jpg").write_text("<html>not found</html>"), [PROBLEM["damage"]],
             ["02/005.jpg (22 bytes)", "prepare_data.py custom"]),
    "duplicate": (lambda d: shutil.copy(frames(d) / "004.jpg", frames(d) / "005.jpg"), [NOTE["repeats"]],
                  ["02 (1 of 12, up to 1 in a row, first 005.jpg)"]),
    "stuck": (stuck, [PROBLEM["repeats"]], ["02 (8 of 12, up to 8 in a row, first 004.jpg)", "frame rate"]),
    "deleted": (lambda d: (frames(d) / "005.jpg").unlink(), [PROBLEM["names"]], ["02 (004.jpg is followed by 006.jpg"]),
    "deleted_tested": (lambda d: (frames(d, "testing/02") / "005.jpg").unlink(), [PROBLEM["labels"], PROBLEM["names"]],
                       ["02 (004.jpg is", "24 labels", "23 frames"]),
    "deleted_first": (lambda d: (frames(d) / "000.jpg").unlink(), [NOTE["names"]], ["from 0", "02 (from 1)"]),
    "renamed": (lambda d: (frames(d) / "005.jpg").rename(frames(d) / "img005.jpg"), [PROBLEM["names"]],
                ["02 (img005.jpg beside 000.jpg"]),
    "copied": (lambda d: shutil.copy(frames(d) / "005.jpg", frames(d) / "005 (1).jpg"),
               [NOTE["repeats"], PROBLEM["names"]], ["02 (005 (1).jpg beside 000.jpg", "first 005.jpg"]),
    "two_of_a_number": (lambda d: write(frames(d) / "005.png", scene(99, 0)), [NOTE["format"], PROBLEM["names"]],
                        ["02 (005.jpg and 005.png"]),
    "resized": (lambda d: write(frames(d) / "005.jpg", scene(0, 5, (H // 2, W // 2, 3))), [PROBLEM["size"]],
                ["02 (11 128 x 96 from 000.jpg and 1 64 x 48 from 005.jpg)"]),
    "resized_one": (lambda d: again(d, half, "testing/02"), [PROBLEM["size"]],
                    ["training frames are 128 x 96, testing frames 128 x 96, 64 x 48"]),
    "resized_one_trained": (lambda d: again(d, half, "training/02"), [], []),
    "grey": (lambda d: grey(d, "training/02"), [PROBLEM["colour"]],
             ["02 (11 colour from 000.jpg and 1 grey from 005.jpg)"]),
    "grey_testing": (lambda d: again(d, lambda path, image, t: write(path, cv2.merge(3 * [image[..., 0]]))),
                     [PROBLEM["colour"]], ["training frames are colour, testing frames grey"]),
    "quality": (lambda d: again(d, lambda path, image, t: write(path, image, 60), "training/02", start=7),
                [PROBLEM["quality"]], ["quality 95: 02 (5 of 12 frames, quality 60)"]),
    "bit_rate": (lambda d: again(d, lambda path, image, t: write(path, image, 40 + 5 * t), "training/02"),
                 [NOTE["quality"]], ["varies around 95: 02 (10 of 12 frames, quality 40 to 85)"]),
    "quality_testing": (lambda d: again(d, lambda path, image, t: write(path, image, 75)), [PROBLEM["quality"]],
                        ["training frames are JPEG 95, testing frames JPEG 75"]),
    "png_testing": (lambda d: again(d, as_png), [NOTE["quality"]],
                    ["training frames are JPEG 95, testing frames PNG"]),
    "leak": (leak, [PROBLEM["copies"]], ["testing: ", "02 (those of training 03)"]),
    "short_labels": (lambda d: labels(d / "mine", [0] * 11 + [1] * 12), [PROBLEM["labels"]],
                     ["23 labels", "24 frames", "--labels"]),
    "no_labels": (lambda d: (d / "mine" / "frame_labels_mine.npy").unlink(), [PROBLEM["labels"]],
                  ["frame_labels_mine.npy", "--labels"]),
    "one_class": (lambda d: labels(d / "mine", [0] * 24), [PROBLEM["labels"]], ["0 of 24 frames", "--labels"]),
    "one_video_of_one_class": (lambda d: labels(d / "mine", [0] * 12 + [1] * 12), [NOTE["labels"]],
                               ["abnormal throughout: 02; normal throughout: 01"]),
    "no_training": (lambda d: shutil.rmtree(d / "mine" / "training"), [PROBLEM["split"]],
                    ["no training frames of mine", "prepare_data.py"]),
    "empty_video": (lambda d: (d / "mine" / "training" / "frames" / "04").mkdir(), [PROBLEM["split"]],
                    ["04 holds no image"]),
}


@pytest.mark.parametrize("full", [[], ["--full"]], ids=["fast", "full"])
@pytest.mark.parametrize("fault", FAULTS)
def test_fault(data, fault, full):
    inject, expected, words = FAULTS[fault]
    inject(data)
    status, findings, text = check(data, *full)
    assert findings == sorted(expected), text
    assert status == any(level == "problem" for level, _ in expected)
    assert [word for word in words if word not in text] == [], text


def test_only_pixels_tell(data):
    """What a frame of a video hides behind an equal header, `--full` finds."""
    path = frames(data) / "005.jpg"
    write(path, cv2.merge(3 * [cv2.imread(str(path))[..., 0]]))            # grey, stored as colour
    other = frames(data, "training/03") / "007.jpg"
    pixels = cv2.imread(str(frames(data, "training/03") / "006.jpg"))
    cv2.imwrite(str(other.with_suffix(".png")), pixels)             # the frame before, in pixels
    other.unlink()
    assert check(data)[1] == [NOTE["format"]]
    assert check(data, "--full")[1] == sorted([NOTE["format"], NOTE["repeats"], PROBLEM["colour"]])


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_other_formats(data, suffix):
    for path in list((data / "mine").glob("*/frames/*/*.jpg")):
        cv2.imwrite(str(path.with_suffix(suffix)), cv2.imread(str(path)))
        path.unlink()
    assert check(data) == (0, [], "")
    path = frames(data) / f"005{suffix}"
    path.write_bytes(path.read_bytes()[:-200])
    assert check(data, "--full")[1] == check(data)[1] == [PROBLEM["damage"]]


def test_odd_files(data):
    """A name that is no text, and a folder where a frame should be: no traceback."""
    (frames(data, "training/02") / "003.jpg").unlink()
    (frames(data, "training/02") / "003.jpg").mkdir()
    os.rename(frames(data, "training/03"), os.fsencode(frames(data, "training/03")) + b"\xff")
    for full in ([], ["--full"]):
        assert "02/003.jpg (0 bytes)" in check(data, *full)[2]
        assert "\n03\\udcff " in run(check_data.main, data, "--dataset", "mine", *full).out


def test_black_start(data):
    """A blank frame is neither grey nor colour."""
    write(frames(data) / "000.jpg", np.zeros((H, W, 3), np.uint8))
    assert check(data) == check(data, "--full") == (0, [], "")


@pytest.mark.parametrize("quality", [1, 20, 50, 75, 89, 90, 95, 99, 100])
def test_jpeg_quality(tmp_path, quality):
    write(tmp_path / "cv2.jpg", scene(0, 0), quality)
    Image.fromarray(scene(0, 0)).save(tmp_path / "pillow.jpg", quality=quality)
    assert [look(str(tmp_path / name), False).quality for name in ("cv2.jpg", "pillow.jpg")] == [quality, quality]


# -------------------------------------------------------------------------------------------- the published numbers

LENGTHS = BENCHMARKS["ped2"].test_lengths


@pytest.mark.parametrize(("here", "end", "where"), [
    (LENGTHS, None, None),
    ({f"Test{name}": length for name, length in LENGTHS.items()}, None, None),
    (LENGTHS | {"03": 149}, "03 has 149 of 150 frames", ("03",)),
    (LENGTHS | {"03": 149, "04": 181}, "03 has 149 of 150 frames, 04 has 181 of 180 frames", ("03", "04")),
    ({name: n for name, n in LENGTHS.items() if name != "05"}, "05 has 0 of 150 frames", ("05",)),
])
def test_counts(here, end, where):
    """Against the published ones, also where the sum is right."""
    findings = check_counts("testing", here, "ped2", LENGTHS, "again")
    assert [(f.level, f.where) for f in findings] == ([("problem", where)] if end else [])
    assert not end or findings[0].text.endswith(end)
    assert check_counts("testing", here, "mine", {}, "again") == []


def test_own_labels_of_a_benchmark():
    """Labels that are none of the published ones are pointed out."""
    half = {name: np.arange(length) % 2 for name, length in LENGTHS.items()}
    assert check_labels(half, "mine", None) == check_labels(half, "ped2", "official") == []
    finding, = check_labels(half, "ped2", None)
    assert finding.level == "note" and "--compare-labels FILE official" in finding.text


@pytest.mark.slow
def test_real_ped2(shared_data):
    result = run(check_data.main, shared_data, "--dataset", "ped2", "--json")
    content = json.loads(result.out)
    assert (result.status, content["ok"]) == (0, True)
    assert [(f["level"], f["check"], f["where"]) for f in content["findings"]] == \
        [("note", "labels", ["08", "09", "10", "11"])]
    assert [sum(row["frames"] for row in split["videos"]) for split in content["splits"]] == [2550, 2010]
    assert all(row["frames"] == row["published"] and row["sizes"] == {"360 x 240": row["frames"]}
               and row["colours"] == {"grey": row["frames"]} and row["formats"] == {"JPEG 95": row["frames"]}
               for split in content["splits"] for row in split["videos"])
    assert content["labels"]["abnormal"] == 1648 and content["labels"]["source"] == "official"


# ------------------------------------------------------------------------------------------------------ two truths

def test_avenue_truths():
    result = run(check_data.main, "--dataset", "avenue", "--compare-labels")
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[:2] == [["A:", "official"], ["B:", "ano_pred"]]
    assert ["08", "36", "36", "10", "26", "0", "26"] in lines
    assert ["all", "15,324", "3,712", "3,867", "143", "298", "441"] in lines
    assert result.out.endswith("441 of 15,324 frames differ\n")


def test_two_files(data):
    (data / "a.csv").write_text("video,start,end\n01,6,11\n02,6,11\n")
    (data / "b.csv").write_text("video,start,end\n01,6,11\n02,4,9\n")
    files = (data / "a.csv", data / "b.csv")
    result = run(check_data.main, data, "--dataset", "mine", "--json", "--compare-labels", *files)
    content = json.loads(result.out)
    assert content["different"] == 4 and content["videos"][0]["different"] == 0
    assert content["videos"][1] == {"video": "02", "frames": 12, "abnormal in A": 6, "abnormal in B": 6, "only in A": 2,
                                    "only in B": 2, "different": 4}


# ------------------------------------------------------------------------------------------------------ wrong usage

@pytest.mark.parametrize(("argv", "words"), [
    (["nowhere", "--dataset", "mine"], ["nowhere: no such folder"]),
    (["--dataset", "mine"], ["DATA --dataset mine"]),
    ([".", "--dataset", "nothing_of_that_name"], ["no training frames of nothing_of_that_name"]),
    ([".", "--dataset", "mine", "--compare-labels", "one.npy"], ["two label files, 1 given"]),
    (["--dataset", "ped2", "--compare-labels"], ["two label files", "1 of ped2 ship"]),
])
def test_wrong_usage(argv, words):
    result = run(check_data.main, *argv)
    assert result.status == 2 and result.out == "" and result.err.startswith("error: ")
    assert [word for word in words if word not in result.err] == [] and len(result.err.splitlines()) == 1, result.err
