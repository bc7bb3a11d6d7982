"""scripts/measure.py: every number again from a score file, ours or another program's, without the network."""

import json
import re
import sys
from dataclasses import asdict

import numpy as np
import pytest
from helpers import ROOT, load_script, made_scores, published, run, sentence
from hostile import raw
from sklearn.metrics import roc_auc_score

import evaluate
from lgn_net.config import Config
from lgn_net.report.tables import percent
from lgn_net.scores.maps import FrameMap, load_maps, save_maps
from lgn_net.scores.protocols import PAPER, Protocol, grid, normality_under, paper_weights
from lgn_net.scores.score_file import VideoScores, read_scores, write_scores

main = load_script("scripts/measure.py").main
SIGNALS = ("psnr", "distance")
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


def alone(*argv):
    """The AUC of a run without the grid."""
    return headline(run(main, *argv, "--protocol", "paper"))


def measured(out, *argv):
    """Run with --out, and read the results."""
    result = run(main, *argv, "--out", out)
    assert result.status == 0, result
    return json.loads((out / "results.json").read_text())


def beside(path, **about):
    """Write results.json beside a score file, as evaluate.py would."""
    path.with_name("results.json").write_text(json.dumps({"signals": paper_weights(0.6)} | about))


@pytest.mark.slow
def test_results_are_those_of_before(tmp_path):
    """results.json of a network with three memories, as earlier versions wrote it: keys and values stay."""
    golden = ROOT / "tests" / "golden"
    other = {"scores": "", "labels": "", "scores_crc32": 0}                        # places, and rounding
    old = json.loads((golden / "results.json").read_text(), parse_float=lambda x: pytest.approx(float(x), rel=1e-12))
    assert measured(tmp_path / "out", "--scores", golden / "scores.csv") | other == old | other


def test_numbers_of_a_lone_file(small):
    """Nothing is beside it, and nothing is written; evaluate.py --scores gives the same."""
    result = run(main, small)
    videos, weights = read_scores(small, SIGNALS), paper_weights(0.6)
    y = np.concatenate([video.labels for video in videos])
    expected = 100 * roc_auc_score(y, -np.concatenate(normality_under(Protocol(), videos, weights)))
    assert headline(result) == pytest.approx(expected, abs=0.005) and not result.warnings()
    assert "3 videos (1 with frames of one class only), 60 frames scored, 14" in result.out
    values = grid(videos, weights)
    table = re.findall(r"^\| (?:micro|macro|padded) .*", result.out, re.MULTILINE)
    assert [cell.strip("* ") for row in table for cell in row.split("|")[3:-1]] == list(map(percent, values.values()))
    assert f"*{percent(values[PAPER])}*" in result.out and all(len(row) <= 80 for row in table)
    assert {path.name for path in small.parent.iterdir()} == {"small.csv"}
    assert run(evaluate.main, "--scores", small).out == result.out
    result = run(main, f"--scores={small}", "--protocol", "paper", "--score.smoothing", 3, "--score.average", "macro",
                 "--score.normalize", "causal")
    assert headline(result) == pytest.approx(100 * values[Protocol("causal", 3.0, "macro")], abs=0.005)
    assert "|" not in result.out
    assert "calibration.csv" in sentence(run(main, small, "--score.normalize", "training"))


def test_what_is_written_is_read_again(small, tmp_path):
    """Scores, knobs of scoring, decisions by the threshold, what the network was; its knobs cannot be changed."""
    config, picture = asdict(Config()), np.zeros((8, 8, 1), np.uint8)
    beside(small, config=config, complete_benchmark=False)
    one = FrameMap("a", 6, "miss", 0.25, 0, picture, picture, np.ones((8, 8), np.float32))
    save_maps(small.with_name("maps.npz"), [one._replace(video="of another file"), one])
    for knob, value in (("--gamma", 0.5), ("--score.psnr_peak", "prediction")):
        said = sentence(run(main, small, knob, value, "--out", tmp_path / "out"))
        assert "when the network ran" in said and str(value) in said and not (tmp_path / "out").exists()
    knobs = {"psnr_weight": 0.3, "smoothing": 3, "normalize": "dataset", "average": "macro"}
    first = measured(tmp_path / "out", small, "--false_positive_rate", 0.2,
                     *(f"--score.{name}={value}" for name, value in knobs.items()))
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"scores.csv", "results.json", "curves_1.png", "report.html", "maps.npz"}
    assert len(first["grid"]) == 60 and first["signals"] == {"psnr": 0.3, "distance": -0.7}
    assert first["config"] == config and first["complete_benchmark"] is False and first["scoring"] == knobs
    normal = normality_under(Protocol("dataset", 3), read_scores(small, SIGNALS), paper_weights(0.3))
    table = np.genfromtxt(tmp_path / "out/scores.csv", delimiter=",", names=True, dtype=None, encoding=None)
    assert np.array_equal(table["normality"], np.concatenate(normal))
    assert np.array_equal(table["decision"], table["normality"] <= first["at_eer"]["threshold"])
    assert table["decision"][table["label"] == 1].mean() == first["at_eer"]["true_positive_rate"]
    assert first["at_wanted"]["false_positive_rate"] <= first["wanted_false_positive_rate"] == 0.2
    again, = load_maps(tmp_path / "out/maps.npz")
    assert (again.video, again.frame, again.kind, again.normality) == ("a", 6, "chosen", normal[0][2])
    for argv, name in (((), ""), (("--lambda", 0), "_distance"), (("--lambda", 1), "_psnr")):        # with those knobs
        for path in tmp_path / "out/scores.csv", tmp_path / "out":
            assert alone(path, *argv) == pytest.approx(100 * first[f"auc{name}"], abs=0.005)
    text = (tmp_path / "out/scores.csv").read_text()                                         # one digit is damaged
    (tmp_path / "out/scores.csv").write_text(text.replace("6", "5", 1))
    assert "changed or damaged" in run(main, tmp_path / "out").err


def test_a_missing_library_costs_its_own_file(small, tmp_path, monkeypatch):
    """And one sentence each."""
    for library, module in (("matplotlib", "figures"), ("plotly.offline", "page")):
        monkeypatch.setitem(sys.modules, library, None)                                        # importing it now fails
        monkeypatch.delitem(sys.modules, f"lgn_net.report.{module}", raising=False)
    result = run(main, small, "--protocol", "paper", "--out", tmp_path)
    for warning, words in zip(result.warnings(), (("curves_1.png", "pip install matplotlib"),
                                                  ("report.html", "pip install plotly")), strict=True):
        assert all(word in warning for word in words)
    assert headline(result) > 50 and "report.html" not in result.out
    assert {path.name for path in tmp_path.iterdir()} == {small.name, "scores.csv", "results.json", "maps.npz"}


def test_what_is_undefined(tmp_path):
    """Of one class, of one frame, of one video: output and report say so, and nothing else is missing."""
    for labels, status, seen in (({"a": np.zeros(1, int)}, 2, "1 frames scored"),
                                 ({"a": np.arange(20) % 2}, 0, "no interval: one video cannot be resampled")):
        write_scores(tmp_path / "s.csv", made_scores(labels))
        result = run(main, tmp_path / "s.csv", "--out", tmp_path / "out")
        assert result.status == status and ("0 of 1" in result.err) == (status == 2), result
        page = re.sub(r"<(script|style)\b.*?</\1>", "", (tmp_path / "out/report.html").read_text(), flags=re.DOTALL)
        assert seen in page and not re.search(r"\bNone\b|\bnan\b", page + result.out)


@pytest.mark.slow
def test_both_truths_of_avenue(tmp_path):
    """A detector that knows one truth to the frame, measured by both; either one can be asked for."""
    labels = published("avenue", "ano_pred", 4)
    write_scores(tmp_path / "s.csv", [
        VideoScores(name, np.arange(4, 4 + len(y)), {"psnr": 30.0 - y, "distance": 0.1 + y}, labels[name])
        for name, y in published("avenue", "official", 4).items()])
    argv = tmp_path / "s.csv", "--score.normalize", "dataset"
    own, others = run(main, *argv).out.split("labels: official (*")
    assert "labels ano_pred;" in own and "labels: ano_pred (*" in own
    for source, text, expected in (("ano_pred", own, 95.57), ("official", others, 100)):
        assert alone(*argv, "--dataset_type", "avenue", "--label_source", source) == expected
        assert float(re.search(r"min-max over all videos +\| +([0-9.]+)", text)[1]) == expected


def test_compare(small, tmp_path):
    """The difference is that of the two headlines. The other file keeps its lambda, unless one is given for both."""
    (tmp_path / "theirs").mkdir()
    theirs = tmp_path / "theirs/scores.csv"
    write_scores(theirs, made_scores(SMALL, skill=0.2))
    beside(theirs, scoring={"psnr_weight": 1.0})
    for knobs, ours, other in (((), 0.6, 1), (("--lambda", 0), 0, 0)):
        shown = run(main, small, *knobs, "--compare", theirs, "--protocol", "paper").out
        first, second = (float(value) for value in re.search(r"AUC ([0-9.]+) against ([0-9.]+) %", shown).groups())
        assert (first, second) == (alone(small, "--lambda", ours), alone(theirs, "--lambda", other))
        assert ("(psnr 1, distance 0)" in shown) == (ours != other)
        difference = float(re.search(r"difference ([-+][0-9.]+) points\n  \(95 % interval", shown)[1])
        assert difference == pytest.approx(first - second, abs=0.011)
    # Another program's scores take the labels of ours.
    np.save(tmp_path / "flat.npy", np.concatenate([np.arange(4 + len(y)) for y in SMALL.values()]))
    shown = run(main, small, "--compare", tmp_path / "flat.npy", "--direction", "normal", "--protocol", "paper").out
    assert "difference" in shown and "0 frames here, 12 there)" in shown
    # Nothing is written when the comparison fails.
    write_scores(tmp_path / "flipped.csv", [v._replace(labels=1 - v.labels) for v in read_scores(small, SIGNALS)])
    said = sentence(run(main, small, "--out", tmp_path / "out", "--compare", tmp_path / "flipped.csv"))
    assert "disagree" in said and not (tmp_path / "out").exists()


def test_nothing_of_a_file_arrives_raw(tmp_path):
    """One of the texts of tests/hostile.py, in names of any kind; and a results.json that is none."""
    evil = "=1+1\x1b[31m\u202e<img src=x onerror=alert(1)>"
    videos = [video._replace(name=f"{evil}{k}", signals=video.signals | {f"@{evil}": video.signals["psnr"]})
              for k, video in enumerate(made_scores(SMALL))]
    videos[2].signals["psnr"][9] = np.nan                                                        # a warning names it
    write_scores(tmp_path / "s.csv", videos)
    beside(tmp_path / "s.csv", versions={evil: evil}, memories=[{"live_items": 1, "queries_of_item": [1],
                                                                 "item_cosine": 0.5}])
    result = run(main, tmp_path / "s.csv", "--dataset_type", evil, "--out", tmp_path / "out")
    assert headline(result) > 50 and not [*raw(result.out + result.err, tmp_path / "out")]
    for damaged in ({"memories": [{}]}, {"signals": {"psnr": evil}}, {"scoring": {"smoothing": []}}, {"auc": {}}):
        beside(tmp_path / "s.csv", **damaged)
        said = sentence(run(main, tmp_path / "s.csv"))
        assert "score.smoothing" in said if "scoring" in damaged else "results.json" in said


def test_a_wrong_direction_is_asked_for(small, tmp_path):
    """Labels that are read as their own scores, the wrong way round; alone and beside ours."""
    folder = tmp_path / "truth"
    folder.mkdir()
    for name, y in SMALL.items():
        np.save(folder / f"{name}.npy", np.r_[np.zeros(4), y])
    for argv in ((folder,), (small, "--compare", folder)):
        for direction, asked in (("normal", True), ("abnormal", False)):
            result = run(main, *argv, "--labels", folder, "--direction", direction, "--protocol", "paper")
            assert result.status == 0 and asked == any("is --direction wrong?" in line for line in result.warnings())


def test_bad_arguments(small):
    for argv, word in [
            (["--checkpoint", "last.pt"], "evaluate.py"), (["--maps", 3], "--maps"), (["--direction", "up"], "up"),
            (["--lambda", 2], "0 to 1"), (["--protocol", "best"], "best"), (["--labels", "nowhere.npy"], "nowhere.npy"),
            (["--label_source", "official"], "--dataset_type"), (["--compare", "nowhere.csv"], "nowhere.csv")]:
        assert word in sentence(run(main, small, *argv))
        assert {path.name for path in small.parent.iterdir()} == {"small.csv"}
