"""Runs that go on: on every kind of device that there is, against the CPU, and from damaged or other files."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, edit_checkpoint, run, sentence, write_data_set

import evaluate
import train
from lgn_net import device
from lgn_net.files import results_folder
from lgn_net.scores.score_file import read_scores
from lgn_net.training.checkpoint import load_checkpoint
from lgn_net.training.run import read_log

DEVICES = [pytest.param("cpu", marks=pytest.mark.slow),
           pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The arguments of every run here but --exp_dir; a run that is done lies in `run` beside their data."""
    base = write_data_set(tmp_path_factory.mktemp("made"))
    assert run(train.main, *base, "--exp_dir", base[3] / "run").status == 0
    return base


@pytest.fixture
def whole(base, tmp_path):
    """A copy of that run's folder, to be damaged."""
    return shutil.copytree(base[3] / "run", tmp_path / "run")


def trained(base, device, folder, *knobs):
    """The losses of a run of seven steps that is stopped in the middle of an epoch and goes on; and its last.pt."""
    last = folder / "last.pt"
    for steps, resume in ((4, ()), (7, ("--resume", last))):
        done = run(train.main, *base, "--device", device, "--exp_dir", folder, "--train.max_steps", steps, *knobs,
                   *resume)
        assert done.status == 0, done
    return [row["loss"] for row in read_log(folder / "log.jsonl")], last


@pytest.mark.parametrize("device", DEVICES)
def test_training_and_scores_are_those_of_the_cpu(base, tmp_path, device):
    """The first loss; then Adam makes more of what is rounded in another way. Half of the frames update the memory."""
    truth, last = trained(base, "cpu", tmp_path / "cpu")
    for precision, first, close in ("float32", 1e-4, 0.02), ("bfloat16", 0.01, 0.2):
        losses, own = trained(base, device, tmp_path / precision, "--train.precision", precision)
        np.testing.assert_allclose(losses[0], truth[0], rtol=first)
        np.testing.assert_allclose(losses, truth, rtol=close)
        assert len(losses) == 7
        assert all(value.device.type == "cpu" for value in load_checkpoint(own)[1]["model"].values())

    def scores(name, *knobs):
        done = run(evaluate.main, "--checkpoint", last, *base[2:], "--out", tmp_path / name, *knobs)
        assert done.status == 0, done
        signals = [video.signals for video in read_scores(tmp_path / name / "scores.csv", ["psnr", "distance"])]
        return {key: np.concatenate([one[key] for one in signals]) for key in signals[0]}

    gamma = "--score.gamma", np.median(scores("first", "--device", "cpu")["regular_score"])
    truth = scores("cpu", "--device", "cpu", *gamma)
    assert 0 < truth["memory_updated"].sum() < len(truth["psnr"])
    found = scores("here", "--device", device, *gamma)
    np.testing.assert_allclose(found["psnr"], truth["psnr"], atol=1e-3)
    np.testing.assert_allclose(found["distance"], truth["distance"], rtol=1e-3, atol=1e-8)
    assert (found["memory_updated"] == truth["memory_updated"]).all()
    rough = scores("rough", "--device", device, *gamma, "--score.precision", "bfloat16")
    np.testing.assert_allclose(rough["psnr"], truth["psnr"], atol=0.3)


@pytest.mark.parametrize("asked, gain, chosen", [("auto", 1.1, "float32"), ("auto", 1.3, "bfloat16"),
                                                 ("bfloat16", 0.5, "bfloat16")])
def test_precision_by_a_trial(base, tmp_path, monkeypatch, asked, gain, chosen):
    """What a trial chose is the run's, also where it goes on on a machine with another gain."""
    for steps, gain_here, resume in (1, gain, ()), (2, 2.5 - gain, ("--resume", tmp_path / "last.pt")):
        monkeypatch.setattr(device, "conv_rate", lambda _, kind, gain=gain_here: gain if kind == "bfloat16" else 1)
        done = run(train.main, *base, "--exp_dir", tmp_path, "--train.precision", asked, "--train.max_steps", steps,
                   *resume)
        assert done.status == 0 and ("2.0 times slower" in done.err) == (gain_here == 0.5), done
        assert load_checkpoint(tmp_path / "last.pt")[0].train.precision == chosen


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_a_sentence(base, tmp_path):
    argv = *base, "--device", "cuda", "--exp_dir", tmp_path / "run"
    assert "--device cuda is not available here" in sentence(run(train.main, *argv))


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_auto_takes_the_newest_good_file(base, whole):
    """Of a run with a damaged last.pt the newest good epoch; a run that is done ends with a good last.pt."""
    go_on = partial(run, train.main, *base, "--exp_dir", whole, "--resume", "auto")
    for damaged, epoch in ((["last.pt"], 3), (["last.pt", "epoch_003.pt"], 2)):
        for name in damaged:
            flip(whole / name)
        warning, = go_on().warnings()
        assert "last.pt is damaged" in warning and f"going on from {whole / f'epoch_00{epoch}.pt'}" in warning
        assert load_checkpoint(whole / "last.pt")[1]["step"] == 15
        rates = [row["lr"] for row in read_log(whole / "log.jsonl")]
        assert rates == pytest.approx(5 * [1e-3] + 5 * [0.75e-3] + 5 * [0.25e-3])
    assert not go_on().warnings()
    for path in whole.glob("*.pt"):
        flip(path)
    assert "no checkpoint in" in sentence(go_on())


@pytest.mark.parametrize("name, value", [
    ("optimizer.state.0.exp_avg", torch.zeros(3)), ("optimizer.state.0.exp_avg", torch.full((4, 1, 3, 3), torch.nan)),
    ("optimizer.param_groups.0.params", [0, 1]), ("scheduler", 1), ("step", -5), ("rng", torch.zeros(8)),
    ("rng", torch.zeros(5056).byte()), ("videos", [1]), ("model", 1), ("config", None), ("provenance", "x")])
def test_training_state_that_does_not_fit(base, whole, tmp_path, name, value):
    def spoil(content):
        *place, last = (int(key) if key.isdecimal() else key for key in name.split("."))
        for key in place:
            content = content[key]
        content[last] = value

    changed = edit_checkpoint(whole / "last.pt", tmp_path / "last.pt", spoil)
    said = sentence(run(train.main, *base, "--exp_dir", tmp_path / "new", "--resume", changed))
    assert "last.pt was damaged or changed" in said and name.split(".")[0] in said, said


def test_a_folder_or_nothing_in_place_of_a_checkpoint(base, whole, tmp_path):
    start = partial(run, train.main, *base, "--exp_dir", tmp_path / "new", "--train.max_steps", 1, "--init_from")
    assert f"{tmp_path / 'last.pt'} is not there" in sentence(start(tmp_path)) and start(whole).status == 0
    assert results_folder(whole / "last.pt") == results_folder(whole) == whole / "evaluation_last"
    assert results_folder(ROOT / "weights/ped2_small.pt") == Path("evaluation_ped2_small")


def test_another_number_of_threads_or_processes_is_said(base, whole):
    edit_checkpoint(whole / "last.pt", whole / "last.pt",
                    lambda saved: saved["provenance"].update({"threads": 7, "processes": 8}))
    warnings = " ".join(run(train.main, *base, "--exp_dir", whole, "--resume", "auto").warnings())
    assert all(words in warnings for words in ("7 threads", "1 threads", "8 processes", "1 processes")), warnings
