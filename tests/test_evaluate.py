"""evaluate.py and scripts/sweep.py: what they write, and everything that they must refuse."""

import json
import os
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from helpers import Code, load_script, random_official_state, run, sentence, write_data_set, write_videos

import evaluate
import train
from lgn_net.data.clips import read_frames
from lgn_net.inference.part import Part
from lgn_net.scores.maps import load_maps

sweep = load_script("scripts/sweep.py")
COLUMNS = ("video", "frame", "psnr", "distance", "regular_score", "memory_updated", "psnr_copy", "psnr_linear",
           "normality", "decision", "label")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Test videos of 8 and 10 frames with labels, training videos of 9 and 8, and a network after one step."""
    folder = tmp_path_factory.mktemp("made")
    assert not run(train.main, *write_data_set(folder), "--exp_dir", folder / "run", "--train.max_steps", 1).status
    return folder


@pytest.fixture(scope="module")
def plain(data):
    argv = "--checkpoint", data / "run/last.pt", "--dataset_path", data, "--device", "cpu"
    assert run(evaluate.main, *argv).status == 0
    return data / "run/evaluation_last"


@pytest.fixture
def base(data, tmp_path):
    """The arguments of most runs here; later ones win."""
    return "--checkpoint", data / "run/last.pt", "--dataset_path", data, "--device", "cpu", "--out", tmp_path / "out"


def read_csv(path):
    return np.genfromtxt(path, delimiter=",", names=True)


def read(out):
    """The columns of scores.csv, as numbers, and the results."""
    return read_csv(out / "scores.csv"), json.loads((out / "results.json").read_text())


def evaluated(out, *argv):
    """Run, and read what was written."""
    result = run(evaluate.main, *argv, "--out", out)
    assert result.status == 0, result
    return read(out)


def test_contract(base, plain, tmp_path):
    table, results = read(plain)
    evaluated(tmp_path / "again", *base)
    for name in ("scores.csv", "results.json"):
        assert (plain / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    calibration = read_csv(plain / "calibration.csv")
    assert table.dtype.names == COLUMNS and calibration.dtype.names == COLUMNS[:-3]
    for columns, lengths in (table, (8, 10)), (calibration, (9, 8)):
        assert columns[["video", "frame"]].tolist() == [(v, t) for v in (0, 1) for t in range(4, lengths[v])]
    assert table["label"].tolist() == [0, 1, 1, 0] + [1, 0, 0, 0, 1, 1]
    assert len(results["grid"]) == 60 and None not in [cell["auc"] for cell in results["grid"]]
    assert results["frames"] == 10 and results["checkpoint"] == str(plain.with_name("last.pt"))
    assert results["config"] == torch.load(plain.with_name("last.pt"), weights_only=True)["config"]
    assert results["versions"]["torch"] == torch.__version__ and results["versions"]["git"]
    assert all((plain / name).is_file() for name in ("curves_1.png", "report.html"))
    assert {m.aspect for m in load_maps(plain / "maps.npz")} == {20 / 16}                         # as recorded


def test_part_of_a_benchmark(data, tmp_path):
    """The authors' pair; three videos under the name ped2, one too short, none for training."""
    state, items = random_official_state(0, width=4, hidden=4, layers=1, channels=1, items=5)
    torch.save(state, tmp_path / "60model.pth")
    torch.save(items, tmp_path / "60keys.pt")
    shutil.copytree(data / "made/testing", tmp_path / "ped2/test")
    write_videos(tmp_path / "short", [3])
    shutil.move(tmp_path / "short/00", tmp_path / "ped2/test/frames/00b")
    (tmp_path / "given.csv").write_text((data / "made/labels.csv").read_text() + "00b,0,0\n")
    argv = ("--dataset_type", "ped2", "--dataset_path", tmp_path, "--model_dir", tmp_path / "60model.pth",
            "--m_items_dir", tmp_path / "60keys.pt", "--data.image_size", 16, "--device", "cpu", "--out",
            tmp_path / "out", "--labels", tmp_path / "given.csv")
    assert "training frames" in sentence(run(evaluate.main, *argv, "--score.normalize", "training"))
    part, short = run(evaluate.main, *argv).warnings()
    assert all(word in part for word in ("3 videos", "21 frames", "12 videos", "2010 frames"))
    assert "video 00b" in short and "3 frames" in short
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["complete_benchmark"] is False and results["frames"] == 10 and "memories" not in results


@pytest.fixture
def masked(data, base, tmp_path, monkeypatch):
    """The arguments for frames with masks, which are too small for LPIPS."""
    monkeypatch.setitem(sys.modules, "lpips", None)
    shutil.copytree(data / "made", tmp_path / "made")
    shutil.copytree(data / "made/testing/frames", tmp_path / "made/testing/masks")
    for path in (tmp_path / "made/testing/masks").glob("*/*.png"):
        mask = np.zeros((16, 20), np.uint8)
        mask[4:8, 5:10] = 255 * (int(path.stem) > 5)
        cv2.imwrite(str(path), mask)
    return *base, "--dataset_path", tmp_path


@pytest.mark.slow
def test_masks_maps_and_quality(masked, tmp_path):
    """With a mask per frame: localisation; 2 misses and 2 false alarms at most, and the frames that were named."""
    table, results = evaluated(tmp_path / "out", *masked, "--quality", "--maps", 2, "--frames", "01:7", "00:4")
    found, maps = results["localization"], load_maps(tmp_path / "out/maps.npz")
    assert (found["frames_with_mask"], found["abnormal_frames"]) == (10, 6) and 0 <= found["pixel_auc"] <= 1
    assert {("01", 7), ("00", 4)} <= {(m.video, m.frame) for m in maps} and len(maps) <= 8
    for m in maps:
        row, = table[(table["video"] == int(m.video)) & (table["frame"] == m.frame)]
        assert (m.normality, m.label) == (row["normality"], row["label"])
        assert -10 * np.log10(m.error.mean()) == pytest.approx(row["psnr"], abs=1e-3)         # the very prediction
        path = tmp_path / f"made/testing/frames/{m.video}/{m.frame:03d}.png"
        assert np.array_equal(m.image, read_frames((str(path),), 1, 16)[0].transpose(1, 2, 0))
    quality = read_csv(tmp_path / "out/quality.csv")["ssim"]
    assert len(quality) == 10 and results["quality"]["ssim"] == pytest.approx(quality.mean())
    page = (tmp_path / "out/report.html").read_text()
    assert "strongest region on mask" in page and page.count("data:image") >= 2 * len(maps)


@pytest.mark.slow
def test_sweeps(base, plain, tmp_path):
    """Each line of a sweep is what evaluate.py gives for that value."""
    first, results = read(plain)
    gamma = float(np.median(first["regular_score"]) + 1e-5)
    done = run(sweep.main, "gamma", *base, "--gammas", gamma, 0.009)
    assert done.status == 0 and "oracle" in done.out, done
    rows = read_csv(tmp_path / "out/sweep_gamma.csv")
    assert rows["gamma"].tolist() == [0.009, gamma]
    alone = evaluated(tmp_path / "alone", *base, f"--gamma={gamma}", "--compare", plain / "scores.csv")[1]
    assert (alone["compared"]["auc"], alone["compared"]["auc_other"]) == (alone["auc"], results["auc"])
    for row, expected in zip(rows, (results, alone)):
        assert all(row[key] == expected[key] for key in ("auc", "auc_psnr", "auc_distance", "memory_updates", "frames"))
    done = run(sweep.main, "gamma", *base)                                    # no range: quantiles, 0 and the own one
    rows = read_csv(tmp_path / "out/sweep_gamma.csv")
    assert done.status == 0 and "quantiles of the regular score of 9 training frames" in done.out and len(rows) == 10
    assert rows["memory_updates"][0] == 0 < rows["memory_updates"][-1] and (np.diff(rows["memory_updates"]) >= 0).all()
    assert run(sweep.main, "lambda", plain, "--steps", 5).status == 0
    rows = read_csv(plain / "sweep_lambda.csv")
    assert rows["lambda"] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert rows["auc"][[0, 3, 5]] == pytest.approx([results[f"auc{name}"] for name in ("_distance", "", "_psnr")])
    assert (tmp_path / "out/sweep_gamma.png").is_file() and (plain / "sweep_lambda.pdf").is_file()


def test_bad_data_and_arguments(data, base, tmp_path):
    shutil.copytree(data / "made", tmp_path / "made")
    frame = tmp_path / "made/testing/frames/01/005.png"
    for damage, words in [
        (lambda: frame.write_bytes(frame.read_bytes()[:-30]), ["testing/frames/01/005.png", "truncated"]),
        (lambda: (tmp_path / "made/labels.csv").unlink(), ["no labels", "labels.csv", "--labels"]),
        (lambda: shutil.rmtree(tmp_path / "made"), ["no testing frames", "testing/frames"]),
    ]:
        damage()
        said = sentence(run(evaluate.main, *base, "--dataset_path", tmp_path))
        assert all(word in said for word in words), said
        assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("mine")
    torch.save(torch.load(data / "run/last.pt")["model"], tmp_path / "bare.pt")
    torch.save(Code((tmp_path / "exploded").touch, ()), tmp_path / "code.pt")
    made = {*tmp_path.iterdir()}
    for main, argv, word in [
        (evaluate.main, ["--model.base_width", 8], "model.base_width is 4 there, 8 here"),
        (evaluate.main, ["--frames", "00:3"], "4 to 7"), (evaluate.main, ["--model_dir", "pair.pth"], "--checkpoint"),
        (evaluate.main, ["--out", tmp_path / "file/out"], "file"),
        (evaluate.main, ["--compare", tmp_path / "file"], "file"),
        (evaluate.main, ["--checkpoint", tmp_path / "bare.pt"], "import_official.py"),
        (evaluate.main, ["--checkpoint", tmp_path / "code.pt"], "run code"),
        (sweep.main, ["--score.memory_update", "off"], "carry"),
    ]:
        assert word in sentence(run(main, *["gamma"] * (main is sweep.main), *base, *argv))
        assert {*tmp_path.iterdir()} == made
    assert "lambda or gamma" in sentence(run(sweep.main))


@pytest.mark.parametrize("mode, saves", [
    ("carry", 5), *(pytest.param(*case, marks=pytest.mark.slow) for case in [
        ("carry", 3), ("reset", 2), ("reset", 6), ("frozen", 1)])])
def test_a_killed_evaluation_goes_on(masked, plain, tmp_path, monkeypatch, mode, saves):
    """Equal to the bit to one that was not killed; with other knobs or a damaged state it starts afresh and says so."""
    argv = *masked, "--quality", "--score.batch_size", 3, "--score.memory_update", mode, \
        "--protocol", "paper", "--gamma", np.median(read(plain)[0]["regular_score"]) + 1e-5, "--maps", 1
    whole = evaluated(tmp_path / "whole", *argv)
    assert 0 < whole[0]["memory_updated"].sum() < 10 or mode == "frozen"
    files, save = os.listdir(tmp_path / "whole"), Part.save

    def kill():
        shutil.copytree(tmp_path / "whole", tmp_path / "out", dirs_exist_ok=True)      # an earlier evaluation, kept
        count = iter(range(saves))

        def save_and_die(part):
            if next(count, None) is None:
                with part.lines.open("ab") as file:
                    file.write(b"[0, 9")                              # killed between lines and state
                raise KeyboardInterrupt
            save(part)

        with monkeypatch.context() as m:
            m.setattr("lgn_net.inference.part.SECONDS", 0)
            m.setattr(Part, "save", save_and_die)
            assert run(evaluate.main, *argv).status == 130
        assert {*os.listdir(tmp_path / "out")} == {*files, ".part0of1.jsonl", ".part0of1.state"}

    def same(*others):
        result = run(evaluate.main, *argv, *others)
        assert result.status == 0 and ("starting afresh" in result.err) != ("going on" in result.out), result
        assert sorted(os.listdir(tmp_path / "out")) == sorted(files)
        equal = [(tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
                 for name in ("scores.csv", "quality.csv", "results.json")]
        return all(equal), "going on" in result.out

    kill()
    assert same() == (True, True)
    if (mode, saves) == ("carry", 3):
        kill()
        with monkeypatch.context() as m:                                  # a trial that has another outcome this time
            m.setattr("lgn_net.inference.kernels.SMALL", 0)
            m.setattr("lgn_net.inference.kernels.is_faster", lambda *_: True)
            assert same() == (False, True)                                # "winograd" in results.json
        kill()
        assert same("--gamma", 0.05) == (False, False)
        (tmp_path / "out/.part0of1.state").write_bytes(b"PK")
        assert same() == (True, False)
