"""Score files, ours and other programs': what is read is what was written; what does not fit is said, not guessed."""

import re
import warnings

import numpy as np
import pytest
from helpers import Bomb

from lgn_net.data.labels import read_ranges
from lgn_net.data.videos import natural_key
from lgn_net.datasets import BENCHMARKS
from lgn_net.errors import UserError
from lgn_net.scores.evaluation import LabelSource, open_evaluation, read_evaluation, read_foreign_evaluation, relabel
from lgn_net.scores.foreign import parse_rule
from lgn_net.scores.protocols import Protocol, measure, paper_weights
from lgn_net.scores.results import Results, write_results
from lgn_net.scores.score_file import VideoScores, read_scores, write_scores

HEADER = "video,frame,psnr,distance,label\n"
LINES = "a,4,30,0.1,0\na,5,31,0.2,1\nb,4,20.5,0.3,0\nb,5,21,0.4,1\n"
SIGNALS = ("psnr", "distance")


def quietly(function, *args, **kwargs):
    """The result; warnings are failures."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*args, **kwargs)


def read(tmp_path, text):
    """A file with this content, read without a warning."""
    (tmp_path / "s.csv").write_bytes(text.encode())
    return quietly(read_scores, tmp_path / "s.csv", SIGNALS)


def refusal(function, *args):
    """The one-line sentence of the UserError."""
    with warnings.catch_warnings(), pytest.raises(UserError) as caught:
        warnings.simplefilter("ignore", UserWarning)
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(first, second):
    """Whether two lists of videos are equal to the last bit, in names, frames, signals and labels."""
    plain = [[(v.name, v.frames.tolist(), {name: x.tolist() for name, x in v.signals.items()}, v.labels.tolist())
              for v in videos] for videos in (first, second)]
    assert plain[0] == plain[1]
    return True


# ------------------------------------------------------------------------------------------------------ our own file

def test_round_trip_is_exact(tmp_path):
    """Numbers no decimal of which may go, and the names that folders can have."""
    rng, videos = np.random.default_rng(0), []
    names = ["01", "1", "a,b", 'quo"te', "a b", "Köln", "#x", "line\r\nbreak", "-1", "nan", "video"]
    for v, name in enumerate(sorted(names, key=natural_key)):
        n = 2 + v
        signals = {"psnr": rng.normal(30, 5, n), "distance": rng.random(n) * 10.0**rng.integers(-300, 90, n),
                   "memory_updated": rng.integers(0, 2, n).astype(float)}
        signals["psnr"][:2] = np.nextafter(1, 2), 0.1 + 0.2
        videos.append(VideoScores(name, np.arange(4, 4 + n), signals, rng.integers(0, 2, n).astype(np.uint8)))
    write_scores(tmp_path / "s.csv", videos)
    again = quietly(read_scores, tmp_path / "s.csv", SIGNALS)
    assert same(videos, again) and again[0].labels.dtype == np.uint8
    write_scores(tmp_path / "t.csv", again)
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "s.csv").read_bytes()
    write_scores(tmp_path / "u.csv", videos, labelled=False)
    bare = [video._replace(labels=0 * video.labels) for video in videos]
    for labelled in (False, None):
        assert same(bare, quietly(read_scores, tmp_path / "u.csv", SIGNALS, labelled=labelled))
    assert same(videos, quietly(read_scores, tmp_path / "s.csv", SIGNALS, labelled=None))
    assert "label" in refusal(read_scores, tmp_path / "u.csv", SIGNALS)


@pytest.mark.parametrize("text", [
    "\ufeff" + "\n" + HEADER.replace(",", " , ") + "\n" + LINES.replace(",", ", ") + "\n \n,,,,\n",
    (HEADER + LINES).replace("\n", ",,\r\n").replace(",4,", ",4.0,"),
    "label,video,distance,psnr,frame\n0,a,0.1,30,4\n1,a,0.2,31,5\n0,b,0.3,20.5,4\n1,b,0.4,21,5\n",
    HEADER.replace("\n", ",remark\n") + LINES.replace(",0\n", ",0,blurred\n").replace(",1\n", ",1,5\n"),
    HEADER + "".join(line + "\n" for line in reversed(LINES.splitlines())),
], ids=["blank lines", "empty columns", "columns", "remarks", "order of lines"])
def test_what_a_spreadsheet_makes_of_it(tmp_path, text):
    assert same(read(tmp_path, text), read(tmp_path, HEADER + LINES))


@pytest.mark.parametrize("text, word", [
    ("", "header"), (HEADER, "header"), (b"\x89PNG\r\n\x1a\n\0\xff", "CSV"),
    ((HEADER + LINES).encode("utf-16"), "UTF-8"),
    ("frame,psnr\n1,2\n", "video, distance, label"), ((HEADER + LINES).replace(",", ";"), "commas"),
    (HEADER + "a,4,30,0.1,0\n\na,5,31\n", "cut off"), (HEADER + LINES + "a,6,good,0.1,0\n", "row 5.*psnr.*'good'"),
    *((HEADER + f"a,{t},30,0.1,0\n", f"row 1 .*frame is '{t}'") for t in ("-1", "4.5", "", "inf")),
    *((HEADER + f"a,4,30,0.1,{y}\n", f"row 1 .*label is '{y}'") for y in ("2", "", "0.5")),
    (HEADER + LINES + "\na,5,31,0.25,1\n", "video a, frame 5.*twice"),
    (HEADER + "a,4,nan,0.1,0\na,5,30,inf,0\n", "no frame with finite psnr and distance"),
], ids=lambda value: repr(value)[:40])
def test_what_is_refused(tmp_path, text, word):
    (tmp_path / "s.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert re.search(f"s\\.csv.*{word}", refusal(read_scores, tmp_path / "s.csv", SIGNALS))


def test_what_is_left_out_or_missing_is_said(tmp_path):
    good = read(tmp_path, HEADER + LINES)
    for hole in ("a,6,,0.1,0\n", "a,6,nan,0.1,1\n", "a,6,30,-inf,0\n", "a,6,1e300,0.1,0\n"):
        (tmp_path / "s.csv").write_text(HEADER + LINES + "\n" + hole)
        with pytest.warns(UserWarning, match="1 of 5 frames .*psnr.*video a, frame 6"):
            assert same(read_scores(tmp_path / "s.csv", SIGNALS), good)
    (tmp_path / "s.csv").write_text(HEADER + LINES + "b,9,21,0.4,1\n")
    with pytest.warns(UserWarning, match="3 frames .*video b are missing"):
        assert read_scores(tmp_path / "s.csv", SIGNALS)[1].frames.tolist() == [4, 5, 9]


# ------------------------------------------------------------------------------ our own file, its labels and neighbours

def published(dataset, source):
    return read_ranges(BENCHMARKS[dataset].truths[source])


def made_scores(labels, first=4, seed=0):
    """Scores of a fair detector, of every video's frames from `first` on."""
    rng = np.random.default_rng(seed)
    return [VideoScores(name, np.arange(first, len(y)), {"psnr": rng.normal(30, 3, len(y) - first) - 3 * y[first:],
                                                         "distance": rng.random(len(y) - first)},
                        y[first:].astype(np.uint8)) for name, y in labels.items()]


def results_for(videos, weights=None, **about):
    """Results as evaluate.py would write them."""
    weights = weights or paper_weights(0.6)
    return Results(**{"labels": "l", "label_source": None, "protocol": "p", "signals": weights} | about
                   | vars(measure(videos, weights)))


def test_other_labels_for_the_same_scores(tmp_path):
    """From a file, a folder, and those that ship; each by the frame's own index."""
    ano_pred, official = published("avenue", "ano_pred"), published("avenue", "official")
    write_scores(tmp_path / "s.csv", made_scores(ano_pred))
    masks = folder_of(tmp_path / "masks", official)
    flat = save(tmp_path / "flat.npy", np.concatenate(list(official.values()))[None])
    for source in (LabelSource("avenue", source="official"), LabelSource(labels=str(masks)), LabelSource(labels=flat),
                   LabelSource("avenue", labels=flat)):
        evaluation = read_evaluation(tmp_path / "s.csv", 0.6, source)
        assert all(video.labels.tolist() == official[video.name][4:].tolist() for video in evaluation.videos)
        assert evaluation.about.labels in (str(BENCHMARKS["avenue"].truths["official"]), source.labels)
    own = read_evaluation(tmp_path / "s.csv", 0.6, LabelSource("avenue"))  # a data set's name changes no label
    assert own.videos[0].labels.tolist() == ano_pred["01"][4:].tolist()
    # The name in the results beside the scores is enough; what hangs on the labels goes with them.
    write_results(tmp_path / "results.json", results_for(own.videos, dataset="avenue", checkpoint="last.pt",
                                                         complete_benchmark=True, quality={"ssim": 0.5}))
    videos, _, _, about = read_evaluation(tmp_path / "s.csv", 0.6, LabelSource(source="official"))
    assert sum(video.labels.sum() for video in videos) == sum(y[4:].sum() for y in official.values())
    assert (about.dataset, about.checkpoint, about.complete_benchmark, about.quality) == (
        "avenue", "last.pt", True, None)
    write_scores(tmp_path / "bare.csv", own.videos, labelled=False)
    assert same(read_evaluation(tmp_path / "bare.csv", 0.6, LabelSource(source="ano_pred")).videos, own.videos)


def test_labels_of_other_videos(tmp_path):
    (tmp_path / "s.csv").write_text(HEADER + LINES)
    masks, flat = folder_of(tmp_path / "masks", {"a": np.zeros(6)}), save(tmp_path / "flat.npy", np.zeros(11))
    for labels, words in ((LabelSource(labels=str(masks)), ["masks", "video 'b'"]),
                          (LabelSource(labels=flat), ["11 labels", "12 frames"]),
                          (LabelSource("ped2", source="official"), ["ped2.json", "'a'", "01, 02, 03"]),
                          (LabelSource("ped2", source="ano_pred"), ["no ano_pred labels of ped2"])):
        said = refusal(read_evaluation, tmp_path / "s.csv", 0.6, labels)
        assert all(word in said for word in words), said
    assert "5 for video 'a'" in refusal(relabel, read(tmp_path, HEADER + LINES), {"a": np.zeros(5)}, "there")
    (tmp_path / "s.csv").write_text(HEADER + "a,4,30,0.1,0\na,5,31,0.2,0\na,6,nan,0.2,0\n")      # of 7 frames, 6 seen
    folder_of(masks, {"a": np.array([0, 0, 0, 0, 1, 0, 1])})
    with pytest.warns(UserWarning, match="left out"):
        video, = read_evaluation(tmp_path / "s.csv", 0.6, LabelSource(labels=str(masks))).videos
    assert video.labels.tolist() == [1, 0]


def test_neighbours_of_the_scores(tmp_path):
    """Calibration by training frames that lie spread, and the folders in which an evaluation is found."""
    videos = made_scores({"a": np.arange(40) % 2})
    signals = {name: np.arange(10.0) for name in SIGNALS}
    spread = [VideoScores("t", np.arange(4, 90, 9), signals, np.zeros(10, np.uint8))]
    results = results_for(videos, {"psnr": 0.3, "distance": -0.7})
    for name in ("evaluation_best", "evaluation_last"):
        write_scores(tmp_path / name / "scores.csv", videos)
        write_scores(tmp_path / name / "calibration.csv", spread, labelled=False)
        write_results(tmp_path / name / "results.json", results)
    for folder in (tmp_path, tmp_path / "evaluation_last"):
        found, about, place = quietly(open_evaluation, folder)
        assert same(found.videos, videos) and same(found.training, spread) and place == tmp_path / "evaluation_last"
        assert about.to_dict() | {"interval": None} == results.to_dict() | {"interval": None}
        assert found.weights == {"psnr": 0.3, "distance": -0.7}
    (tmp_path / "evaluation_last/calibration.csv").write_text("video,frame,psnr\nt,4,30\n")
    said = refusal(read_evaluation, tmp_path / "evaluation_last/scores.csv", 0.6, LabelSource())
    assert "calibration.csv" in said and "distance" in said
    (tmp_path / "evaluation_last/results.json").unlink()
    assert "evaluate.py" in refusal(open_evaluation, tmp_path / "evaluation_last")


# ----------------------------------------------------------------------------------------------- other programs' scores

TRUTH = {"x1": np.array([0, 0, 0, 0, 0, 1, 1, 0]), "x2": np.array([0, 0, 0, 1, 0, 0]),
         "x10": np.array([0, 1, 0, 0, 0, 0, 1])}
SCORES = {"x1": np.linspace(1, 0, 8), "x2": np.array([0.5, 0.25, 0.75, -2, 1e-9, 0.5]), "x10": np.arange(7) / 7}
EVERYTHING = slice(None)


@pytest.fixture
def masks(tmp_path):
    """TRUTH as a folder of labels."""
    return LabelSource(labels=str(folder_of(tmp_path / "masks", TRUTH)))


def save(path, array):
    np.save(path, array)
    return str(path)


def folder_of(path, arrays, save=np.save, suffix=".npy"):
    path.mkdir(exist_ok=True)
    for name, x in arrays.items():
        save(path / f"{name}{suffix}", x)
    return path


def by_frame(path, covered=EVERYTHING, order=1):
    lines = [f"{name},{t},{float(SCORES[name][t])!r}" for name in SCORES for t in range(len(SCORES[name]))[covered]]
    path.write_text("\n".join(["video,frame,score", *lines[::order]]) + "\n\n")
    return path


def foreign(path, labels, covered=EVERYTHING, direction="normal"):
    return quietly(read_foreign_evaluation, path, direction, covered, labels)


@pytest.mark.parametrize("covered", [EVERYTHING, slice(2, None), slice(1, -2)], ids=str)
def test_every_form_of_the_same_scores(tmp_path, masks, covered):
    """And with labels from one file, where the scores of a folder or a table say how long the videos are."""
    cut = {name: x[covered] for name, x in SCORES.items()}
    flat = np.concatenate(list(cut.values()))
    text = "\n".join(map(repr, flat.tolist()))
    for name, array in (("flat", flat), ("row", flat[None]), ("column", flat[:, None])):
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "bare.csv").write_text(text + "\n\n")
    (tmp_path / "named.csv").write_text("\ufeffnormality of a frame\r\n" + text.replace("\n", "\r\n"))
    (tmp_path / "row.txt").write_text(text.replace("\n", " "))
    paths = [tmp_path / name for name in ("flat.npy", "row.npy", "column.npy", "bare.csv", "named.csv", "row.txt")]
    folders = [folder_of(tmp_path / "npy", cut), folder_of(tmp_path / "txt", cut, np.savetxt, ".txt")]
    for path in (*paths, *folders):
        evaluation = foreign(path, masks, covered)
        assert [video.name for video in evaluation.videos] == ["x1", "x2", "x10"], path
        for video in evaluation.videos:
            assert video.frames.tolist() == list(range(len(TRUTH[video.name])))[covered]
            assert video.signals["score"].tolist() == SCORES[video.name][covered].tolist()
            assert video.labels.tolist() == TRUTH[video.name][covered].tolist()
    for order in (1, -1):
        assert same(foreign(by_frame(tmp_path / "table.csv", covered, order), masks).videos, evaluation.videos)
    one_file = LabelSource(labels=save(tmp_path / "labels.npy", np.concatenate(list(TRUTH.values()))[None]))
    assert same(foreign(folders[0], one_file, covered).videos, evaluation.videos)
    table = by_frame(tmp_path / "table.csv")
    assert same(foreign(table, one_file).videos, foreign(table, masks).videos)


def test_directions_are_mirror_images_and_ours_exported_is_ours(tmp_path):
    """The PSNR alone, exported and read back: the same numbers as from our own file with lambda 1."""
    videos = made_scores(published("ped2", "official"))
    expected = measure(videos, {"psnr": 1.0})
    psnr = {video.name: video.signals["psnr"] for video in videos}
    flat, rule = save(tmp_path / "flat.npy", np.concatenate(list(psnr.values()))), slice(4, None)
    for path in (flat, folder_of(tmp_path / "npy", psnr)):
        evaluation = foreign(path, LabelSource("ped2"), rule)
        results = measure(evaluation.videos, evaluation.weights)
        assert results.mean_of["score"] == expected.mean_of["psnr"]
        assert vars(results) | {"mean_of": None} == vars(expected) | {"mean_of": None}
    other = foreign(flat, LabelSource("ped2"), rule, "abnormal")
    assert measure(other.videos, other.weights).auc == pytest.approx(1 - expected.auc) != 0.5
    assert other.about.direction == "high is abnormal"


def test_where_labels_come_from(blob_dataset, tmp_path):
    """Beside the frames, from a file, from those that ship, from the table itself; or nowhere."""
    root = str(blob_dataset(testing=(9, 8, 10)))
    scores, other = save(tmp_path / "s.npy", np.arange(27 - 3 * 4)), save(tmp_path / "other.npy", np.zeros(27))
    videos = foreign(scores, LabelSource("blobs", root), slice(4, None)).videos
    assert [(video.name, len(video.frames), video.labels.tolist()) for video in videos] == [
        ("01", 5, [1] * 5), ("02", 4, [1] * 4), ("03", 6, [0] + [1] * 5)]
    videos = foreign(scores, LabelSource("blobs", root, other), slice(4, None)).videos
    assert not any(video.labels.any() for video in videos)
    for dataset, frames, source, expected in (("ped2", 2010, "auto", "official"), ("avenue", 15324, "auto", "ano_pred"),
                                              ("avenue", 15324, "official", "official")):
        scores = save(tmp_path / "s.npy", np.random.default_rng(0).random(frames))
        evaluation = foreign(scores, LabelSource(dataset, source=source))
        assert evaluation.about.labels == str(BENCHMARKS[dataset].truths[expected])
        for video in evaluation.videos:
            assert video.labels.tolist() == published(dataset, expected)[video.name].tolist()
    for labels in (LabelSource(), LabelSource("shanghai"), LabelSource(labels=other)):
        said = refusal(foreign, scores, labels)
        assert "15324 scores" in said and "where a video ends" in said
    (tmp_path / "t.csv").write_text("video,frame,score,label\n1,0,0.5,0\n01,0,0.25,1\n1,1,0.75,1\n01,1,1,0\n")
    videos = foreign(tmp_path / "t.csv", LabelSource()).videos
    assert {v.name: (v.signals["score"].tolist(), v.labels.tolist()) for v in videos} == {
        "01": ([0.25, 1], [1, 0]), "1": ([0.5, 0.75], [0, 1])}
    path = folder_of(tmp_path / "scores", SCORES)
    with pytest.warns(UserWarning, match="no labels"):
        videos = read_foreign_evaluation(path, "normal", slice(2, -1), LabelSource()).videos
    assert [(v.name, v.frames[0], len(v.frames)) for v in videos] == [("x1", 2, 8), ("x2", 2, 6), ("x10", 2, 7)]
    assert "--crop 2:5" in refusal(read_foreign_evaluation, path, "normal", slice(2, 5), LabelSource())


@pytest.mark.parametrize("dataset, lengths", [("ped2", None), ("avenue", None), ("shanghai", [400] * 101 + [391])])
def test_labels_as_they_circulate(shared_data, tmp_path, dataset, lengths):
    """The files with labels that everybody has, with made scores: flat where lengths are known, else in a folder."""
    path = shared_data / "labels" / f"frame_labels_{dataset}.npy"
    truth = np.load(path).ravel()
    scores = save(tmp_path / "scores.npy", truth + 0.5)
    if lengths:
        pieces = np.split(truth + 0.5, np.cumsum(lengths)[:-1])
        scores = folder_of(tmp_path / "scores", {f"{v:03d}": x for v, x in enumerate(pieces)})
    evaluation = foreign(scores, LabelSource(None if lengths else dataset, labels=str(path)), direction="abnormal")
    assert np.concatenate([video.labels for video in evaluation.videos]).tolist() == truth.tolist()
    assert measure(evaluation.videos, evaluation.weights, Protocol("none")).auc == 1


# ---------------------------------------------------------------------------------------------------- what does not fit

@pytest.mark.parametrize("count, rule, words", [
    (1962, EVERYTHING, ["1962 scores", "2010 frames", "4 missing in each of the 12 videos", "--drop-first 4"]),
    (2010, slice(4, None), ["2010 scores", "1962 frames", "--crop 4:"]),
    (1963, slice(4, None), ["1963 scores", "1962 frames", "other videos"])])
def test_number_of_scores_that_does_not_fit(tmp_path, count, rule, words):
    path = save(tmp_path / "s.npy", np.zeros(count))
    said = refusal(foreign, path, LabelSource("ped2"), rule)
    assert all(word in said for word in [path, *words]), said


def test_files_of_other_videos(tmp_path, masks):
    path = folder_of(tmp_path / "scores", {f"test_{v}": x for v, x in enumerate(SCORES.values(), 8)})       # 8, 9, 10
    with pytest.warns(UserWarning, match="test_8 is video x1, test_10 is video x10"):
        videos = read_foreign_evaluation(path, "normal", EVERYTHING, masks).videos
    assert [video.signals["score"].tolist() for video in videos] == [x.tolist() for x in SCORES.values()]
    (path / "test_9.npy").unlink()
    both = folder_of(folder_of(tmp_path / "both", SCORES), {"x2": SCORES["x2"]}, np.savetxt, ".txt")
    short = folder_of(tmp_path / "short", SCORES | {"x2": np.zeros(4)})
    for folder, words in ((path, ["2 videos", "of 3", "x1"]), (both, ["one file"]),
                          (folder_of(tmp_path / "no", {}), []),
                          (short, ["video x2", "4 scores", "6 frames"])):
        said = refusal(foreign, folder, masks)
        assert all(word in said for word in [str(folder), *words]), said
    table = by_frame(tmp_path / "table.csv")
    text = table.read_text()
    for old, new, word in (("x2,0", "x3,0", "'x3'"), ("x2,5", "x2,6", "frame 6"), ("x2,1,", "x2,0,", "twice")):
        table.write_text(text.replace(old, new))
        assert word in refusal(foreign, table, masks)
    table.write_text("".join(line + "\n" for line in text.splitlines() if not line.startswith("x2")))
    assert "--drop-first" in refusal(foreign, table, masks, slice(4, None))
    with pytest.warns(UserWarning, match="2 of the 3 videos"):
        assert len(read_foreign_evaluation(table, "normal", EVERYTHING, masks).videos) == 2


def test_arrays_that_are_no_scores(tmp_path, masks):
    mark, path = tmp_path / "exploded", tmp_path / "s.npy"
    for array in (np.array([Bomb(mark)] * 21, object), np.zeros((3, 7)), np.array(["1"] * 21), np.zeros(21, complex),
                  np.float64(3), np.zeros(0)):
        np.save(path, array, allow_pickle=True)
        assert str(path) in refusal(foreign, path, masks)
    assert not mark.exists()
    for content in (b"", b"score\n", b"1\ntwo\n3", b"1,2\n3,4", b"0,5\n0,6", b"1;2\n3;4", b"\xff\xfe1\x002"):
        for name in ("s.txt", "s.csv", "s.npy", "s.pkl"):
            (tmp_path / name).write_bytes(content)
            assert name in refusal(foreign, tmp_path / name, masks), content


def test_scores_that_are_not_finite_and_videos_too_short(tmp_path, masks):
    scores = SCORES | {"x1": np.where(TRUTH["x1"] == 1, np.inf, SCORES["x1"]), "x2": np.full(6, np.nan)}
    with pytest.warns(UserWarning) as caught:
        videos = read_foreign_evaluation(folder_of(tmp_path / "s", scores), "normal", EVERYTHING, masks).videos
    assert [(video.name, len(video.frames)) for video in videos] == [("x1", 6), ("x10", 7)]
    said = [str(warning.message) for warning in caught]
    assert len(said) == 2 and "2 of 8 scores of video x1" in said[0] and "frame 5" in said[0] and "6 of 6" in said[1]
    nothing = save(tmp_path / "nothing.npy", np.full(21, np.nan))
    assert "no finite score" in refusal(read_foreign_evaluation, nothing, "normal", EVERYTHING, masks)
    one = save(tmp_path / "one.npy", SCORES["x1"][4:-3])                                     # the others have no frame
    with pytest.warns(UserWarning, match="too short") as caught:
        videos = read_foreign_evaluation(one, "normal", slice(4, -3), masks).videos
    assert [video.name for video in videos] == ["x1"] and len(caught) == 2


@pytest.mark.parametrize("drop_first, crop, rule", [
    (None, None, EVERYTHING), (0, None, EVERYTHING), (4, None, slice(4, None)), (None, "8:-7", slice(8, -7)),
    (None, "4:", slice(4, None)), (None, ":-4", slice(None, -4)), (None, "8:100", slice(8, 100)),
    (4, "8:-7", None), (-1, None, None), (None, "8", None), (None, "8:-7:2", None), (None, "-4:", None)])
def test_rules(drop_first, crop, rule):
    if rule is not None:
        assert parse_rule(drop_first, crop) == rule
    else:
        assert "--crop" in refusal(parse_rule, drop_first, crop)
