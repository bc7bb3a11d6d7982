"""evaluate.py and scripts/import_official.py: what they write, and everything that they must refuse."""

import csv
import json
import pickle
import shutil

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, Bomb, edit_checkpoint, load_script, run, sentence, shell, write_videos
from reference import random_official_state
from sklearn.metrics import roc_auc_score

import evaluate
import train
from lgn_net.cli import ALIASES
from lgn_net.config import Config, asdict, flatten
from lgn_net.data.clips import read_frames
from lgn_net.scores.maps import load_maps

import_official, sweep = load_script("scripts/import_official.py"), load_script("scripts/sweep.py")
COLUMNS = ["video", "frame", "psnr", "distance", "regular_score", "memory_updated", "psnr_copy", "psnr_linear",
           "normality", "label"]
LABELS = "video,start,end\n00,5,6\n01,4,4\n01,8,9\n"
SIZES = {"width": 4, "hidden": 4, "layers": 1, "channels": 1, "items": 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Test videos of 8 and 10 frames, with labels, and a training video."""
    folder = tmp_path_factory.mktemp("made")
    write_videos(folder / "made/training/frames", [6])
    write_videos(folder / "made/testing/frames", [8, 10])
    (folder / "made/labels.csv").write_text(LABELS)
    (folder / "tiny.yaml").write_text(TINY)
    return folder


@pytest.fixture(scope="module")
def checkpoint(data):
    """A network after one step."""
    assert run(train.main, "--config", data / "tiny.yaml", "--dataset_path", data, "--device", "cpu", "--exp_dir",
               data / "run", "--train.max_steps", 1).status == 0
    return data / "run/last.pt"


@pytest.fixture
def base(data, checkpoint, tmp_path):
    """The arguments of most runs here; later ones win."""
    return "--checkpoint", checkpoint, "--dataset_path", data, "--device", "cpu", "--out", tmp_path / "out"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The authors' two files, for grey frames."""
    folder = tmp_path_factory.mktemp("official")
    state, items = random_official_state(0, **SIZES)
    torch.save(state, folder / "60model.pth")
    torch.save(items, folder / "60keys.pt")
    return folder / "60model.pth", folder / "60keys.pt"


def evaluated(out, *argv):
    """Run, and read what was written."""
    result = run(evaluate.main, *argv, "--out", out)
    assert result.status == 0, result
    return read(out)


def read(out):
    """The columns of scores.csv, as numbers, and the results."""
    with open(out / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    table = {name: np.array([row[name] if name == "video" else float(row[name]) for row in rows]) for name in rows[0]}
    return table, json.loads((out / "results.json").read_text())


def gamma_between(table):
    """A gamma under which about half of the frames are."""
    return float(np.median(table["regular_score"]) + 1e-5)


# ----------------------------------------------------------------------------------------------- what is written

def test_contract(data, checkpoint, tmp_path):
    """What is written beside the checkpoint, where nothing else is said; and again the same."""
    own, out = shutil.copy(checkpoint, tmp_path), tmp_path / "evaluation_last"
    written = []
    for _ in range(2):
        assert run(evaluate.main, "--checkpoint", own, "--dataset_path", data, "--device", "cpu").status == 0
        written.append([(out / name).read_bytes() for name in ("scores.csv", "results.json")])
    table, results = read(out)
    assert written[0] == written[1] and list(table) == COLUMNS
    assert list(zip(table["video"], table["frame"], strict=True)) == [(v, t) for v, length in (("00", 8), ("01", 10))
                                                                      for t in range(4, length)]
    assert table["label"].tolist() == [0, 1, 1, 0] + [1, 0, 0, 0, 1, 1]
    assert results["frames"] == 10 and results["checkpoint"] == str(own)
    assert results["config"] == torch.load(checkpoint, weights_only=True)["config"]
    assert results["versions"]["torch"] == torch.__version__ and results["versions"]["git"]
    assert "micro" in results["protocol"] and "0.6" in results["protocol"] and "0.009" in results["protocol"]
    assert (out / "curves_1.png").read_bytes().startswith(b"\x89PNG")


def minmax(x):
    return (x - x.min()) / (x.max() - x.min())


@pytest.mark.parametrize("knobs", [
    {}, {"--lambda": 0.3, "--score.memory_update": "reset"}, {"--lambda": 0.8, "--score.normalize": "dataset"},
    {"--score.average": "macro"},
], ids=str)
def test_results_follow_from_the_scores(base, tmp_path, knobs):
    """AUCs and normality again from the columns psnr, distance and label, by other means."""
    argv = *base, *(word for pair in knobs.items() for word in pair)
    first, _ = evaluated(tmp_path / "first", *argv)
    gamma = gamma_between(first)
    table, results = evaluated(tmp_path / "second", *argv, f"--gamma={gamma}")
    assert np.array_equal(table["memory_updated"], table["regular_score"] < gamma)
    assert 0 < table["memory_updated"].sum() == results["memory_updates"] < 10
    assert not np.array_equal(table["distance"], first["distance"])                # an update moves what comes after it

    videos = [table["video"] == name for name in ("00", "01")]
    groups = [np.full(10, True)] if "--score.normalize" in knobs else videos

    def normality(weight):
        values = np.zeros(10)
        for group in groups:
            psnr, distance = (minmax(table[name][group]) for name in ("psnr", "distance"))
            values[group] = weight * psnr + (1 - weight) * (1 - distance)
        return values

    np.testing.assert_allclose(table["normality"], normality(knobs.get("--lambda", 0.6)), rtol=0, atol=1e-12)
    for key, values in (("auc", table["normality"]), ("auc_psnr", normality(1)), ("auc_distance", normality(0))):
        over = videos if "--score.average" in knobs else [np.full(10, True)]
        expected = np.mean([roc_auc_score(table["label"][group], 1 - values[group]) for group in over])
        assert results[key] == pytest.approx(expected, abs=1e-12), key


def test_part_of_a_benchmark(data, pair, tmp_path):
    """Two videos under the name ped2: a warning, and the labels have to be given."""
    shutil.copytree(data / "made/testing", tmp_path / "ped2/test")
    argv = ("--dataset_type", "ped2", "--dataset_path", tmp_path, "--model_dir", pair[0], "--m_items_dir", pair[1],
            "--lambda", 0.6, "--gamma", 0.009, "--data.image_size", 16, "--device", "cpu", "--out", tmp_path / "out")
    said = sentence(run(evaluate.main, *argv))
    assert "12 videos" in said and "2 videos" in said and "--labels" in said
    assert not (tmp_path / "out").exists()
    result = run(evaluate.main, *argv, "--labels", data / "made/labels.csv")
    assert result.status == 0
    warning, = result.warnings()
    assert all(word in warning for word in ("2 videos", "18 frames", "12 videos", "2010 frames"))
    assert read(tmp_path / "out")[1]["complete_benchmark"] is False


def test_video_too_short_is_skipped(data, base, tmp_path):
    shutil.copytree(data / "made", tmp_path / "made")
    write_videos(tmp_path / "short", [3])
    shutil.move(tmp_path / "short/00", tmp_path / "made/testing/frames/00b")
    result = run(evaluate.main, *base, "--dataset_path", tmp_path)
    warning, = result.warnings()
    assert result.status == 0 and "video 00b" in warning and "3 frames" in warning
    assert read(tmp_path / "out")[0]["label"].tolist() == [0, 1, 1, 0] + [1, 0, 0, 0, 1, 1]       # as without the video


def test_one_class_only_and_other_scores_beside(base, tmp_path):
    """The file to compare with is checked before the network runs; all is written though the AUC is undefined."""
    labels = tmp_path / "labels.npy"
    np.save(labels, np.zeros(18))
    argv = *base, "--labels", labels
    assert "AUC is undefined" in sentence(run(evaluate.main, *argv))
    table, results = read(tmp_path / "out")
    assert len(table["psnr"]) == 10 and not table["label"].any()
    assert results["auc"] is results["auc_psnr"] is results["auc_distance"] is None
    other = tmp_path / "out/scores.csv"
    other.rename(tmp_path / "normal.csv")
    said = sentence(run(evaluate.main, *base, "--compare", tmp_path / "normal.csv", "--out", tmp_path / "new"))
    assert "disagree on the label" in said and not (tmp_path / "new").exists()
    _, results = evaluated(tmp_path / "new", *base)
    _, again = evaluated(tmp_path / "again", *base, "--score.memory_update", "off", "--compare",
                         tmp_path / "new/scores.csv")
    assert again["compared"]["auc"] == again["auc"] and again["compared"]["auc_other"] == results["auc"]


# --------------------------------------------------------------------------------- calibration, masks, maps, sweeps

def test_calibration_by_training_windows(data, base, tmp_path):
    evaluated(tmp_path / "with", *base)
    lines = (tmp_path / "with/calibration.csv").read_text().splitlines()
    assert lines[0].split(",") == COLUMNS[:-2]
    assert [line.split(",")[:2] for line in lines[1:]] == [["00", "4"], ["00", "5"]]          # 6 frames, 2 windows
    _, results = evaluated(tmp_path / "chosen", *base, "--score.normalize", "training")
    cells = {(cell["scope"], cell["sigma"], cell["average"]): cell["auc"] for cell in results["grid"]}
    assert results["auc"] == cells["training", 0, "micro"] and len(cells) == 60 and None not in cells.values()

    shutil.copytree(data / "made/testing", tmp_path / "made/testing")
    shutil.copy(data / "made/labels.csv", tmp_path / "made")
    _, results = evaluated(tmp_path / "no_training", *base, "--dataset_path", tmp_path)
    assert {cell["scope"] for cell in results["grid"] if cell["auc"] is None} == {"training"}
    assert not (tmp_path / "no_training/calibration.csv").exists()
    assert "training frames" in sentence(run(evaluate.main, *base, "--score.calibration", 0, "--score.normalize",
                                             "training"))


@pytest.mark.slow
def test_masks_maps_and_quality(data, base, tmp_path):
    """With a mask per frame: localisation; 2 misses and 2 false alarms at most, and the frames that were named."""
    shutil.copytree(data / "made", tmp_path / "made")
    for video, length in (("00", 8), ("01", 10)):
        folder = tmp_path / "made/testing/masks" / video
        folder.mkdir(parents=True)
        for t in range(length):
            mask = np.zeros((16, 20), np.uint8)
            mask[4:8, 5:10] = 255 * (t > 5)
            cv2.imwrite(str(folder / f"{t:03d}.png"), mask)
    table, results = evaluated(tmp_path / "out", *base, "--dataset_path", tmp_path, "--quality", "--maps", 2,
                               "--frames", "01:7", "00:4")
    found, maps = results["localization"], load_maps(tmp_path / "out/maps.npz")
    assert (found["frames_with_mask"], found["abnormal_frames"]) == (10, 6) and 0 <= found["pixel_auc"] <= 1
    assert {("01", 7), ("00", 4)} <= {(m.video, m.frame) for m in maps} and len(maps) <= 6
    for m in maps:
        k, = np.flatnonzero((table["video"] == m.video) & (table["frame"] == m.frame))
        assert m.normality == table["normality"][k] and m.label == table["label"][k]
        assert -10 * np.log10(m.error.mean()) == pytest.approx(table["psnr"][k], abs=1e-3)    # the very prediction
        path = tmp_path / f"made/testing/frames/{m.video}/{m.frame:03d}.png"
        assert np.array_equal(m.image, read_frames((str(path),), 1, 16)[0].transpose(1, 2, 0))
    quality = (tmp_path / "out/quality.csv").read_text().splitlines()
    assert quality[0].startswith("video,frame,ssim") and len(quality) == 11
    assert results["quality"]["ssim"] == pytest.approx(np.mean([float(line.split(",")[2]) for line in quality[1:]]))
    page = (tmp_path / "out/report.html").read_text()
    assert "strongest region on mask" in page and page.count("data:image") >= 2 * len(maps)

    _, results = evaluated(tmp_path / "off", *base, "--dataset_path", tmp_path, "--localize", "off", "--maps", 0)
    assert "localization" not in results and load_maps(tmp_path / "off/maps.npz") == []
    (tmp_path / "made/testing/masks/01/003.png").unlink()
    said = sentence(run(evaluate.main, *base, "--dataset_path", tmp_path))
    assert "9 masks" in said and "10 frames" in said


@pytest.mark.slow
def test_sweeps(base, checkpoint, tmp_path):
    """Each line of a sweep is what evaluate.py gives for that value."""
    first, _ = evaluated(tmp_path / "out", *base)
    gamma = gamma_between(first)
    done = run(sweep.main, "gamma", *base, "--gammas", gamma, 0)
    assert done.status == 0 and "oracle" in done.out, done
    with open(tmp_path / "out/sweep_gamma.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["gamma"]) for row in rows] == [0, gamma]
    for row in rows:
        _, results = evaluated(tmp_path / "alone", *base, f"--gamma={row['gamma']}")
        assert [float(row[key]) for key in ("auc", "auc_psnr", "auc_distance", "memory_updates", "frames")] == [
            results[key] for key in ("auc", "auc_psnr", "auc_distance", "memory_updates", "frames")]

    assert run(sweep.main, "lambda", tmp_path / "out", "--steps", 4).status == 0
    with open(tmp_path / "out/sweep_lambda.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lambda"]) for row in rows] == [0, 0.25, 0.5, 0.75, 1]
    for row in rows:
        _, results = evaluated(tmp_path / "alone", *base, "--lambda", row["lambda"])
        assert float(row["auc"]) == pytest.approx(results["auc"], abs=1e-12)
    for name in ("sweep_gamma.png", "sweep_gamma.pdf", "sweep_lambda.png", "sweep_lambda.pdf"):
        assert (tmp_path / "out" / name).read_bytes()[:4] in (b"\x89PNG", b"%PDF")


@pytest.mark.parametrize("argv, word", [
    ([], "lambda or gamma"), (["delta"], "lambda or gamma"), (["lambda", "nowhere"], "nowhere"),
    (["gamma", "--score.memory_update", "off"], "carry"),
])
def test_sweep_of_nothing(base, argv, word):
    assert word in sentence(run(sweep.main, *argv, *(base if argv[:1] == ["gamma"] else ())))


# ----------------------------------------------------------------------------------------------- the authors' files

@pytest.mark.slow
def test_both_ways_to_read_the_authors_pair(data, pair, tmp_path):
    state, items = (torch.load(path, weights_only=True) for path in pair)
    result = run(import_official.main, *pair, "--out", tmp_path / "imported.pt")
    assert result.status == 0 and "5 memory items" in result.out
    weights = torch.load(tmp_path / "imported.pt", weights_only=True)["model"]
    assert torch.equal(weights["memory.items"], items)
    assert torch.equal(weights["decoder.head.6.weight"], state["decoder.moduleDeconv1.6.weight"])
    common = "--config", data / "tiny.yaml", "--dataset_path", data, "--device", "cpu", "--gamma", 0.2
    direct = evaluated(tmp_path / "direct", *common, "--model_dir", pair[0], "--m_items_dir", pair[1])
    imported = evaluated(tmp_path / "by_script", *common, "--checkpoint", tmp_path / "imported.pt")
    assert all(np.array_equal(direct[0][name], imported[0][name]) for name in COLUMNS)
    assert direct[1]["auc"] == imported[1]["auc"] and direct[1]["memory_updates"] == imported[1]["memory_updates"]


@pytest.mark.parametrize("model, items, words", [
    ("60model.pth", None, ["memory items", "keys.pt"]),
    ("60model.pth", "60model.pth", ["60model.pth", "M x D"]),
    ("60model.pth", "wide.pt", ["wide.pt", "64 features", "32"]),
    ("half.pth", "60keys.pt", ["half.pth", "is not LGN-Net"]),
], ids=str)
def test_bad_pair(data, pair, tmp_path, model, items, words):
    folder = pair[0].parent
    torch.save(torch.ones(5, 64) / 8, folder / "wide.pt")
    state = torch.load(pair[0], weights_only=True)
    torch.save({name: value for name, value in state.items() if "st_decoder" not in name}, folder / "half.pth")
    files = [folder / model, *([folder / items] if items else [])]
    flags = [word for pair in zip(("--model_dir", "--m_items_dir"), files, strict=False) for word in pair]
    for said in (sentence(run(import_official.main, *files, "--out", tmp_path / "out.pt")),
                 sentence(run(evaluate.main, "--dataset_path", data, "--dataset_type", "ped2", *flags, "--out",
                              tmp_path / "out"))):
        assert all(word in said for word in words), said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))],
                         ids=["torch.save", "pickle"])
def test_code_in_a_file_is_not_run(data, pair, tmp_path, save):
    mark, bomb = tmp_path / "exploded", tmp_path / "bomb.pth"
    save(Bomb(mark), bomb)
    where = "--config", data / "tiny.yaml", "--dataset_path", data
    for result in (run(evaluate.main, "--checkpoint", bomb, *where),
                   run(evaluate.main, "--model_dir", bomb, "--m_items_dir", pair[1], *where),
                   run(evaluate.main, "--model_dir", pair[0], "--m_items_dir", bomb, *where),
                   run(import_official.main, bomb, pair[1], "--out", tmp_path / "out.pt"),
                   run(train.main, *where, "--exp_dir", tmp_path / "run", "--init_from", bomb),
                   run(train.main, *where, "--exp_dir", tmp_path / "run", "--resume", bomb)):
        said = sentence(result)
        assert "bomb.pth" in said and "code" in said
    assert sorted(tmp_path.iterdir()) == [bomb]


@pytest.mark.slow
def test_pickled_module_in_a_real_process(data, pair, tmp_path):
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "model.pth")
    result = shell("evaluate.py", "--dataset_type", "ped2", "--dataset_path", data, "--model_dir",
                   tmp_path / "model.pth", "--m_items_dir", pair[1])
    assert "state_dict()" in sentence(result) and not result.out


# --------------------------------------------------------------------------------------------------------- bad input

def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


def resize(path):
    write_videos(path.parents[3] / "small", [1], H=8, W=8)
    shutil.move(path.parents[3] / "small/00/000.png", path)


@pytest.mark.parametrize("damage, words", [
    (lambda made: shutil.rmtree(made / "testing"), ["no testing frames", "testing/frames"]),
    (lambda made: truncate(made / "testing/frames/01/005.png"), ["testing/frames/01/005.png", "truncated"]),
    (lambda made: resize(made / "testing/frames/01/000.png"), ["testing/frames/01/001.png", "8 x 8", "20 x 16"]),
    (lambda made: (made / "labels.csv").unlink(), ["no labels", "labels.csv", "--labels"]),
    (lambda made: (made / "labels.csv").write_text("video,start,end\n01,5,10\n"), ["01", "5 to 10", "10 frames"]),
    (lambda made: np.save(made / "frame_labels_made.npy", np.zeros(17)), ["17 labels", "18 frames"]),
], ids=["no videos", "truncated", "other size", "no labels", "labels past the end",
        "17 labels"])
def test_bad_data(data, base, tmp_path, damage, words):
    shutil.copytree(data / "made", tmp_path / "made")
    damage(tmp_path / "made")
    said = sentence(run(evaluate.main, *base, "--dataset_path", tmp_path))
    assert all(word in said for word in words), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv, word", [
    (["--dataset_path", "nowhere"], "nowhere"), (["--labels", "nowhere.npy"], "nowhere.npy"),
    (["--device", "potato"], "--device potato"), (["--model.base_width", 8], "model.base_width is 4 there, 8 here"),
    (["--config", ROOT / "configs/ped2.yaml"], "base_width is 4 there, 64 here"),
    (["--frames", "02:5"], "02"), (["--frames", "00:3"], "4 to 7"), (["--model_dir", "pair.pth"], "--checkpoint"),
], ids=lambda value: " ".join(map(str, value)))
def test_bad_arguments(base, tmp_path, argv, word):
    assert word in sentence(run(evaluate.main, *base, *argv))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("mine")
    assert "file" in sentence(run(evaluate.main, *base, "--out", tmp_path / "file/out"))


@pytest.mark.parametrize("content", [
    b"", b"(train) log", b"PK\x03\x04",
    pytest.param(2 / 3, id="truncated"), pytest.param("state_dict", id="state_dict"),
    pytest.param("60model.pth", id="the authors' model"), pytest.param(None, id="missing"),
], ids=repr)
def test_file_that_is_no_checkpoint(data, checkpoint, pair, tmp_path, content):
    path = tmp_path / "no.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "state_dict":
        torch.save(torch.load(checkpoint, weights_only=True)["model"], path)
    elif content == "60model.pth":
        shutil.copy(pair[0], path)
    elif content:
        path.write_bytes(checkpoint.read_bytes()[:int(content * checkpoint.stat().st_size)])
    said = sentence(run(evaluate.main, "--checkpoint", path, "--dataset_path", data))
    assert "no.pt" in said and ("import_official.py" in said) == isinstance(content, str)
    assert set(tmp_path.iterdir()) <= {path}


def test_checkpoint_with_weights_that_are_not_finite(data, checkpoint, tmp_path):
    broken = edit_checkpoint(checkpoint, tmp_path / "nan.pt",
                             lambda saved: saved["model"]["decoder.head.6.bias"].fill_(torch.nan))
    assert "not finite" in sentence(run(evaluate.main, "--checkpoint", broken, "--dataset_path", data))
    assert list(tmp_path.iterdir()) == [broken]


@pytest.mark.parametrize("main, own", [
    (train.main, ["--dataset_path", "--exp_dir", "--resume", "--init_from", "--device", "--config", "--seed"]),
    (evaluate.main, ["--dataset_path", "--checkpoint", "--labels", "--out", "--model_dir", "--m_items_dir"]),
], ids=["train", "evaluate"])
def test_help_lists_every_knob(main, own):
    result = run(main, "--help")
    assert result.status == 0 and not result.err
    for name in [*own, *ALIASES, *(f"--{knob}" for knob in flatten(asdict(Config())))]:
        assert f"{name} " in result.out or f"{name}\n" in result.out, name
