"""Every label format against the same truth, written by hand; and whatever does not fit the videos is refused."""

import hashlib
import json
import pickle
import re
import warnings

import numpy as np
import pytest
import scipy.io
from helpers import ROOT

from lgn_net.data.labels import find_labels, load_label_folder, load_labels, match_names, shipped_truths
from lgn_net.datasets import BENCHMARKS
from lgn_net.errors import UserError

# Three videos: two ranges, nothing, the first and the last frame.
VIDEOS = {"a": 6, "b": 3, "c": 5}
TRUTH = [[0, 1, 1, 0, 1, 0], [0, 0, 0], [1, 0, 0, 0, 1]]
FLAT = np.concatenate(TRUTH)


def load(path, videos=VIDEOS):
    labels = load_labels(path, videos)
    assert list(labels) == list(videos) and all(array.dtype == np.uint8 for array in labels.values())
    return [array.tolist() for array in labels.values()]


@pytest.fixture
def write(tmp_path):
    """name, content -> a file; arrays go to .npy, lists of matrices to .mat."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, np.ndarray):
            np.save(path, content, allow_pickle=True)
        elif isinstance(content, list):
            scipy.io.savemat(path, {"gt": np.array([*content, None], object)[:-1]})
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


UNREAL = ["9" * 5000, "1e400", "NaN", "-1", "2020-01-01", "0.5", "", "[" * 9999]                  # no frames
MAT = [[[2, 5], [3, 5]], np.zeros((2, 0)), [[1, 5], [1, 5]]]                      # first row: starts, from 1


def ucsd(*ranges):
    return "TestVideoFile = {};\n" + "".join(f"TestVideoFile{{end+1}}.gt_frame = [{r}];\n" for r in ranges)


def as_json(**other):
    return json.dumps({"videos": list(VIDEOS), "frames": [6, 3, 5],
                       "abnormal": [[[1, 2], [4, 4]], [], [[0, 0], [4, 4]]]} | other)


RANGES = "video,start,end\na,1,2\na,4,4\nc,0,0\nc,4,4\n"
LABELS = "video,frame,label\n" + "".join(f"{video},{t},{label}\n" for video, labels in zip(VIDEOS, TRUTH)
                                         for t, label in enumerate(labels))


@pytest.mark.parametrize(("name", "content"), [
    ("l.npy", FLAT), ("l.npy", FLAT[None]), ("l.npy", FLAT.astype(np.float64)), ("l.mat", MAT),
    ("l.m", ucsd("2:3, 5:5", "", "1 5")), ("l.json", as_json()), ("l.csv", RANGES), ("l.csv", LABELS),
    ("l.mat", [[[2, 3], [5, 5], [5, 5]], MAT[1], MAT[2]]), ("l.json", json.dumps(dict(zip(VIDEOS, TRUTH)))),
    ("l.tsv", RANGES.replace(",", "\t") + "b\t\t\nb\t-1\tNaN\n"),
    ("l.csv", RANGES.replace("\n", ",1\n").replace("end,1", "end,class") + "b,0,2,Normal\nb,0,1,0\n"),
    # Dialects of CSV: separators, encodings, spaces, words, further columns and lines, other names of columns.
    *(("l.csv", RANGES.replace(",", other)) for other in (";", "\t", ", ", " ,", "  ")),
    ("l.csv", RANGES.replace("\n", ", Köln\n").encode("utf-8-sig")), ("l.csv", RANGES.replace("\n", "\r\n\r\n")),
    ("l.csv", "VIDEO,START,End" + RANGES[15:]), ("l.csv", RANGES.replace("\n", ",\n")),
    ("l.csv", RANGES.replace("\n", ".0\n").replace("end.0", "end")),
    ("l.csv", RANGES.replace(",", ";").replace("4\n", "4,0\n")), ("l.csv", RANGES.replace("\na", '\n"a"')),
    ("l.csv", "video_name,Start Frame,end_frame" + RANGES[15:]),
    ("l.csv", "".join(f"{'' if k == 0 else k - 1},{line}\n" for k, line in enumerate(RANGES.splitlines()))),
    ("l.csv", LABELS.replace(",1\n", ",True\n").replace(",0\n", ",False\n")),
    *(("l.csv", "Video_Frame,Label\n" + re.sub(r"^(\w),(\d),", form, LABELS[18:], flags=re.MULTILINE))
      for form in (r"\1_\2,", r"\1/00\2.jpg,"))])
def test_formats(write, name, content):
    assert load(write(name, content)) == TRUTH


@pytest.mark.parametrize(("videos", "names", "means"), [
    (["01", "02", "10"], ["1", "2", "10"], "01 02 10"), (["01", "02"], ["Test001", "Test002.avi"], "01 02"),
    (["cam1", "Köln"], ["CAM1.MP4", "köln.mov"], "cam1 Köln"), (["01", "02"], ["1.0", "2.0"], "01 02"),
    (["01_0014", "01_0015"], ["1_14", "01_0015.npy"], "01_0014 -"),
    (["01", "1"], ["001", "1"], "01 1"), (["01", "001"], ["1"], "-"), (["01"], ["1", "001"], "- -"),
    (["a1", "a2"], ["b1", "b2"], "- -"), (["12"], ["1_2", "cam1"], "- -")])
def test_names(videos, names, means):
    """By number where that is unambiguous, with a remark."""
    with warnings.catch_warnings(record=True) as remarks:
        found = match_names(names, videos, "l.csv")
    assert [found.get(name, "-") for name in names] == means.split()
    assert len(remarks) == any(name != video for name, video in found.items())


def test_special_cases(write, tmp_path):
    named = write("l.json", as_json())
    assert load(named, {"c": 5, "a": 6}) == [TRUTH[2], TRUTH[0]]                  # a part of the videos, by name
    by_number = "video,start,end\n1,1,2\n1,4,4\n3.mp4,0,0\n3.mp4,4,4\n"
    for path in write("l.csv", by_number), write("l.json", as_json(videos=["1", "Test002", "3"])):
        with pytest.warns(UserWarning, match="1 for 01"):
            assert load(path, {"01": 6, "02": 3, "03": 5}) == TRUTH
    write("10.npy", np.array([0, 1, 1], np.int8))
    write("9.npy", np.array([1, 0], np.int8))
    assert load(tmp_path, {"9": 2, "10": 3}) == [[1, 0], [0, 1, 1]] and list(load_label_folder(tmp_path)) == ["9", "10"]
    write("9.npy", np.array([-1, 1]))
    for folder, said in (tmp_path, "-1"), (tmp_path.parent / "none", "<video>.npy"):
        folder.mkdir(exist_ok=True)
        with pytest.raises(UserError, match=said):
            load(folder, {"9": 2})


@pytest.mark.parametrize(("name", "content", "said"), [
    ("l.npy", FLAT[:-1], ["13", "14"]), ("l.npy", FLAT * 0.5, ["0.5"]), ("l.npy", FLAT.reshape(2, 7), ["(2, 7)"]),
    ("l.mat", MAT[:2], []), ("l.mat", [[[0], [2]], [], []], ["video a"]), ("l.json", as_json(abnormal=None), []),
    ("l.json", as_json(frames=[6, 4, 5]), ["[6, 4, 5] frames"]),
    ("l.csv", "video,start,end\na,1,2\nd,0,1", ["line 3", "'d'"]), ("l.csv", "video,start,end\na,4,6", ["4 to 6"]),
    ("l.csv", "video,start,end\na,3,2", ["video a"]), ("l.csv", "video,start,end\na,1", ["line 2"]),
    ("l.csv", "video,start,end,start2,end2\na,1,2,3,4", ["start2, end2"]),
    ("l.csv", "video,start,end,start,end\na,1,2,3,4", ["start, end"]),
    ("l.csv", "video,frame,label\na,1,2", ["{2}"]), ("l.csv", "a,1,2", ["expected video,start,end"]),
    *(("l.csv", f"video,start,end\na,1,{text}\n", ["line 2"]) for text in UNREAL),
    *(("l.json", as_json().replace("[1, 2]", f"[1, {text}]"), []) for text in UNREAL),
    ("l.npy", np.array([{}] * 14, object), []), ("l.mat", b"hello", ["damaged"]), ("l.txt", "0 1", [".txt"])])
def test_what_does_not_fit(write, name, content, said):
    """One sentence, whatever a number may be."""
    path = write(name, content)
    with pytest.raises(UserError) as caught:
        load_labels(path, VIDEOS)
    sentence = str(caught.value)
    assert [word for word in [str(path), *said] if word not in sentence] == [] and "\n" not in sentence, sentence
    assert len(sentence) < 900


def test_recipes_for_other_forms(write, tmp_path, monkeypatch):
    """Those of docs/data.md, run as they stand."""
    monkeypatch.chdir(tmp_path)
    write("Temporal_Anomaly_Annotation_for_Testing_Videos.txt", "a.mp4  Abuse  1  3  4  5 \nc.mp4  Arson  0  1  4  5\n"
          "b.mp4  Normal  -1  -1  -1  -1\n")
    (tmp_path / "x").mkdir()
    for name, lines in {"a": "1,1.0,2.0\n2,4,4\n", "c": "1,0,0\n\n1,4,4\n"}.items():
        write(f"x/{name}_tracks.txt", lines)
    write("gt_label.json", pickle.dumps({f"{name}.npy": np.array(y) for name, y in zip(VIDEOS, TRUTH)}))
    blocks = re.findall(r"```python\n(# .*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)
    for block, made in zip(blocks, ("labels.csv", "labels.csv", "labels"), strict=True):
        exec(block, {})
        assert load(tmp_path / made) == TRUTH


def test_find_labels(tmp_path):
    """Files beside the frames, in this order, go before those that ship."""
    split = tmp_path / "shanghai" / "testing" / "frames"
    split.mkdir(parents=True)
    places = [folder / name for folder in (tmp_path / "shanghai", tmp_path)
              for name in ("frame_labels_shanghaitech.npy", "shanghaitech.mat", "frame_labels_shanghai.npy",
                           "shanghai.mat", "labels.csv")]
    with pytest.raises(UserError, match=r"frame_labels_shanghai\.npy.*--labels"):
        find_labels(tmp_path, "shanghai", split)
    shipped = BENCHMARKS["avenue"].truths
    assert find_labels(tmp_path, "avenue", split) == shipped["ano_pred"]
    (split.parent / "test_frame_mask").mkdir()                                    # ShanghaiTech's own
    assert find_labels(tmp_path, "shanghai", split) == split.parent / "test_frame_mask"
    for place in reversed(places):                                                # each goes before all later ones
        place.touch()
        assert find_labels(tmp_path, "shanghai", split) == place
    assert find_labels(tmp_path, "avenue", split, "official") == shipped["official"]


@pytest.mark.parametrize(("dataset", "source", "abnormal", "throughout"), [
    ("ped2", "official", 1648, ["08", "09", "10", "11"]), ("avenue", "official", 3712, ["08", "18"]),
    ("avenue", "ano_pred", 3867, [])])
def test_shipped(dataset, source, abnormal, throughout):
    """They are what was published, to the bit, and of all published videos; a part is taken by name, not by guess."""
    path, lengths = BENCHMARKS[dataset].truths[source], BENCHMARKS[dataset].lengths["testing"]
    labels = load_labels(path, lengths)
    every = np.concatenate(list(labels.values()))
    assert every.sum() == abnormal and [name for name, y in labels.items() if y.all()] == throughout
    assert hashlib.sha256(every.tobytes()).hexdigest() == json.loads(path.read_text())["sha256"]
    assert load(path, {"12": lengths["12"], "03": lengths["03"]}) == [labels["12"].tolist(), labels["03"].tolist()]
    for videos in ({"01": 170, "02": 180}, {"x": 180, "y": 180}, lengths | {"99": 180}):
        with pytest.raises(UserError, match="--labels"):
            load_labels(path, videos)


def test_shipped_truths():
    lengths, truths = BENCHMARKS["avenue"].lengths["testing"], BENCHMARKS["avenue"].truths
    official, other = (load_labels(truths[source], lengths) for source in ("official", "ano_pred"))
    frames, scored = [np.arange(4, length) for length in lengths.values()], [y[4:] for y in other.values()]
    for dataset in ("avenue", None):
        found = shipped_truths(list(lengths), frames, scored, dataset)
        assert list(found) == ["ano_pred", "official"]
        assert all(np.array_equal(a[4:], b) for a, b in zip(official.values(), found["official"], strict=True))
    few = list(lengths)[:2], frames[:2], scored[:2]                               # alike by accident, unless named
    assert shipped_truths(*few) == {} and len(shipped_truths(*few, "avenue")) == 2
    scored[2][9] ^= 1
    assert shipped_truths(list(lengths), frames, scored, "avenue") == {}
