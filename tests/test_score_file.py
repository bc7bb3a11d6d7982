"""Score files, ours and other programs': what is read is what was written, and what does not fit is said, not
guessed.
"""

import warnings

import numpy as np
import pytest

from lgn_net.data.labels import read_ranges
from lgn_net.data.videos import natural_key
from lgn_net.datasets import BENCHMARKS
from lgn_net.errors import UserError
from lgn_net.scores.evaluation import LabelSource, read_evaluation, read_folder, read_foreign_evaluation, relabel
from lgn_net.scores.foreign import parse_rule
from lgn_net.scores.metrics import auc
from lgn_net.scores.protocols import Protocol, measure, normality_under, paper_weights
from lgn_net.scores.score_file import VideoScores, read_scores, write_scores

HEADER = "video,frame,psnr,distance,label\n"
LINES = "a,4,30,0.1,0\na,5,31,0.2,1\nb,4,20.5,0.3,0\nb,5,21,0.4,1\n"
SIGNALS = ("psnr", "distance")


def read(tmp_path, text, labelled=True):
    """A file with this content, read; warnings are failures."""
    path = tmp_path / "s.csv"
    path.write_bytes(text.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_scores(path, SIGNALS, labelled)


def refusal(function, *args):
    """The one-line sentence of the UserError."""
    with warnings.catch_warnings(), pytest.raises(UserError) as caught:
        warnings.simplefilter("ignore", UserWarning)
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(first, second):
    """Whether two lists of videos are equal to the last bit, in names, frames, signals and labels."""
    assert [video.name for video in first] == [video.name for video in second]
    for a, b in zip(first, second, strict=True):
        assert a.frames.tolist() == b.frames.tolist() and a.labels.tolist() == b.labels.tolist()
        assert {name: x.tolist() for name, x in a.signals.items()} == {
            name: x.tolist() for name, x in b.signals.items()
        }
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
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = read_scores(tmp_path / "s.csv", SIGNALS)
        assert same(videos, again) and again[0].labels.dtype == np.uint8
        write_scores(tmp_path / "t.csv", again)
        assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "s.csv").read_bytes()
        write_scores(tmp_path / "u.csv", videos, labelled=False)
        assert same([video._replace(labels=0 * video.labels) for video in videos],
                    read_scores(tmp_path / "u.csv", SIGNALS, labelled=False))
    assert "label" in refusal(read_scores, tmp_path / "u.csv", SIGNALS)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + HEADER + LINES,
        (HEADER + LINES).replace("\n", "\r\n"),
        "\n" + HEADER + "\n" + LINES + "\n \n,,,,\n",
        HEADER.replace(",", " , ") + LINES.replace(",", ", "),
        HEADER + LINES.replace(",4,", ",4.0,").replace(",1\n", ",1.0\n"),
        (HEADER + LINES).replace("\n", ",,\n"),
        "label,video,distance,psnr,frame\n"
        + "".join(
            ",".join([c[4], c[0], c[3], c[2], c[1]]) + "\n" for c in (line.split(",") for line in LINES.splitlines())
        ),
        "".join(
            ",".join([*line.split(","), remark]) + "\n"
            for line, remark in zip((HEADER + LINES).splitlines(), ("remark", "", "blurred", "", "5"), strict=True)
        ),
    ],
    ids=["BOM", "CRLF", "blank lines", "spaces", "4.0", "empty columns", "order of columns", "remarks"],
)
def test_what_a_spreadsheet_makes_of_it(tmp_path, text):
    assert same(read(tmp_path, text), read(tmp_path, HEADER + LINES))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no CSV", "header"]),
        ("\n\n", ["no CSV"]),
        (HEADER, ["no frames", "header"]),
        (b"\x89PNG\r\n\x1a\n\0\xff", ["no CSV"]),
        (bytes(range(128)) * 3, ["lacks"]),
        ((HEADER + LINES).encode("utf-16"), ["no CSV", "UTF-8"]),
        ("frame,psnr\n1,2\n", ["lacks the columns video, distance, label", "it has: frame, psnr", "--direction"]),
        (LINES, ["lacks", "it has: a, 4, 30, 0.1, 0"]),
        ((HEADER + LINES).replace(",", ";"), ["lacks", "commas"]),
        ((HEADER + LINES).replace(",", "\t"), ["lacks", "commas"]),
        ("video,frame,psnr,psnr,distance,label\na,4,1,2,3,0\n", ["two columns psnr"]),
        (HEADER + "a,4,30,0.1,0\n\na,5,31\n", ["line 4", "3 cells", "5 columns"]),
        (HEADER + LINES + "a,6,good,0.1,0\n", ["line 6", "psnr", "'good'", "number"]),
        (HEADER + '\n\na,4,30,"0,1",0\n', ["line 4", "distance", "'0,1'"]),
        (HEADER + "a,-1,30,0.1,0\n", ["line 2", "frame", "'-1'"]),
        (HEADER + "a,4.5,30,0.1,0\n", ["line 2", "frame", "'4.5'"]),
        (HEADER + "a,,30,0.1,0\n", ["line 2", "frame", "''"]),
        (HEADER + "a,inf,30,0.1,0\n", ["line 2", "frame", "'inf'"]),
        (HEADER + "a,1e15,30,0.1,0\n", ["line 2", "frame", "'1e15'"]),
        (HEADER + "a,nan,30,0.1,0\n", ["line 2", "frame"]),
        (HEADER + "a,4,30,0.1,2\n", ["line 2", "label", "'2'", "0 or 1"]),
        (HEADER + "a,4,30,0.1,\n", ["line 2", "label", "''"]),
        (HEADER + "a,4,30,0.1,yes\n", ["line 2", "label", "'yes'"]),
        (HEADER + ",4,30,0.1,0\n", ["line 2", "video", "''"]),
        (HEADER + LINES + "\na,5,31,0.25,1\n", ["video a", "frame 5", "lines 3 and 7", "different"]),
        (HEADER + LINES + "a,5,31,0.2,0\n", ["video a", "frame 5", "lines 3 and 6"]),
        (HEADER + "a,4,nan,0.1,0\na,5,30,inf,0\n", ["no frame with finite psnr and distance"]),
    ],
    ids=lambda value: None if isinstance(value, list) else repr(value)[:40],
)
def test_what_is_refused(tmp_path, text, words):
    (tmp_path / "s.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refusal(read_scores, tmp_path / "s.csv", SIGNALS)
    assert all(word in said for word in [str(tmp_path / "s.csv"), *words]), said


def test_no_such_file(tmp_path):
    for path in (tmp_path / "gone.csv", tmp_path):
        assert "no such file" in refusal(read_scores, path, SIGNALS) and str(path) in refusal(
            read_scores, path, SIGNALS
        )


def read_with_a_warning(tmp_path, text, *words):
    (tmp_path / "s.csv").write_text(text)
    with pytest.warns(UserWarning) as caught:
        videos = read_scores(tmp_path / "s.csv", SIGNALS)
    said, = (str(warning.message) for warning in caught)
    assert all(word in said for word in [str(tmp_path / "s.csv"), *words]), said
    return videos


def test_what_is_mended_is_said(tmp_path):
    good = read(tmp_path, HEADER + LINES)
    first, second, *rest = LINES.splitlines()
    unsorted = HEADER + "\n".join([second, first, *rest])
    assert same(read_with_a_warning(tmp_path, unsorted, "video a", "order"), good)
    assert same(read_with_a_warning(tmp_path, HEADER + first + "\n" + LINES, "1 lines", "video a", "dropped"), good)
    assert same(read(tmp_path, HEADER + "\n".join([first, rest[0], second, rest[1]])), good)  # two videos by turns
    for hole in ("a,6,,0.1,0\n", "a,6,nan,0.1,1\n", "a,6,30,-inf,0\n", "a,6,1e300,0.1,0\n"):
        assert same(read_with_a_warning(tmp_path, HEADER + LINES + "\n" + hole, "1 of 5", "psnr", "line 7", "video a",
                                        "frame 6"), good)
    gap = read_with_a_warning(tmp_path, HEADER + LINES + "b,9,21,0.4,1\n", "3 frames", "video b", "missing")
    assert gap[1].frames.tolist() == [4, 5, 9]


def test_constant_scores_one_video_and_one_class_are_still_measured(tmp_path):
    constant = read(tmp_path, HEADER + "".join(f"{v},{t},30,0.1,{t % 2}\n" for v in "ab" for t in range(4)))
    results = measure(constant, paper_weights(0.6))
    assert (results["auc"], results["eer"], results["gap"]) == (0.5, 0.5, 0) and results["interval"] == (0.5, 0.5)
    one = measure(read(tmp_path, HEADER + "a,4,30,0.1,0\na,5,29,0.2,1\n"), paper_weights(0.6))
    assert (one["auc"], one["interval"], one["videos"]) == (1, None, 1)
    normal = measure(read(tmp_path, HEADER + LINES.replace(",1\n", ",0\n")), paper_weights(0.6))
    assert normal["auc"] is None and normal["frames"] == 4 and normal["psnr_normal"] == pytest.approx(25.625)
    single = measure(read(tmp_path, HEADER + "a,4,30,0.1,0\nb,9,29,0.2,1\n"), paper_weights(0.6))         # a frame each
    assert single["auc"] == 0.5


# ------------------------------------------------------------------------------ our own file, its labels and neighbours


def published(dataset, source):
    return read_ranges(BENCHMARKS[dataset].truths[source])


def made_scores(labels, first=4, seed=0):
    """Scores of a fair detector, of every video's frames from `first` on."""
    rng = np.random.default_rng(seed)
    return [
        VideoScores(
            name,
            np.arange(first, len(y)),
            {"psnr": rng.normal(30, 3, len(y) - first) - 3 * y[first:], "distance": rng.random(len(y) - first)},
            y[first:].astype(np.uint8),
        )
        for name, y in labels.items()
    ]


def test_other_labels_for_the_same_scores(tmp_path):
    """From a file, a folder, and those that ship; each by the frame's own index."""
    ano_pred, official = published("avenue", "ano_pred"), published("avenue", "official")
    write_scores(tmp_path / "s.csv", made_scores(ano_pred))
    (tmp_path / "masks").mkdir()
    for name, y in official.items():
        np.save(tmp_path / "masks" / f"{name}.npy", y)
    np.save(tmp_path / "flat.npy", np.concatenate(list(official.values()))[None])
    for source in (
        LabelSource("avenue", source="official"),
        LabelSource(labels=str(tmp_path / "masks")),
        LabelSource(labels=str(tmp_path / "flat.npy")),
        LabelSource("avenue", labels=str(tmp_path / "flat.npy")),
    ):
        evaluation = read_evaluation(tmp_path / "s.csv", 0.6, source)
        assert all(video.labels.tolist() == official[video.name][4:].tolist() for video in evaluation.videos)
        assert evaluation.about["labels"] in (str(BENCHMARKS["avenue"].truths["official"]), source.labels)
    own = read_evaluation(tmp_path / "s.csv", 0.6, LabelSource("avenue"))  # a data set's name changes no label
    assert own.videos[0].labels.tolist() == ano_pred["01"][4:].tolist() and "column label" in own.about["labels"]
    write_scores(tmp_path / "bare.csv", own.videos, labelled=False)
    assert "label" in refusal(read_evaluation, tmp_path / "bare.csv", 0.6, LabelSource())
    same(read_evaluation(tmp_path / "bare.csv", 0.6, LabelSource("avenue", source="ano_pred")).videos, own.videos)


def test_the_name_beside_the_scores_is_enough_for_shipped_labels(tmp_path):
    write_scores(tmp_path / "s.csv", made_scores(published("avenue", "ano_pred")))
    said = refusal(read_evaluation, tmp_path / "s.csv", 0.6, LabelSource(source="official"))
    assert "no official labels" in said and "--dataset_type" in said
    (tmp_path / "results.json").write_text('{"dataset": "avenue", "checkpoint": "last.pt"}')
    evaluation = read_evaluation(tmp_path / "s.csv", 0.6, LabelSource(source="official"))
    assert sum(video.labels.sum() for video in evaluation.videos) == sum(
        y[4:].sum() for y in published("avenue", "official").values())
    assert (evaluation.about["dataset"], evaluation.about["checkpoint"]) == ("avenue", "last.pt")


def test_a_last_frame_without_a_score_does_not_hide_the_labels_in_a_folder(tmp_path):
    (tmp_path / "s.csv").write_text(HEADER + "a,4,30,0.1,0\na,5,31,0.2,0\na,6,nan,0.2,0\n")
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks/a.npy", [0, 0, 0, 0, 1, 0, 1])
    with pytest.warns(UserWarning, match="left out"):
        videos = read_evaluation(tmp_path / "s.csv", 0.6, LabelSource(labels=str(tmp_path / "masks"))).videos
    assert videos[0].labels.tolist() == [1, 0]


def test_labels_of_other_videos(tmp_path):
    (tmp_path / "s.csv").write_text(HEADER + LINES)
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks/a.npy", np.zeros(6))
    np.save(tmp_path / "flat.npy", np.zeros(11))
    for labels, words in ((LabelSource(labels=str(tmp_path / "masks")), ["masks", "video 'b'"]),
                          (LabelSource(labels=str(tmp_path / "flat.npy")), ["11 labels", "2 videos", "12 frames"]),
                          (LabelSource("ped2", source="official"), ["ped2.json", "'a'", "01, 02, 03"]),
                          (LabelSource("ped2", source="ano_pred"), ["no ano_pred labels of ped2"])):
        said = refusal(read_evaluation, tmp_path / "s.csv", 0.6, labels)
        assert all(word in said for word in words), said
    videos = read(tmp_path, HEADER + LINES)
    said = refusal(relabel, videos, {"a": np.zeros(5), "b": np.zeros(6)}, "there")
    assert all(word in said for word in ("labels there", "5 for video a", "frame 5"))


def test_lambda_of_the_file_is_noticed(tmp_path):
    videos = made_scores({"a": np.arange(40) % 2, "b": np.arange(30) % 3 == 0})
    for smoothing, noticed in ((0, True), (3, False)):  # a smoothed column tells nothing
        normal = normality_under(Protocol(sigma=smoothing), videos, paper_weights(0.7))
        write_scores(tmp_path / "s.csv", [video._replace(signals=video.signals | {"normality": x})
                                          for video, x in zip(videos, normal, strict=True)])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_evaluation(tmp_path / "s.csv", 0.7, LabelSource())
            if not noticed:
                read_evaluation(tmp_path / "s.csv", 0.6, LabelSource())
        if noticed:
            with pytest.warns(UserWarning, match=r"lambda 0\.7; here it is 0\.6"):
                read_evaluation(tmp_path / "s.csv", 0.6, LabelSource())


@pytest.mark.parametrize(
    "content", ["", "{", "[1, 2]", '"text"', "3", '{"config": "ped2.yaml"}', '{"config": [1]}', "\udcff"]
)
def test_damaged_results_beside_the_scores(tmp_path, content):
    (tmp_path / "s.csv").write_text(HEADER + LINES)
    (tmp_path / "results.json").write_bytes(content.encode(errors="surrogateescape"))
    said = refusal(read_evaluation, tmp_path / "s.csv", 0.6, LabelSource())
    assert "results.json" in said and "--lambda" in said


def test_calibration_beside_the_scores(tmp_path):
    """Scores of training frames, spread over the videos: no word about the frames between them."""
    videos = made_scores({"a": np.arange(40) % 2})
    spread = [
        VideoScores("t", np.arange(4, 90, 9), {name: np.arange(10.0) for name in SIGNALS}, np.zeros(10, np.uint8))
    ]
    write_scores(tmp_path / "scores.csv", videos)
    write_scores(tmp_path / "calibration.csv", spread, labelled=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(read_evaluation(tmp_path / "scores.csv", 0.6, LabelSource()).training, spread)
    (tmp_path / "calibration.csv").write_text("video,frame,psnr\nt,4,30\n")
    said = refusal(read_evaluation, tmp_path / "scores.csv", 0.6, LabelSource())
    assert "calibration.csv" in said and "distance" in said


def test_an_evaluation_is_found_in_its_folder_and_in_its_run(tmp_path):
    videos = made_scores({"a": np.arange(40) % 2})
    for name in ("evaluation_best", "evaluation_last"):
        write_scores(tmp_path / "run" / name / "scores.csv", videos)
        (tmp_path / "run" / name / "results.json").write_text(
            '{"signals": {"psnr": 0.3, "distance": -0.7}, "auc": 0.5}'
        )
    for folder in (tmp_path / "run", tmp_path / "run/evaluation_last"):
        found = read_folder(folder)
        assert same(found.videos, videos) and found.weights == {"psnr": 0.3, "distance": -0.7}
        assert found.about["folder"] == str(tmp_path / "run/evaluation_last") and found.about["auc"] == 0.5
    assert "evaluate.py" in refusal(read_folder, tmp_path)
    (tmp_path / "run/evaluation_last/results.json").write_text('{"auc": 0.5}')
    assert "evaluation_last" in refusal(read_folder, tmp_path / "run/evaluation_last")


# ----------------------------------------------------------------------------------------------- other programs' scores

TRUTH = {
    "x1": np.array([0, 0, 0, 0, 0, 1, 1, 0]),
    "x2": np.array([0, 0, 0, 1, 0, 0]),
    "x10": np.array([0, 1, 0, 0, 0, 0, 1]),
}
SCORES = {"x1": np.linspace(1, 0, 8), "x2": np.array([0.5, 0.25, 0.75, -2, 1e-9, 0.5]), "x10": np.arange(7) / 7}
EVERYTHING = slice(None)


@pytest.fixture
def masks(tmp_path):
    """TRUTH as a folder of labels."""
    (tmp_path / "masks").mkdir()
    for name, y in TRUTH.items():
        np.save(tmp_path / "masks" / f"{name}.npy", y)
    return LabelSource(labels=str(tmp_path / "masks"))


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
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_foreign_evaluation(path, direction, covered, labels)


@pytest.mark.parametrize("covered", [EVERYTHING, slice(2, None), slice(1, -2)], ids=str)
def test_every_form_of_the_same_scores(tmp_path, masks, covered):
    cut = {name: x[covered] for name, x in SCORES.items()}
    flat = np.concatenate(list(cut.values()))
    text = "\n".join(map(repr, flat.tolist()))
    np.save(tmp_path / "flat.npy", flat)
    np.save(tmp_path / "row.npy", flat[None])
    np.save(tmp_path / "column.npy", flat[:, None])
    (tmp_path / "bare.csv").write_text(text + "\n\n")
    (tmp_path / "named.csv").write_text("\ufeffnormality of a frame\r\n" + text.replace("\n", "\r\n"))
    (tmp_path / "row.txt").write_text(text.replace("\n", " "))
    np.savetxt(tmp_path / "lines.txt", flat)
    paths = [
        tmp_path / name
        for name in ("flat.npy", "row.npy", "column.npy", "bare.csv", "named.csv", "row.txt", "lines.txt")
    ]
    paths += [folder_of(tmp_path / "npy", cut), folder_of(tmp_path / "row", {n: x[None] for n, x in cut.items()}),
              folder_of(tmp_path / "txt", cut, np.savetxt, ".txt")]
    for path in paths:
        evaluation = foreign(path, masks, covered)
        assert [video.name for video in evaluation.videos] == ["x1", "x2", "x10"], path
        for video in evaluation.videos:
            assert video.frames.tolist() == list(range(len(TRUTH[video.name])))[covered]
            assert video.signals["score"].tolist() == SCORES[video.name][covered].tolist()
            assert video.labels.tolist() == TRUTH[video.name][covered].tolist()
    for order in (1, -1):
        same(foreign(by_frame(tmp_path / "table.csv", covered, order), masks).videos, evaluation.videos)


def test_directions_are_mirror_images(tmp_path, masks):
    path = folder_of(tmp_path / "scores", SCORES)
    results = [measure(evaluation.videos, evaluation.weights) for evaluation in
               (foreign(path, masks, direction=direction) for direction in ("normal", "abnormal"))]
    assert results[0]["auc"] == pytest.approx(1 - results[1]["auc"]) != 0.5
    scaled = [(x - x.min()) / (x.max() - x.min()) for x in SCORES.values()]
    assert results[0]["auc"] == pytest.approx(auc(list(TRUTH.values()), scaled))
    assert foreign(path, masks, direction="abnormal").about["direction"] == "high is abnormal"


@pytest.mark.parametrize("rule", [(None, None), (4, None), (None, "8:-7"), (None, "3:"), (None, ":-2")], ids=str)
@pytest.mark.parametrize("form", ["flat", "folder"])
def test_a_planted_spike_keeps_its_frame(tmp_path, rule, form):
    """Scores that lack the first or the last frames of each video: the low is still at the frame where it was
    planted."""
    planted, covered = {f"{v:02d}": 20 + 7 * v for v in range(1, 13)}, parse_rule(*rule)
    scores = {name: np.where(np.arange(len(y)) == planted[name], -5.0, 1.0)[covered]
              for name, y in published("ped2", "official").items()}
    path = folder_of(tmp_path / "scores", scores)
    if form == "flat":
        path = tmp_path / "flat.npy"
        np.save(path, np.concatenate(list(scores.values())))
    evaluation = foreign(path, LabelSource("ped2"), covered)
    for video, normal in zip(
        evaluation.videos, normality_under(Protocol(), evaluation.videos, evaluation.weights), strict=True
    ):
        assert video.frames[normal.argmin()] == planted[video.name] and normal.min() == 0 < np.median(normal)
        assert video.labels.tolist() == published("ped2", "official")[video.name][covered].tolist()


def test_our_own_scores_in_another_form(tmp_path):
    """The PSNR alone, exported and read back: the same numbers as from our own file with lambda 1."""
    videos = made_scores(published("ped2", "official"))
    write_scores(tmp_path / "scores.csv", videos)
    own = read_evaluation(tmp_path / "scores.csv", 1.0, LabelSource())
    expected = measure(own.videos, own.weights)
    psnr = {video.name: video.signals["psnr"] for video in videos}
    np.save(tmp_path / "flat.npy", np.concatenate(list(psnr.values())))
    (tmp_path / "table.csv").write_text(
        "video,frame,score\n"
        + "".join(
            f"{video.name},{t},{x!r}\n"
            for video in videos
            for t, x in zip(video.frames.tolist(), video.signals["psnr"].tolist(), strict=True)
        )
    )
    for path, rule in ((tmp_path / "flat.npy", slice(4, None)), (folder_of(tmp_path / "npy", psnr), slice(4, None)),
                       (tmp_path / "table.csv", EVERYTHING)):
        evaluation = foreign(path, LabelSource("ped2"), rule)
        results = measure(evaluation.videos, evaluation.weights)
        for key in ("auc", "interval", "eer", "average_precision", "gap", "chance", "per_video", "frames"):
            assert results[key] == expected[key], key
        assert results["score_normal"] == expected["psnr_normal"]


# ----------------------------------------------------------------------------------------- where their labels come from


def test_labels_in_a_file_for_a_folder_of_scores(tmp_path):
    """Only the scores say how long the videos are, cropped ones with their margins."""
    np.save(tmp_path / "labels.npy", np.concatenate(list(TRUTH.values()))[None])
    (tmp_path / "labels.csv").write_text("video,start,end\nx1,5,6\nx2,3,3\nx10,1,1\nx10,6,6\n")
    for covered in (EVERYTHING, slice(2, None), slice(1, -2)):
        path = folder_of(tmp_path / "scores", {name: x[covered] for name, x in SCORES.items()})
        for labels in ("labels.npy", "labels.csv"):
            videos = foreign(path, LabelSource(labels=str(tmp_path / labels)), covered).videos
            assert [video.labels.tolist() for video in videos] == [y[covered].tolist() for y in TRUTH.values()]
    table = by_frame(tmp_path / "table.csv")
    videos = foreign(table, LabelSource(labels=str(tmp_path / "labels.npy"))).videos
    assert [video.labels.tolist() for video in videos] == [y.tolist() for y in TRUTH.values()]


def test_labels_beside_frames(blob_dataset, tmp_path):
    """The videos on disk say where each one ends; the labels lie beside them, or are named."""
    root = blob_dataset(testing=(9, 8, 10))
    np.save(tmp_path / "scores.npy", np.arange(27 - 3 * 4))
    videos = foreign(tmp_path / "scores.npy", LabelSource("blobs", str(root)), slice(4, None)).videos
    assert [(video.name, len(video.frames), video.labels.tolist()) for video in videos] == [
        ("01", 5, [1] * 5), ("02", 4, [1] * 4), ("03", 6, [0] + [1] * 5)]
    np.save(tmp_path / "other.npy", np.zeros(27))
    videos = foreign(
        tmp_path / "scores.npy", LabelSource("blobs", str(root), str(tmp_path / "other.npy")), slice(4, None)
    ).videos
    assert not any(video.labels.any() for video in videos)


def test_labels_that_ship_and_none_at_all(tmp_path):
    for dataset, frames, source in (("ped2", 2010, "auto"), ("avenue", 15324, "auto"), ("avenue", 15324, "official")):
        np.save(tmp_path / "s.npy", np.random.default_rng(0).random(frames))
        evaluation = foreign(tmp_path / "s.npy", LabelSource(dataset, source=source))
        expected = published(dataset, "ano_pred" if (dataset, source) == ("avenue", "auto") else "official")
        assert [video.labels.tolist() for video in evaluation.videos] == [y.tolist() for y in expected.values()]
        assert (
            source in (*evaluation.about["labels"].split("_"), "auto", "official.json")
            or source in evaluation.about["labels"]
        )
    for labels in (
        LabelSource(),
        LabelSource("shanghai"),
        LabelSource(labels=save(tmp_path / "y.npy", np.zeros(15324))),
    ):
        said = refusal(foreign, tmp_path / "s.npy", labels)
        assert "15324 scores" in said and "where a video ends" in said and "--dataset_path" in said
    path = folder_of(tmp_path / "scores", SCORES)
    with pytest.warns(UserWarning, match="no labels"):
        videos = read_foreign_evaluation(path, "normal", slice(2, -1), LabelSource()).videos
    assert [(video.name, video.frames[0], len(video.frames), video.labels.any()) for video in videos] == [
        ("x1", 2, 8, False), ("x2", 2, 6, False), ("x10", 2, 7, False)]
    assert "--crop 2:5" in refusal(read_foreign_evaluation, path, "normal", slice(2, 5), LabelSource())


def save(path, array):
    np.save(path, array)
    return str(path)


@pytest.mark.parametrize(("dataset", "lengths"), [("ped2", None), ("avenue", None), ("shanghai", [400] * 101 + [391])])
def test_labels_as_they_circulate(shared_data, tmp_path, dataset, lengths):
    """The files with labels that everybody has, with made scores: flat where lengths are known, else in a folder."""
    path = shared_data / "labels" / f"frame_labels_{dataset}.npy"
    truth = np.load(path).ravel()
    score = np.random.default_rng(0).random(len(truth)) + truth
    if lengths:
        pieces = np.split(score, np.cumsum(lengths)[:-1])
        scores = folder_of(tmp_path / "scores", {f"{v:03d}": x for v, x in enumerate(pieces)})
    else:
        scores = save(tmp_path / "scores.npy", score)
    evaluation = foreign(scores, LabelSource(None if lengths else dataset, labels=str(path)), direction="abnormal")
    assert np.concatenate([video.labels for video in evaluation.videos]).tolist() == truth.tolist()
    results = measure(evaluation.videos, evaluation.weights, Protocol("none"))
    assert results["frames"] == len(truth) and results["auc"] == 1


# ---------------------------------------------------------------------------------------------------- what does not fit


def test_number_of_scores_that_does_not_fit(tmp_path):
    labels = LabelSource("ped2")
    for count, rule, words in (
            (1962, EVERYTHING, ["1962 scores", "2010 frames", "4 missing in each of the 12 videos", "--drop-first 4"]),
            (1830, EVERYTHING, ["1830 scores", "2010", "15 missing", "A + B = 15"]),
            (2010, slice(4, None), ["2010 scores", "1962 frames", "all but the first 4"]),
            (1963, slice(4, None), ["1963 scores", "1962 frames", "other videos"]),
            (15324, EVERYTHING, ["15324 scores", "2010 frames", "other videos"])):
        path = save(tmp_path / "s.npy", np.zeros(count))
        said = refusal(foreign, path, labels, rule)
        assert all(word in said for word in [path, *words]), said
    scores = {name: np.zeros(len(y)) for name, y in published("ped2", "official").items()}
    said = refusal(foreign, folder_of(tmp_path / "scores", scores | {"05": np.zeros(146)}), labels)
    assert all(word in said for word in ("video 05", "146 scores", "150 frames", "--drop-first 4"))


def test_files_of_other_videos(tmp_path, masks):
    path = folder_of(tmp_path / "scores", {f"test_{v}": x for v, x in enumerate(SCORES.values(), 8)})       # 8, 9, 10
    with pytest.warns(UserWarning, match="test_8 is video x1, test_10 is video x10"):
        videos = read_foreign_evaluation(path, "normal", EVERYTHING, masks).videos
    assert [video.signals["score"].tolist() for video in videos] == [x.tolist() for x in SCORES.values()]
    (path / "test_9.npy").unlink()
    assert all(word in refusal(foreign, path, masks) for word in ("2 videos", "of 3", "x1"))
    assert "holds no scores" in refusal(foreign, folder_of(tmp_path / "empty", {}), masks)
    both = folder_of(folder_of(tmp_path / "both", SCORES), {"x2": SCORES["x2"]}, np.savetxt, ".txt")
    assert "x2.npy and x2.txt" in refusal(foreign, both, masks)
    table = by_frame(tmp_path / "table.csv")
    text = table.read_text()
    for old, new, words in (
        ("x2,0", "x3,0", ["'x3'", "3 videos", "x1 to x10"]),
        ("x2,5", "x2,6", ["frame 6", "x2", "6 frames"]),
        ("x2,1,", "x2,0,", ["x2", "frame 0", "lines 10 and 11"]),
        ("x2,3,-2.0", "x2,3,low", ["line 13", "'low'"]),
    ):
        table.write_text(text.replace(old, new))
        said = refusal(foreign, table, masks)
        assert all(word in said for word in words), said
    table.write_text(text)
    assert "--drop-first" in refusal(foreign, table, masks, slice(4, None))
    table.write_text(text.replace(",", ";"))
    assert "commas" in refusal(foreign, table, masks)
    table.write_text("".join(line + "\n" for line in text.splitlines() if not line.startswith("x2")))
    with pytest.warns(UserWarning, match="2 of the 3 videos"):
        assert len(read_foreign_evaluation(table, "normal", EVERYTHING, masks).videos) == 2


def test_names_that_differ_by_a_nought(tmp_path):
    (tmp_path / "t.csv").write_text("video,frame,score\n1,0,0.5\n01,0,0.25\n1,1,0.75\n01,1,1\n")
    with pytest.warns(UserWarning, match="no labels"):
        videos = read_foreign_evaluation(tmp_path / "t.csv", "normal", EVERYTHING, LabelSource()).videos
    assert {video.name: video.signals["score"].tolist() for video in videos} == {"01": [0.25, 1], "1": [0.5, 0.75]}


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return type(self.mark).touch, (self.mark,)


def test_arrays_that_are_no_scores(tmp_path, masks):
    mark = tmp_path / "exploded"
    for k, array in enumerate(
        [
            np.array([Bomb(mark)] * 21, object),
            np.array(list(SCORES.values()), object),
            np.zeros((3, 7)),
            np.array("text"),
            np.array(["1"] * 21),
            np.zeros(21, complex),
            np.float64(3),
            np.zeros(0),
            np.zeros(21, [("score", float)]),
        ]
    ):
        path = tmp_path / f"{k}.npy"
        np.save(path, array, allow_pickle=True)
        assert str(path) in refusal(foreign, path, masks)
    assert not mark.exists()
    for content in (
        "",
        "\n",
        "score\n",
        "1\ntwo\n3",
        "1,2\n3,4",
        "0,5\n0,6",
        "frame,score\n0,1\n1,2",
        "\0\1\2",
        "1;2\n3;4",
    ):
        for suffix in (".txt", ".csv"):
            path = tmp_path / f"s{suffix}"
            path.write_text(content)
            assert str(path) in refusal(foreign, path, masks), content
    for data in (b"", b"\x93NUMPY", b"\xff\xfe1\x002", bytes(range(256))):
        for suffix in (".npy", ".txt", ".csv"):
            path = tmp_path / f"s{suffix}"
            path.write_bytes(data)
            assert str(path) in refusal(foreign, path, masks), data
    np.savez(tmp_path / "archive.npz", SCORES["x1"])
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    for path, words in (
        (tmp_path / "archive.npy", "(N,)"),
        (tmp_path / "gone.npy", "no such file"),
        (tmp_path / "s.pkl", ""),
    ):
        assert words in refusal(foreign, path, masks)
    (tmp_path / "s.pkl").write_bytes(b"")
    assert ".npy, .csv, .txt" in refusal(foreign, tmp_path / "s.pkl", masks)


def test_scores_that_are_not_finite(tmp_path, masks):
    scores = SCORES | {"x1": np.where(TRUTH["x1"] == 1, np.inf, SCORES["x1"]), "x2": np.full(6, np.nan)}
    with pytest.warns(UserWarning) as caught:
        videos = read_foreign_evaluation(folder_of(tmp_path / "s", scores), "normal", EVERYTHING, masks).videos
    assert [(video.name, len(video.frames)) for video in videos] == [("x1", 6), ("x10", 7)]
    said = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert len(said) == 2 and "2 of 8 scores of video x1" in said[0] and "frame 5" in said[0] and "6 of 6" in said[1]
    nothing = save(tmp_path / "nothing.npy", np.full(21, np.nan))
    assert "no finite score" in refusal(read_foreign_evaluation, nothing, "normal", EVERYTHING, masks)
    huge = save(tmp_path / "huge.npy", np.resize([1.7e308, -1.7e308, 0.5], 21))  # their difference is no number
    with pytest.warns(UserWarning, match="not finite"):
        videos = read_foreign_evaluation(huge, "normal", EVERYTHING, masks).videos
    assert all(np.isfinite(x).all() for x in normality_under(Protocol(), videos, {"score": 1.0}))


def test_video_too_short_for_the_crop(tmp_path, masks):
    cut = {name: x[4:-3] for name, x in SCORES.items()}                                      # 1, 0 and 0 frames
    with pytest.warns(UserWarning) as caught:
        videos = read_foreign_evaluation(save(tmp_path / "s.npy", cut["x1"]), "normal", slice(4, -3), masks).videos
    assert [video.name for video in videos] == ["x1"]
    assert [f"video {name}" in str(warning.message) for name, warning in zip(("x2", "x10"), caught, strict=True)] == [
        True
    ] * 2


@pytest.mark.parametrize(
    ("drop_first", "crop", "rule"),
    [
        (None, None, EVERYTHING),
        (0, None, EVERYTHING),
        (4, None, slice(4, None)),
        (None, "8:-7", slice(8, -7)),
        (None, "4:", slice(4, None)),
        (None, ":-4", slice(None, -4)),
        (None, "8:100", slice(8, 100)),
        (None, ":", EVERYTHING),
    ],
)
def test_rules(drop_first, crop, rule):
    assert parse_rule(drop_first, crop) == rule


@pytest.mark.parametrize(("drop_first", "crop"), [(4, "8:-7"), (-1, None), (None, "8"), (None, "8:-7:2"), (None, "a:b"),
                                                  (None, "-4:"), (None, "1.5:"), (0, "4:")])
def test_rules_that_are_none(drop_first, crop):
    said = refusal(parse_rule, drop_first, crop)
    assert all(
        f"{flag} {value}" in said
        for flag, value in (("--drop-first", drop_first), ("--crop", crop))
        if value is not None
    )
