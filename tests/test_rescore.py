"""evaluate.py --scores: every number again from a score file, ours or another program's, without the network."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from helpers import run, sentence, shell
from sklearn.metrics import roc_auc_score

import evaluate
from lgn_net.config import Config
from lgn_net.data.labels import read_ranges
from lgn_net.datasets import BENCHMARKS
from lgn_net.scores.maps import FrameMap, load_maps, save_maps
from lgn_net.scores.protocols import GRID, PAPER, Protocol, grid, normality_under, paper_weights
from lgn_net.scores.score_file import VideoScores, read_scores, write_scores


def published(dataset, source="official", first=4):
    return {name: y[first:] for name, y in read_ranges(BENCHMARKS[dataset].truths[source]).items()}


def made_scores(labels, seed=0, skill=1.0, first=4):
    """A fair detector: its PSNR falls and its distance rises by `skill` standard deviations where a frame is
    abnormal."""
    rng = np.random.default_rng(seed)
    return [
        VideoScores(
            name,
            np.arange(first, first + len(y)),
            {
                "psnr": 30 - 3 * skill * y + rng.normal(0, 3, len(y)),
                "distance": 0.2 + 0.05 * skill * y + rng.normal(0, 0.05, len(y)),
            },
            y,
        )
        for name, y in labels.items()
    ]


SMALL = {"a": np.arange(30) % 5 // 4, "b": np.arange(20) // 12, "c": np.zeros(10, int)}


@pytest.fixture
def small(tmp_path):
    """A score file of three videos and nothing beside it."""
    write_scores(tmp_path / "small.csv", made_scores(SMALL))
    return tmp_path / "small.csv"


def headline(result):
    """The printed AUC, in percent."""
    assert result.status == 0, result
    return float(re.search(r"^  AUC +([0-9.]+) %", result.out, re.MULTILINE)[1])


def measured(out, *argv):
    """Run with --out, and read the results."""
    result = run(evaluate.main, *argv, "--out", out)
    assert result.status == 0, result
    return json.loads((out / "results.json").read_text())


# ------------------------------------------------------------------------------------------------------- what comes out

def test_numbers_of_a_lone_file(small):
    """Nothing is beside it, and nothing is written."""
    result = run(evaluate.main, "--scores", small)
    videos = read_scores(small, ("psnr", "distance"))
    weights = paper_weights(0.6)
    y = np.concatenate([video.labels for video in videos])
    expected = 100 * roc_auc_score(y, -np.concatenate(normality_under(Protocol(), videos, weights)))
    assert headline(result) == pytest.approx(expected, abs=0.005) and not result.warnings()
    assert (
        "1,000 resamples" in result.out
        and "3 videos (1 with frames of one class only), 60 frames scored, 14" in result.out
    )
    rows = [line for line in result.out.splitlines() if line.startswith(("| micro", "| macro", "| padded"))]
    cells = [cell.strip(" *") for row in rows for cell in row.split("|")[3:-1]]
    values = grid(videos, weights)
    assert cells == ["-" if value is None else f"{100 * value:.2f}" for value in
                     (values[protocol] for protocol in GRID)]
    assert {path.name for path in small.parent.iterdir()} <= {"small.csv", "theirs.npy"}


def test_the_paper_alone(small):
    result = run(evaluate.main, "--scores", small, "--protocol", "paper")
    assert headline(result) == headline(run(evaluate.main, "--scores", small)) and "|" not in result.out


def test_what_is_written_is_read_again(small, tmp_path):
    results = measured(tmp_path / "out", "--scores", small, "--lambda", 0.3, "--score.normalize", "dataset")
    assert {"scores.csv", "results.json", "curves_1.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert {"auc", "interval", "grid", "per_video", "eer", "average_precision", "protocol"} <= results.keys()
    assert len(results["grid"]) == len(GRID) and results["signals"] == {"psnr": 0.3, "distance": -0.7}
    first, second = (
        read_scores(small, ("psnr", "distance")),
        read_scores(tmp_path / "out/scores.csv", ("psnr", "distance")),
    )
    for a, b in zip(first, second, strict=True):
        assert a.frames.tolist() == b.frames.tolist() and a.labels.tolist() == b.labels.tolist()
        assert all(a.signals[name].tolist() == b.signals[name].tolist() for name in a.signals)
    normal = normality_under(Protocol("dataset"), first, paper_weights(0.3))
    assert [video.signals["normality"].tolist() for video in second] == [x.tolist() for x in normal]
    again = run(evaluate.main, "--scores", tmp_path / "out/scores.csv", "--lambda", 0.3, "--score.normalize", "dataset")
    assert headline(again) == pytest.approx(100 * results["auc"], abs=0.005)


def test_lambda(small, tmp_path):
    """At its ends a signal alone; in between neither; and another one than the file was written with is worth
    a word."""
    results = measured(tmp_path / "out", "--scores", small, "--lambda", 0.5)
    auc = {weight: headline(run(evaluate.main, "--scores", small, "--lambda", weight)) for weight in (0, 0.5, 1)}
    assert auc[0.5] == pytest.approx(100 * results["auc"], abs=0.005) != auc[0] != auc[1]
    assert (auc[1], auc[0]) == pytest.approx((100 * results["auc_psnr"], 100 * results["auc_distance"]), abs=0.005)
    written = tmp_path / "out/scores.csv"
    assert not run(evaluate.main, "--scores", written, "--lambda", 0.5).warnings()
    warning, = run(evaluate.main, "--scores", written, "--lambda", 0.9).warnings()
    assert "lambda 0.5; here it is 0.9" in warning


def test_protocol_knobs(small):
    """The headline moves with them, to where the grid says."""
    values = grid(read_scores(small, ("psnr", "distance")), paper_weights(0.6))
    for argv, protocol in (
        (["--score.smoothing", 3], Protocol(sigma=3.0)),
        (["--score.average", "macro"], Protocol(average="macro")),
        (["--score.normalize", "causal"], Protocol("causal")),
        (["--score.normalize", "none"], Protocol("none")),
    ):
        result = run(evaluate.main, "--scores", small, *argv)
        assert headline(result) == pytest.approx(100 * values[protocol], abs=0.005) and str(protocol) in result.out
    said = sentence(run(evaluate.main, "--scores", small, "--score.normalize", "training"))
    assert "calibration.csv" in said


def test_one_class_and_one_video(tmp_path):
    write_scores(tmp_path / "normal.csv", made_scores({"a": np.zeros(9, int), "b": np.zeros(5, int)}))
    result = run(evaluate.main, "--scores", tmp_path / "normal.csv", "--out", tmp_path / "out")
    assert "0 of 14 scored frames are abnormal" in sentence(result)
    assert "mean PSNR, normal frames" in result.out and "one class" in result.out
    assert json.loads((tmp_path / "out/results.json").read_text())["auc"] is None
    write_scores(tmp_path / "one.csv", made_scores({"a": np.arange(20) % 2}))
    result = run(evaluate.main, "--scores", tmp_path / "one.csv", "--compare", tmp_path / "one.csv")
    assert headline(result) > 50 and result.out.count("one video cannot be resampled") == 2


def test_as_large_as_shanghaitech(tmp_path):
    """107 videos, 40,363 frames: a thousand resamples, and the headline against scikit-learn."""
    lengths = np.full(107, 377) + (np.arange(107) < 24)
    labels = {f"{v:02d}_{v % 9:04d}": (np.arange(n) // 60 % 3 == 1).astype(int) for v, n in enumerate(lengths)}
    write_scores(tmp_path / "s.csv", made_scores(labels))
    result = run(evaluate.main, "--scores", tmp_path / "s.csv", "--protocol", "paper", "--compare", tmp_path / "s.csv")
    assert "107 videos, 40,363 frames" in result.out and "1,000 resamples of the videos" in result.out
    assert "107 videos resampled in pairs, 1,000 times" in result.out
    normal = normality_under(Protocol(), read_scores(tmp_path / "s.csv", ("psnr", "distance")), paper_weights(0.6))
    assert headline(result) == pytest.approx(
        100 * roc_auc_score(np.concatenate(list(labels.values())), -np.concatenate(normal)), abs=0.005
    )


# -------------------------------------------------------------------------------------------------- Avenue's two truths


def test_both_truths_of_avenue(tmp_path):
    """A detector that knows one truth to the frame, judged by both; either one can be asked for."""
    for first, values in ((0, {"official": 96.79, "ano_pred": 95.52}), (4, {"official": 96.94, "ano_pred": 95.57})):
        truth = {source: published("avenue", source, first) for source in ("official", "ano_pred")}
        for known, other in (("official", "ano_pred"), ("ano_pred", "official")):
            path = tmp_path / f"knows_{known}.csv"
            write_scores(
                path,
                [
                    VideoScores(
                        name,
                        np.arange(first, first + len(y)),
                        {"psnr": 30.0 - y, "distance": 0.1 + y},
                        truth["ano_pred"][name],
                    )
                    for name, y in truth[known].items()
                ],
            )
            result = run(evaluate.main, "--scores", path, "--score.normalize", "dataset")
            own, others = result.out.split("labels: official (bold")
            assert "(ano_pred)" in own and "labels: ano_pred (bold" in own
            cells = {"ano_pred": re.search(r"min-max over all videos +\| +([0-9.]+)", own)[1],
                     "official": re.search(r"min-max over all videos +\| +([0-9.]+)", others)[1]}
            assert (float(cells[known]), float(cells[other])) == (100, values[other])
            argv = "--scores", path, "--score.normalize", "dataset", "--protocol", "paper", "--dataset_type", "avenue"
            for source in ("official", "ano_pred"):
                result = run(evaluate.main, *argv, "--label_source", source)
                assert headline(result) == float(cells[source]) and f"({source})" in result.out
            assert headline(run(evaluate.main, *argv)) == float(cells["ano_pred"])                 # the file's own


def test_comparison_on_avenue_beside_both_truths(tmp_path):
    for name, seed in (("x", 0), ("y", 1)):
        write_scores(tmp_path / f"{name}.csv", made_scores(published("avenue", "ano_pred"), seed))
    result = run(evaluate.main, "--scores", tmp_path / "x.csv", "--compare", tmp_path / "y.csv")
    assert result.status == 0 and "points, 95 % interval" in result.out and "labels: official" in result.out


# ----------------------------------------------------------------------------------------------------------- comparison


def test_compare(tmp_path):
    """The better one is better by what the two headlines differ; frames that one of them lacks are counted."""
    good, poor = (made_scores(published("ped2"), seed, skill) for seed, skill in ((0, 1.5), (1, 0.5)))
    write_scores(tmp_path / "good.csv", good)
    write_scores(tmp_path / "poor.csv", poor)
    files = "--scores", tmp_path / "good.csv", "--compare", tmp_path / "poor.csv"
    results = measured(tmp_path / "out", *files)
    compared = results["compared"]
    alone = headline(run(evaluate.main, "--scores", tmp_path / "poor.csv", "--protocol", "paper"))
    assert compared["auc"] == results["auc"] and 100 * compared["auc_other"] == pytest.approx(alone, abs=0.005)
    assert compared["interval"][0] > 0 and compared["p_value"] < 0.01 and compared["videos"] == 12
    shown = run(evaluate.main, *files, "--protocol", "paper").out
    assert f"difference {100 * compared['difference']:+.2f} points" in shown and "left out" not in shown
    back = run(
        evaluate.main, "--scores", tmp_path / "poor.csv", "--compare", tmp_path / "good.csv", "--protocol", "paper"
    )
    assert f"difference {-100 * compared['difference']:+.2f} points" in back.out

    late = [video._replace(frames=video.frames[6:], labels=video.labels[6:],
                           signals={name: x[6:] for name, x in video.signals.items()}) for video in poor[1:]]
    write_scores(tmp_path / "late.csv", late)
    result = run(
        evaluate.main, "--scores", tmp_path / "good.csv", "--compare", tmp_path / "late.csv", "--protocol", "paper"
    )
    missing = len(poor[0].frames) + 11 * 6
    assert (
        result.status == 0
        and f"11 videos resampled in pairs, 1,000 times; left out: {missing} frames that only this one" in result.out
    )


def test_compare_with_another_lambda_or_without_agreement(small, tmp_path):
    """The other file is judged by what stands beside it, unless a lambda is given: that holds for both."""
    (tmp_path / "theirs").mkdir()
    videos = read_scores(small, ("psnr", "distance"))
    write_scores(tmp_path / "theirs/scores.csv", videos)
    (tmp_path / "theirs/results.json").write_text(json.dumps({"scoring": {"psnr_weight": 1.0}}))
    for knobs, ours, theirs in (((), 0.6, 1), (("--lambda", 0), 0, 0)):
        results = measured(tmp_path / "out", "--scores", small, *knobs, "--compare", tmp_path / "theirs/scores.csv")
        compared = results["compared"]
        alone = [headline(run(evaluate.main, "--scores", small, "--lambda", weight)) for weight in (ours, theirs)]
        assert (100 * compared["auc"], 100 * compared["auc_other"]) == pytest.approx(alone, abs=0.005)
        assert ("psnr 1" in compared["other"]) == (ours != theirs)
    for path, changed, words in (
        ("flipped.csv", [v._replace(labels=1 - v.labels) for v in videos], ["disagree", "30 frames", "video a"]),
        ("others.csv", [v._replace(name=f"other {v.name}") for v in videos], ["no frame in common", "other a"]),
    ):
        write_scores(tmp_path / path, changed)
        said = sentence(run(evaluate.main, "--scores", small, "--compare", tmp_path / path))
        assert all(word in said for word in words), said
    assert "gone.csv: no such file" in sentence(
        run(evaluate.main, "--scores", small, "--compare", tmp_path / "gone.csv")
    )


# ----------------------------------------------------------------------------------------------- other programs' scores


def test_foreign_scores_by_the_command(tmp_path):
    """Both directions, with the labels that ship; the first frames dropped as said, or refused with the rule
    that would fit."""
    truth = published("ped2", first=0)
    scores = {name: video.signals["psnr"] for name, video in
              zip(truth, made_scores({n: y[4:] for n, y in truth.items()}), strict=True)}
    np.save(tmp_path / "theirs.npy", np.concatenate(list(scores.values()))[None])
    argv = "--scores", tmp_path / "theirs.npy", "--dataset_type", "ped2"
    normal, abnormal = (headline(run(evaluate.main, *argv, "--direction", direction, "--drop-first", 4))
                        for direction in ("normal", "abnormal"))
    y = np.concatenate([y[4:] for y in truth.values()])
    scaled = [(x - x.min()) / np.ptp(x) for x in scores.values()]
    assert normal == pytest.approx(100 * roc_auc_score(y, -np.concatenate(scaled)), abs=0.005)
    assert normal + abnormal == pytest.approx(100, abs=0.011)
    result = run(evaluate.main, *argv, "--direction", "normal", "--crop=4:", "--protocol", "paper", "--compare",
                 tmp_path / "theirs.npy", "--out", tmp_path / "out")
    assert headline(result) == normal and "another program's scores" in result.out and "lambda" not in result.out
    assert "difference +0.00 points" in result.out and (tmp_path / "out/scores.csv").is_file()
    said = sentence(run(evaluate.main, *argv, "--direction", "normal"))
    assert all(word in said for word in ("1962 scores", "2010 frames", "--drop-first 4"))
    # What was written is ours: the results.json beside it says what the signal means.
    assert headline(run(evaluate.main, "--scores", tmp_path / "out/scores.csv")) == normal
    (tmp_path / "out/results.json").unlink()
    assert "--direction" in sentence(run(evaluate.main, "--scores", tmp_path / "out/scores.csv"))


def test_ours_against_another_programs(tmp_path):
    """Either may come first; the direction is the other program's."""
    truth = published("ped2")
    videos = made_scores(truth)
    write_scores(tmp_path / "ours.csv", videos)
    np.save(tmp_path / "theirs.npy", np.concatenate([-video.signals["psnr"] for video in videos]))
    rule = "--direction", "abnormal", "--drop-first", 4, "--dataset_type", "ped2", "--lambda", 1
    results = [measured(tmp_path / "out", "--scores", tmp_path / first, "--compare", tmp_path / second, *rule)
               for first, second in (("ours.csv", "theirs.npy"), ("theirs.npy", "ours.csv"))]
    for result in results:
        assert result["compared"]["difference"] == pytest.approx(0, abs=1e-12)
        assert result["compared"]["frames"] == result["frames"] == 1962
    assert "says itself" in sentence(run(evaluate.main, "--scores", tmp_path / "ours.csv", *rule))
    assert "--direction" in sentence(run(evaluate.main, "--scores", tmp_path / "theirs.npy"))


def test_what_the_network_settled_cannot_be_changed(small, tmp_path):
    """Knobs of scoring go into the new record, knobs of the network stay those of the old one."""
    config = asdict(Config())
    about = {"config": config, "frames": 60, "complete_benchmark": False}
    (small.parent / "results.json").write_text(json.dumps(about))
    for knob, words in (("--gamma", ["score.gamma was 0.009", "0.5"]), ("--score.psnr_peak", ["psnr_peak"])):
        value = 0.5 if knob == "--gamma" else "prediction"
        said = sentence(run(evaluate.main, "--scores", small, knob, value, "--out", tmp_path / "out"))
        assert all(word in said for word in words) and not (tmp_path / "out").exists()
    knobs = "--lambda", 0.3, "--score.smoothing", 3, "--score.normalize", "causal", "--score.average", "macro"
    first = measured(tmp_path / "out", "--scores", small, *knobs)
    assert first["config"] == config and first["complete_benchmark"] is False
    assert first["scoring"] == {"psnr_weight": 0.3, "smoothing": 3, "normalize": "causal", "average": "macro"}
    again = measured(tmp_path / "again", "--scores", tmp_path / "out/scores.csv")         # with the knobs of the record
    assert again["auc"] == first["auc"] and again["protocol"] == first["protocol"]

    lines = small.read_text().splitlines()
    small.write_text("\n".join(lines[:-5]) + "\n")
    result = run(evaluate.main, "--scores", small, "--out", tmp_path / "cut")
    assert "holds 55 frames" in result.warnings()[0] and "60" in result.warnings()[0]
    assert "complete_benchmark" not in json.loads((tmp_path / "cut/results.json").read_text())


def test_maps_are_judged_by_the_scores_of_now(small, tmp_path):
    videos = read_scores(small, ("psnr", "distance"))
    picture = np.zeros((8, 8, 1), np.uint8)
    normal = normality_under(PAPER, videos, paper_weights(0.6))
    maps = [FrameMap(video.name, int(video.frames[k]), kind, x[k], int(video.labels[k]), picture, picture,
                     np.ones((8, 8), np.float32), (0, 0, 8, 8))
            for video, x, k, kind in ((videos[0], normal[0], 2, "miss"), (videos[1], normal[1], 3, "false alarm"))]
    save_maps(small.parent / "maps.npz", [*maps, maps[0]._replace(video="of another file")])
    for weight, kinds in ((0.6, ["miss", "false alarm"]), (0, ["chosen", "chosen"])):
        measured(tmp_path / "out", "--scores", small, "--lambda", weight)
        again, normal = load_maps(tmp_path / "out/maps.npz"), normality_under(PAPER, videos, paper_weights(weight))
        assert [one.kind for one in again] == kinds
        assert [one.normality for one in again] == [normal[0][2], normal[1][3]]


def test_nothing_is_replaced_when_the_comparison_fails(small, tmp_path):
    measured(tmp_path / "out", "--scores", small)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    write_scores(tmp_path / "others.csv", [v._replace(name=f"other {v.name}") for v in read_scores(small, ("psnr",))])
    result = run(evaluate.main, "--scores", small, "--lambda", 0, "--out", tmp_path / "out", "--compare",
                 tmp_path / "others.csv")
    assert "no frame in common" in sentence(result)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("content", [{"signals": 3}, {"localization": 3}, {"quality": 3}, {"memories": {}},
                                     {"scoring": 1}, [], 3, {"config": 3}], ids=str)
def test_results_that_are_none(small, content):
    (small.parent / "results.json").write_text(json.dumps(content))
    assert "results.json was not written by evaluate.py" in sentence(run(evaluate.main, "--scores", small))


def test_foreign_scores_without_labels(tmp_path):
    (tmp_path / "t.csv").write_text("video,frame,score\na,0,0.5\na,1,0.25\nb,0,1\n")
    result = run(evaluate.main, "--scores", tmp_path / "t.csv", "--direction", "normal", "--out", tmp_path / "out")
    assert "undefined" in sentence(result) and "no labels" in result.warnings()[0]
    assert len((tmp_path / "out/scores.csv").read_text().splitlines()) == 4


# ------------------------------------------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--checkpoint", "last.pt"], ["last.pt"]),
        (["--model_dir", "60model.pth"], []),
        (["--m_items_dir", "60keys.pt"], []),
        (["--drop-first", 4], ["--direction"]),
        (["--crop", "8:-7"], ["--direction"]),
        (["--direction", "normal", "--drop-first", 4, "--crop", "4:"], ["not both"]),
        (["--direction", "up"], ["--direction", "up"]),
        (["--direction", "normal", "--crop", "8"], ["--crop 8", "8:-7"]),
        (["--lambda", 2], ["lambda", "0 to 1"]),
        (["--protocol", "best"], ["best"]),
        (["--labels", "nowhere.npy"], ["nowhere.npy", "no such file"]),
        (["--label_source", "official"], ["--dataset_type"]),
        (["--label_source", "official", "--dataset_type", "ped2"], ["'a'", "ped2"]),
        (["--dataset_path", "nowhere", "--direction", "normal"], ["nowhere"]),
        (["--score.smoothing", -1], ["smoothing"]),
        (["--compare", "nowhere.csv"], ["nowhere.csv"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_bad_arguments(small, argv, words):
    if "--direction" in argv:
        small = small.with_name("theirs.npy")
        np.save(small, np.zeros(60))
    said = sentence(run(evaluate.main, "--scores", small, *argv))
    assert all(word in said for word in words), said
    assert {path.name for path in small.parent.iterdir()} <= {"small.csv", "theirs.npy"}


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"config": 3}', '{"config": {"score": {"lamda": 1}}}', '{"config": {"score": 3}}']
)
def test_damaged_results_beside_the_scores(small, content):
    (small.parent / "results.json").write_text(content)
    for argv in (["--scores", small], ["--scores", small, "--lambda", 0.5]):
        sentence(run(evaluate.main, *argv))


def test_torch_stays_away(small):
    """A second of a command must not wait for seconds of imports."""
    result = shell("-X", "importtime", "evaluate.py", "--scores", small)
    imported = {line.rpartition("|")[2].strip() for line in result.err.splitlines() if line.startswith("import time:")}
    assert headline(result) > 50 and "numpy" in imported
    assert not imported & {"torch", "torchvision", "tensorboard", "sklearn"}
