"""Training and evaluation on every kind of device that there is, against the CPU. Where there is a GPU, it is used."""

import json

import numpy as np
import pytest
import torch
from helpers import run, sentence, write_data_set

import evaluate
import train
from lgn_net import device
from lgn_net.scores.score_file import read_scores
from lgn_net.training.checkpoint import load_checkpoint

DEVICES = [pytest.param("cpu", marks=pytest.mark.slow),
           pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Drawn videos and a tiny configuration, as arguments."""
    return write_data_set(tmp_path_factory.mktemp("made"))[:4]


def trained(base, device, folder, *knobs):
    """The losses of a run of seven steps that is stopped in the middle of an epoch and goes on; and its last.pt."""
    last = folder / "last.pt"
    for steps, resume in ((4, ()), (7, ("--resume", last))):
        done = run(train.main, *base, "--device", device, "--exp_dir", folder, "--train.max_steps", steps, *knobs,
                   *resume)
        assert done.status == 0, done
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()], last


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
        done = run(train.main, *base, "--device", "cpu", "--exp_dir", tmp_path, "--train.precision", asked,
                   "--train.max_steps", steps, *resume)
        assert done.status == 0 and ("2.0 times slower" in done.err) == (gain_here == 0.5), done
        assert load_checkpoint(tmp_path / "last.pt")[0].train.precision == chosen


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_a_sentence(base, tmp_path):
    argv = *base, "--device", "cuda", "--exp_dir", tmp_path / "run"
    assert "--device cuda is not available here" in sentence(run(train.main, *argv))
