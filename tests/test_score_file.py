"""Score files, ours and other programs': what is read is what was written; what does not fit is said, not guessed."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import Code, made_scores, published, refusal, write_data_set

from lgn_net.config import Config, with_knobs
from lgn_net.data.videos import natural_key
from lgn_net.datasets import BENCHMARKS
from lgn_net.scores.evaluation import open_evaluation, read_any
from lgn_net.scores.score_file import VideoScores, read_scores, write_scores

HEADER = "video,frame,psnr,distance,label\n"
LINES = "a,4,30,0.1,0\na,5,31,0.2,1\nb,4,20.5,0.3,0\nb,5,21,0.4,1\n"
SIGNALS = ("psnr", "distance")


def opened(path, dataset=None, source="auto", **given):
    """A file of scores as the command line reads it."""
    args = {"dataset_path": None, "labels": None, "direction": "normal", "drop_first": None, "crop": None} | given
    return read_any(str(path), with_knobs(Config(), {"data.label_source": source}), SimpleNamespace(**args), dataset)


def same(first, second):
    """Whether two lists of videos are equal to the last bit, in names, frames, signals and labels."""
    plain = [[(v.name, v.frames.tolist(), {name: x.tolist() for name, x in v.signals.items()}, v.labels.tolist())
              for v in videos] for videos in (first, second)]
    return plain[0] == plain[1]


def save(path, array):
    np.save(path, array)
    return str(path)


def folder_of(path, arrays, save=np.save, suffix=".npy"):
    path.mkdir(exist_ok=True)
    for name, x in arrays.items():
        save(path / f"{name}{suffix}", x)
    return str(path)


def test_round_trip_is_exact(tmp_path):
    """Numbers no decimal of which may go, and the names that folders can have."""
    rng, videos = np.random.default_rng(0), []
    names = ["01", "1", "a,b", 'quo"te', "a b", "Köln", "#x", "line\r\nbreak", "-1", "'-1", "'x", "=a", "nan", "video"]
    for v, name in enumerate(sorted(names, key=natural_key)):
        n = 2 + v
        signals = {"psnr": rng.normal(30, 5, n), "distance": rng.random(n) * 10.0**rng.integers(-300, 90, n),
                   "memory_updated": rng.integers(0, 2, n).astype(float)}
        signals["psnr"][:2] = np.nextafter(1, 2), 0.1 + 0.2
        videos.append(VideoScores(name, np.arange(4, 4 + n), signals, rng.integers(0, 2, n).astype(np.uint8)))
    write_scores(tmp_path / "s.csv", videos)
    assert same(videos, read_scores(tmp_path / "s.csv", SIGNALS))
    write_scores(tmp_path / "u.csv", videos, labelled=False)
    bare = [video._replace(labels=0 * video.labels) for video in videos]
    assert same(bare, read_scores(tmp_path / "u.csv", SIGNALS, labelled=False))
    assert "label" in refusal(read_scores, tmp_path / "u.csv", SIGNALS)


@pytest.mark.parametrize("text", [
    "\ufeff" + "\n" + HEADER.replace(",", " , ") + "\n" + LINES.replace(",", ", ") + "\n \n,,,,\n",
    (HEADER + LINES).replace("\n", ",,\r\n").replace(",4,", ",4.0,"),
    "label,video,psnr,distance,frame\n0,a,30,0.1,4\n1,a,31,0.2,5\n0,b,20.5,0.3,4\n1,b,21,0.4,5\n",
    HEADER + "".join(line + "\n" for line in reversed(LINES.splitlines())),
    (HEADER + LINES).replace(",", "\t").encode("utf-16"),
], ids=["blank lines", "empty columns", "columns", "order of lines", "Excel's"])
def test_what_a_spreadsheet_makes_of_it(tmp_path, text):
    (tmp_path / "s.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "plain.csv").write_text(HEADER + LINES)
    assert same(*(read_scores(tmp_path / name, SIGNALS) for name in ("s.csv", "plain.csv")))


@pytest.mark.parametrize("text, word", [
    (HEADER, "header"), (b"\x89PNG\r\n\x1a\n\0\xff", "lacks the columns"),
    ("frame,psnr\n1,2\n", "video, distance, label"),
    (HEADER + "a,4,30,0.1,0\n\na,5,31\n", "cut off"), (HEADER + LINES + "a,6,good,0.1,0\n", "psnr.*'good'"),
    *((HEADER + f"a,{t},30,0.1,0\n", "whole number") for t in ("-1", "4.5", "", "inf")),
    (HEADER + "a,4,30,0.1,2\n", "0 or 1"),
    (HEADER + LINES + "\na,5,31,0.25,1\n", "video a, frame 5.*twice"),
    (HEADER + "a,4,nan,0.1,0\na,5,30,inf,0\n", "no frame with finite psnr and distance"),
], ids=lambda value: repr(value)[:40])
def test_what_is_refused(tmp_path, text, word):
    (tmp_path / "s.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert re.search(f"s\\.csv.*{word}", refusal(read_scores, tmp_path / "s.csv", SIGNALS))


def test_other_labels_for_the_same_scores(tmp_path):
    """From a file, a folder, and those that ship; each by the frame's own index."""
    official, own = published("avenue"), made_scores(published("avenue", "ano_pred", 4))
    write_scores(tmp_path / "s.csv", own)
    masks = folder_of(tmp_path / "masks", official)
    flat = save(tmp_path / "flat.npy", np.concatenate(list(official.values()))[None])
    for dataset, source, labels in (("avenue", "official", None), (None, "auto", masks), ("avenue", "auto", flat)):
        evaluation = opened(tmp_path / "s.csv", dataset, source, labels=labels)
        assert all(video.labels.tolist() == official[video.name][4:].tolist() for video in evaluation.videos)
        assert evaluation.about["labels"] == (labels or str(BENCHMARKS["avenue"].truths["official"]))
    assert same(opened(tmp_path / "s.csv", "avenue").videos, own)                  # a data set's name changes no label
    # The name in the results beside the scores is enough; what hangs on the labels goes with them.
    (tmp_path / "results.json").write_text(json.dumps({"signals": {"psnr": 0.6, "distance": -0.4}, "dataset": "avenue",
                                                       "checkpoint": "last.pt", "quality": {"ssim": 0.5}}))
    videos, weights, _, about = opened(tmp_path / "s.csv", source="official")
    assert sum(video.labels.sum() for video in videos) == sum(y[4:].sum() for y in official.values())
    assert about["checkpoint"] == "last.pt" and "quality" not in about and weights == {"psnr": 0.6, "distance": -0.4}


def test_scores_and_labels_that_do_not_fit(tmp_path):
    (tmp_path / "s.csv").write_text(HEADER + LINES)
    masks, ped2 = folder_of(tmp_path / "masks", {"a": np.zeros(6)}), {"dataset": "ped2"}
    for n in (1962, 1963):
        np.save(tmp_path / f"{n}.npy", np.zeros(n))
    for name, given, words in (("s.csv", {"labels": masks}, "masks.*video 'b'"),
                               ("s.csv", ped2 | {"source": "official"}, "ped2.json.*'a'.*01, 02, 03"),
                               ("s.csv", ped2 | {"source": "ano_pred"}, "no ano_pred labels of ped2"),
                               ("1962.npy", ped2, "1962 scores.*2010 frames.*4 missing in each.*--drop-first 4"),
                               ("1963.npy", ped2 | {"crop": "4:"}, "1963 scores.*other videos"),
                               ("1962.npy", ped2 | {"crop": "8"}, "--crop 8")):
        assert re.search(words, refusal(opened, tmp_path / name, **given))


def test_neighbours_of_the_scores(tmp_path):
    """Calibration by training frames that lie spread, and the folders in which an evaluation is found."""
    videos, weights, last = made_scores({"a": np.arange(40) % 2}), {"psnr": 0.3, "distance": -0.7}, "evaluation_last"
    spread = [made_scores({"t": np.zeros(10)}, seed=1)[0]._replace(frames=np.arange(4, 90, 9))]
    for name in ("evaluation_best", last):
        write_scores(tmp_path / name / "scores.csv", videos)
        write_scores(tmp_path / name / "calibration.csv", spread, labelled=False)
        (tmp_path / name / "results.json").write_text(json.dumps({"signals": weights, "name": name}))
    for folder in (tmp_path, tmp_path / last):
        found, place = open_evaluation(folder)
        assert same(found.videos, videos) and same(found.training, spread) and place == tmp_path / last
        assert found.weights == weights and found.about["name"] == last
    (tmp_path / last / "results.json").write_text("{")
    assert "damaged" in refusal(open_evaluation, tmp_path / last)


TRUTH = {"x1": np.array([0, 0, 0, 0, 0, 1, 1, 0]), "x2": np.array([0, 0, 0, 1, 0, 0]),
         "x10": np.array([0, 1, 0, 0, 0, 0, 1])}
SCORES = {"x1": np.linspace(1, 0, 8), "x2": np.array([0.5, 0.25, 0.75, -2, 1e-9, 0.5]), "x10": np.arange(7) / 7}


@pytest.fixture
def masks(tmp_path):
    """TRUTH as a folder of labels."""
    return folder_of(tmp_path / "masks", TRUTH)


@pytest.mark.parametrize("rule, first, last", [({"drop_first": 2}, 2, None), ({"crop": "1:-2"}, 1, -2)], ids=str)
def test_every_form_of_the_same_scores(tmp_path, masks, rule, first, last):
    """And with labels from one file, where the scores of a folder or a table say how long the videos are."""
    cut = {name: x[first:last] for name, x in SCORES.items()}
    flat = np.concatenate(list(cut.values()))
    text = "\n".join(map(repr, flat.tolist()))
    for name, array in (("flat", flat), ("row", flat[None]), ("column", flat[:, None])):
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "bare.csv").write_text(text + "\n\n")
    (tmp_path / "named.csv").write_text("\ufeffnormality of a frame\r\n" + text.replace("\n", "\r\n"))
    (tmp_path / "row.txt").write_text(text.replace("\n", " "))
    rows = [f"{name},{t},{float(x[t])!r}" for name, x in SCORES.items() for t in range(len(x))[first:last]]
    (tmp_path / "table.csv").write_text("\n".join(["video,frame,score", *reversed(rows)]) + "\n\n")
    folders = folder_of(tmp_path / "npy", cut), folder_of(tmp_path / "txt", cut, np.savetxt, ".txt")
    forms = [*tmp_path.glob("*.*"), *folders]
    one_file = save(tmp_path / "labels.npy", np.concatenate(list(TRUTH.values()))[None])
    expected = [VideoScores(name, np.arange(len(y))[first:last], {"score": cut[name]}, y[first:last])
                for name, y in TRUTH.items()]
    for path, labels in (*((path, masks) for path in forms), (folders[0], one_file)):
        assert same(opened(path, labels=labels, **rule).videos, expected), path
    assert len(forms) == 9


def test_where_labels_come_from(tmp_path):
    """Beside the frames, from those that ship, from the table itself; or nowhere."""
    write_data_set(tmp_path)
    scores = save(tmp_path / "s.npy", np.arange(18 - 2 * 4))
    videos = opened(scores, "made", dataset_path=str(tmp_path), drop_first=4).videos
    assert [video.labels.tolist() for video in videos] == [[0, 1, 1, 0], [1, 0, 0, 0, 1, 1]]
    videos = opened(save(tmp_path / "a.npy", np.zeros(15324)), "avenue", "official").videos
    assert {video.name: video.labels.tolist() for video in videos} == {
        name: y.tolist() for name, y in published("avenue").items()}
    assert "where a video ends" in refusal(opened, scores)
    (tmp_path / "t.csv").write_text("video,frame,score,label\n1,0,0.5,0\n01,0,0.25,1\n1,1,0.75,1\n01,1,1,0\n")
    assert {v.name: (v.signals["score"].tolist(), v.labels.tolist()) for v in opened(tmp_path / "t.csv").videos} == {
        "01": ([0.25, 1], [1, 0]), "1": ([0.5, 0.75], [0, 1])}


def test_files_of_other_videos(tmp_path, masks):
    path = folder_of(tmp_path / "scores", {f"test_{v}": x for v, x in enumerate(SCORES.values(), 8)})       # 8, 9, 10
    with pytest.warns(UserWarning, match="test_8 is video x1, test_10 is video x10"):
        videos = opened(path, labels=masks).videos
    assert [video.signals["score"].tolist() for video in videos] == [x.tolist() for x in SCORES.values()]
    (tmp_path / "scores/test_9.npy").unlink()
    assert re.search("2 videos.*of 3.*x1", refusal(opened, path, labels=masks))
    shifted = {"x1": np.zeros(9), "x2": np.zeros(5), "x10": np.zeros(7)}                       # as many in all
    assert "video x1: 9" in refusal(opened, folder_of(tmp_path / "shifted", shifted), labels=masks)
    for row, word in (("x3,0,1", "'x3'"), ("x2,6,1", "frame 6")):
        (tmp_path / "table.csv").write_text(f"video,frame,score\nx1,0,1\n{row}\n")
        assert word in refusal(opened, tmp_path / "table.csv", labels=masks)


def test_arrays_that_are_no_scores(tmp_path, masks):
    mark, path = tmp_path / "exploded", tmp_path / "s.npy"
    for array in (np.array([Code(mark.touch, ())] * 21, object), np.zeros((3, 7)), np.array(["1"] * 21), np.zeros(0)):
        np.save(path, array, allow_pickle=True)
        assert str(path) in refusal(opened, path, labels=masks) and not mark.exists()
    for name, content in (("s.npy", "1\n2"), ("s.csv", "score\n"), ("s.csv", "1\ntwo\n3"), ("s.csv", "1,2\n3,4")):
        (tmp_path / name).write_text(content)
        assert name in refusal(opened, tmp_path / name, labels=masks), content


def test_scores_that_are_not_finite(tmp_path, masks):
    scores = SCORES | {"x1": np.where(TRUTH["x1"] == 1, np.inf, SCORES["x1"]), "x2": np.full(6, np.nan)}
    with pytest.warns(UserWarning, match="8 of 21 frames .* video x1, frame 5"):
        videos = opened(folder_of(tmp_path / "s", scores), labels=masks).videos
    assert [(video.name, len(video.frames)) for video in videos] == [("x1", 6), ("x10", 7)]
