"""scripts/measure.py: every number again from a score file, ours or another program's, without the network."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from helpers import ROOT, load_script, run, sentence, shell
from sklearn.metrics import roc_auc_score

import evaluate
from lgn_net.config import Config
from lgn_net.data.labels import read_ranges
from lgn_net.datasets import BENCHMARKS
from lgn_net.report.tables import grid_table
from lgn_net.scores.maps import FrameMap, load_maps, save_maps
from lgn_net.scores.protocols import PAPER, Protocol, grid, measure, normality_under, paper_weights
from lgn_net.scores.results import Results, read_results, write_results
from lgn_net.scores.score_file import VideoScores, read_scores, write_scores

main = load_script("scripts/measure.py").main
SIGNALS = ("psnr", "distance")
SMALL = {"a": np.arange(30) % 5 // 4, "b": np.arange(20) // 12, "c": np.zeros(10, int)}


def published(dataset, source="official", first=4):
    return {name: y[first:] for name, y in read_ranges(BENCHMARKS[dataset].truths[source]).items()}


def made_scores(labels, seed=0, skill=1.0, first=4):
    """A fair detector: PSNR falls and distance rises by `skill` standard deviations where a frame is abnormal."""
    rng = np.random.default_rng(seed)
    return [VideoScores(name, np.arange(first, first + len(y)),
                        {"psnr": 30 - 3 * skill * y + rng.normal(0, 3, len(y)),
                         "distance": 0.2 + 0.05 * skill * y + rng.normal(0, 0.05, len(y))}, y)
            for name, y in labels.items()]


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
    result = run(main, *argv, "--out", out)
    assert result.status == 0, result
    return read_results(out / "results.json")


def beside(path, **about):
    """Write results.json beside a score file, as evaluate.py would."""
    videos, weights = read_scores(path, SIGNALS), paper_weights(0.6)
    write_results(path.with_name("results.json"), Results(
        **{"label_source": None, "protocol": "p", "signals": weights} | about | vars(measure(videos, weights))))


# ---------------------------------------------------------------------------------------------------------- golden file

def test_results_are_those_of_before(tmp_path):
    """results.json of a network with three memories, written before results had a type: keys and values stay.

    scikit-learn's AUC may differ in the last digits.
    """
    golden = ROOT / "tests" / "golden"
    content = json.loads((golden / "results.json").read_text())
    assert json.loads(json.dumps(read_results(golden / "results.json").to_dict())) == content
    results = measured(tmp_path / "out", "--scores", golden / "scores.csv")
    assert len(results.auc_of) == 4 and results.memories[2].live_items > 0

    def check(old, new, where):
        if isinstance(old, dict | list):
            assert set(old) == set(new) if isinstance(old, dict) else len(old) == len(new), where
            for key in old if isinstance(old, dict) else range(len(old)):
                check(old[key], new[key], f"{where}.{key}")
        else:
            assert new == (pytest.approx(old, rel=1e-12) if isinstance(old, float) else old), where

    check(content | {"scores": "", "labels": ""},
          json.loads((tmp_path / "out/results.json").read_text()) | {"scores": "", "labels": ""}, "results")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}", b"\xff", {"localization": 3}, {"per_video": [3]},
                                     {"of_another_version": 1}, {"compared": {"other": 3}}], ids=repr)
def test_files_that_hold_no_results(small, content):
    beside(small)
    path = small.with_name("results.json")
    path.write_bytes(content if isinstance(content, bytes) else
                     json.dumps(json.loads(path.read_text()) | content).encode())
    assert "results.json was not written" in sentence(run(main, "--scores", small))


# ------------------------------------------------------------------------------------------------------- what comes out

def test_numbers_of_a_lone_file(small):
    """Nothing is beside it, and nothing is written; evaluate.py --scores gives the same."""
    result = run(main, "--scores", small)
    videos, weights = read_scores(small, SIGNALS), paper_weights(0.6)
    y = np.concatenate([video.labels for video in videos])
    expected = 100 * roc_auc_score(y, -np.concatenate(normality_under(Protocol(), videos, weights)))
    assert headline(result) == pytest.approx(expected, abs=0.005) and not result.warnings()
    assert "3 videos (1 with frames of one class only), 60 frames scored, 14" in result.out
    assert grid_table(grid(videos, weights)) in result.out
    assert {path.name for path in small.parent.iterdir()} == {"small.csv"}
    assert run(evaluate.main, "--scores", small).out == result.out
    alone = run(main, "--scores", small, "--protocol", "paper")
    assert headline(alone) == headline(result) and "|" not in alone.out


def test_what_is_written_is_read_again(small, tmp_path):
    results = measured(tmp_path / "out", "--scores", small, "--lambda", 0.3, "--score.normalize", "dataset")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"scores.csv", "results.json", "curves_1.png", "report.html"} <= written
    assert len(results.grid) == 60 and results.signals == {"psnr": 0.3, "distance": -0.7}
    first, second = (read_scores(path, SIGNALS) for path in (small, tmp_path / "out/scores.csv"))
    normal = normality_under(Protocol("dataset"), first, paper_weights(0.3))
    for a, b, x in zip(first, second, normal, strict=True):
        assert a.frames.tolist() == b.frames.tolist() and a.labels.tolist() == b.labels.tolist()
        assert {name: x.tolist() for name, x in (a.signals | {"normality": x}).items()} == {
            name: x.tolist() for name, x in b.signals.items()}
    results = measured(tmp_path / "out", "--scores", small)
    for weight, name in ((0, "distance"), (1, "psnr")):
        alone = headline(run(main, "--scores", small, "--lambda", weight, "--protocol", "paper"))
        assert alone == pytest.approx(100 * results.auc_of[name], abs=0.005)


def test_protocol_knobs(small):
    """The headline moves with them, to where the grid says."""
    values = grid(read_scores(small, SIGNALS), paper_weights(0.6))
    result = run(main, "--scores", small, "--score.smoothing", 3, "--score.average", "macro", "--score.normalize",
                 "causal", "--protocol", "paper")
    assert headline(result) == pytest.approx(100 * values[Protocol("causal", 3.0, "macro")], abs=0.005)
    assert "calibration.csv" in sentence(run(main, "--scores", small, "--score.normalize", "training"))


def test_one_class_and_one_video(tmp_path):
    write_scores(tmp_path / "normal.csv", made_scores({"a": np.zeros(9, int), "b": np.zeros(5, int)}))
    result = run(main, "--scores", tmp_path / "normal.csv", "--out", tmp_path / "out")
    assert "0 of 14 scored frames are abnormal" in sentence(result)
    assert "mean PSNR, normal frames" in result.out and read_results(tmp_path / "out/results.json").auc is None
    write_scores(tmp_path / "one.csv", made_scores({"a": np.arange(20) % 2}))
    result = run(main, "--scores", tmp_path / "one.csv", "--compare", tmp_path / "one.csv")
    assert headline(result) > 50 and "no interval" in result.out


@pytest.mark.slow
def test_both_truths_of_avenue(tmp_path):
    """A detector that knows one truth to the frame, measured by both; either one can be asked for."""
    truth, values = {source: published("avenue", source) for source in ("official", "ano_pred")}, {}
    for known in truth:
        path = tmp_path / f"knows_{known}.csv"
        write_scores(path, [VideoScores(name, np.arange(4, 4 + len(y)), {"psnr": 30.0 - y, "distance": 0.1 + y},
                                        truth["ano_pred"][name]) for name, y in truth[known].items()])
        argv = "--scores", path, "--score.normalize", "dataset"
        own, others = run(main, *argv).out.split("labels: official (bold")
        assert "(ano_pred)" in own and "labels: ano_pred (bold" in own
        argv = *argv, "--protocol", "paper", "--dataset_type", "avenue"
        for source, text in (("ano_pred", own), ("official", others)):
            result = run(main, *argv, "--label_source", source)
            assert f"({source})" in result.out
            values[known, source] = headline(result)
            assert values[known, source] == float(re.search(r"min-max over all videos +\| +([0-9.]+)", text)[1])
        assert headline(run(main, *argv)) == values[known, "ano_pred"]                    # the file's own
    assert values == {("official", "official"): 100, ("official", "ano_pred"): 95.57, ("ano_pred", "official"): 96.94,
                      ("ano_pred", "ano_pred"): 100}


def test_compare(small, tmp_path):
    """The difference is that of the two headlines. The other file keeps its lambda, unless one is given for both."""
    (tmp_path / "theirs").mkdir()
    theirs = tmp_path / "theirs/scores.csv"
    write_scores(theirs, made_scores(SMALL, skill=0.2))
    beside(theirs, scoring={"psnr_weight": 1.0})
    for knobs, ours, other in (((), 0.6, 1), (("--lambda", 0), 0, 0)):
        argv = "--scores", small, *knobs, "--compare", theirs, "--protocol", "paper"
        compared = measured(tmp_path / "out", *argv).compared
        alone = [headline(run(main, "--scores", path, "--lambda", weight, "--protocol", "paper"))
                 for path, weight in ((small, ours), (theirs, other))]
        assert (100 * compared.auc, 100 * compared.auc_other) == pytest.approx(alone, abs=0.005)
        assert ("psnr 1" in compared.other) == (ours != other)
    shown = run(main, "--scores", small, "--lambda", 0, "--compare", theirs).out
    assert f"difference {100 * compared.difference:+.2f} points, 95 % interval" in shown
    # Nothing is replaced when the comparison fails.
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    write_scores(tmp_path / "flipped.csv", [v._replace(labels=1 - v.labels) for v in read_scores(small, SIGNALS)])
    for name, words in (("flipped.csv", "disagree"), ("gone.csv", "gone.csv")):
        argv = "--scores", small, "--lambda", 1, "--out", tmp_path / "out", "--compare", tmp_path / name
        said = sentence(run(main, *argv))
        assert words in said and {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.slow
def test_foreign_scores_by_the_command(tmp_path):
    """Both directions, with the labels that ship; beside ours in either order; what is written is ours."""
    truth = published("ped2")
    videos = made_scores(truth)
    np.save(tmp_path / "theirs.npy", np.concatenate([video.signals["psnr"] for video in videos])[None])
    write_scores(tmp_path / "ours.csv", videos)
    argv = "--scores", tmp_path / "theirs.npy", "--dataset_type", "ped2", "--protocol", "paper"
    normal, abnormal = (headline(run(main, *argv, "--direction", direction, "--drop-first", 4))
                        for direction in ("normal", "abnormal"))
    y, scaled = np.concatenate(list(truth.values())), [(x - x.min()) / np.ptp(x) for x in
                                                       (video.signals["psnr"] for video in videos)]
    assert normal == pytest.approx(100 * roc_auc_score(y, -np.concatenate(scaled)), abs=0.005)
    assert normal + abnormal == pytest.approx(100, abs=0.011)
    said = sentence(run(main, *argv, "--direction", "normal"))
    assert all(word in said for word in ("1962 scores", "2010 frames", "--drop-first 4"))
    rule = "--direction", "normal", "--crop=4:", "--dataset_type", "ped2", "--lambda", 1, "--protocol", "paper"
    for first, second in (("ours.csv", "theirs.npy"), ("theirs.npy", "ours.csv")):
        results = measured(tmp_path / "out", "--scores", tmp_path / first, "--compare", tmp_path / second, *rule)
        assert results.compared.difference == pytest.approx(0, abs=1e-12) and results.compared.frames == 1962
    assert "another program's scores" in results.protocol and results.direction == "high is normal"
    assert headline(run(main, "--scores", tmp_path / "out/scores.csv", "--protocol", "paper")) == normal
    (tmp_path / "out/results.json").unlink()
    for path in (tmp_path / "out/scores.csv", tmp_path / "theirs.npy"):
        assert "--direction" in sentence(run(main, "--scores", path))
    assert "--direction" in sentence(run(main, "--scores", tmp_path / "ours.csv", *rule))


def test_what_the_network_settled_cannot_be_changed(small, tmp_path):
    """Knobs of scoring go into the new record, knobs of the network stay those of the old one."""
    config = asdict(Config())
    beside(small, config=config, complete_benchmark=False)
    for knob, value in (("--gamma", 0.5), ("--score.psnr_peak", "prediction")):
        said = sentence(run(main, "--scores", small, knob, value, "--out", tmp_path / "out"))
        assert "when the network ran" in said and str(value) in said and not (tmp_path / "out").exists()
    knobs = "--lambda", 0.3, "--score.smoothing", 3, "--score.normalize", "causal", "--score.average", "macro"
    first = measured(tmp_path / "out", "--scores", small, *knobs)
    assert first.config == config and first.complete_benchmark is False
    assert first.scoring == {"psnr_weight": 0.3, "smoothing": 3, "normalize": "causal", "average": "macro"}
    again = measured(tmp_path / "again", "--scores", tmp_path / "out/scores.csv")         # with the knobs of the record
    assert again.auc == first.auc and again.protocol == first.protocol
    small.write_text("\n".join(small.read_text().splitlines()[:-5]) + "\n")
    result = run(main, "--scores", small, "--out", tmp_path / "cut")
    assert "holds 55 frames" in result.warnings()[0] and "60" in result.warnings()[0]
    assert read_results(tmp_path / "cut/results.json").complete_benchmark is None


def test_maps_get_the_normality_of_now(small, tmp_path):
    videos = read_scores(small, SIGNALS)
    picture = np.zeros((8, 8, 1), np.uint8)
    normal = normality_under(PAPER, videos, paper_weights(0.6))
    maps = [FrameMap(videos[v].name, int(videos[v].frames[k]), kind, normal[v][k], int(videos[v].labels[k]), picture,
                     picture, np.ones((8, 8), np.float32), (0, 0, 8, 8)) for v, k, kind in ((0, 2, "miss"),
                                                                                         (1, 3, "false alarm"))]
    save_maps(small.parent / "maps.npz", [*maps, maps[0]._replace(video="of another file")])
    for weight, kinds in ((0.6, ["miss", "false alarm"]), (0, ["chosen", "chosen"])):
        measured(tmp_path / "out", "--scores", small, "--lambda", weight, "--protocol", "paper")
        again, normal = load_maps(tmp_path / "out/maps.npz"), normality_under(PAPER, videos, paper_weights(weight))
        assert [one.kind for one in again] == kinds
        assert [one.normality for one in again] == [normal[0][2], normal[1][3]]


@pytest.mark.parametrize("argv, word", [
    (["--checkpoint", "last.pt"], "last.pt"), (["--maps", 3], "--maps"), (["--drop-first", 4], "--direction"),
    (["--crop", "8:-7"], "--direction"), (["--direction", "normal", "--drop-first", 4, "--crop", "4:"], "one of"),
    (["--direction", "up"], "up"), (["--direction", "normal", "--crop", "8"], "--crop 8"),
    (["--lambda", 2], "0 to 1"), (["--protocol", "best"], "best"), (["--labels", "nowhere.npy"], "nowhere.npy"),
    (["--label_source", "official"], "--dataset_type"),
    (["--label_source", "official", "--dataset_type", "ped2"], "'a'"),
    (["--dataset_path", "nowhere", "--direction", "normal"], "nowhere"), (["--compare", "nowhere.csv"], "nowhere.csv"),
], ids=lambda value: " ".join(map(str, value)))
def test_bad_arguments(small, argv, word):
    path = small
    if "--direction" in argv:
        path = small.with_name("theirs.npy")
        np.save(path, np.zeros(60))
    assert word in sentence(run(main, "--scores", path, *argv))
    assert {path.name for path in small.parent.iterdir()} <= {"small.csv", "theirs.npy"}


@pytest.mark.slow
def test_torch_stays_away(small):
    """A second of a command must not wait for seconds of imports."""
    result = shell("-X", "importtime", "scripts/measure.py", "--scores", small)
    imported = {line.rpartition("|")[2].strip() for line in result.err.splitlines() if line.startswith("import time:")}
    assert headline(result) > 50 and "numpy" in imported and not imported & {"torch", "torchvision", "tensorboard"}
