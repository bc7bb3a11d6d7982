"""Training and evaluation on every kind of device that there is, against the CPU. Where there is a GPU, it is used."""

import json

import numpy as np
import pytest
import torch
from helpers import TINY, run, sentence, write_data_set

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
    folder = tmp_path_factory.mktemp("made")
    write_data_set(folder)
    (folder / "tiny.yaml").write_text(TINY)
    return "--config", folder / "tiny.yaml", "--dataset_path", folder


def steps_of(base, device, folder, *knobs):
    """The losses of a run of seven steps that is stopped in the middle of an epoch and goes on; and its last.pt."""
    last = folder / "last.pt"
    for steps, resume in ((4, ()), (7, ("--resume", last))):
        done = run(train.main, *base, "--device", device, "--exp_dir", folder, "--train.max_steps", steps, *knobs,
                   *resume)
        assert done.status == 0, done
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 7
    return [row["loss"] for row in rows], last


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision, first, close", [("float32", 1e-4, 0.02), ("bfloat16", 0.01, 0.2)])
def test_training_goes_as_on_the_cpu(base, tmp_path, device, precision, first, close):
    """The first loss to `first`, relative; then Adam makes more of what is rounded in another way."""
    truth, _ = steps_of(base, "cpu", tmp_path / "cpu")
    losses, last = steps_of(base, device, tmp_path / "run", "--train.precision", precision)
    np.testing.assert_allclose(losses[0], truth[0], rtol=first)
    np.testing.assert_allclose(losses, truth, rtol=close)
    assert all(value.device.type == "cpu" for value in load_checkpoint(last)[1]["model"].values())


@pytest.mark.parametrize("device", DEVICES)
def test_scores_are_those_of_the_cpu(base, tmp_path, device):
    """Half of the frames update the memory; float32 within 1e-3 dB, bfloat16 within what it rounds."""
    last = steps_of(base, "cpu", tmp_path / "run")[1]

    def scores(name, *knobs):
        argv = "--checkpoint", last, *base[2:], "--out", tmp_path / name
        done = run(evaluate.main, *argv, *knobs)
        assert done.status == 0, done
        signals = [video.signals for video in read_scores(tmp_path / name / "scores.csv", ["psnr", "distance"])]
        return {key: np.concatenate([one[key] for one in signals]) for key in signals[0]}

    regular = scores("first", "--device", "cpu")["regular_score"]
    gamma = "--score.gamma", np.median(regular)
    truth = scores("cpu", "--device", "cpu", *gamma)
    assert 0 < truth["memory_updated"].sum() < len(regular)
    found = scores("here", "--device", device, *gamma)
    np.testing.assert_allclose(found["psnr"], truth["psnr"], atol=1e-3)
    np.testing.assert_allclose(found["distance"], truth["distance"], rtol=1e-3, atol=1e-8)
    assert (found["memory_updated"] == truth["memory_updated"]).all()
    rough = scores("rough", "--device", device, *gamma, "--score.precision", "bfloat16")
    np.testing.assert_allclose(rough["psnr"], truth["psnr"], atol=0.3)


@pytest.mark.parametrize("asked, gain, chosen", [("auto", 1.1, "float32"), ("auto", 1.3, "bfloat16"),
                                                 ("bfloat16", 0.5, "bfloat16"), ("float32", 9.0, "float32")])
def test_precision_by_a_trial(base, tmp_path, monkeypatch, asked, gain, chosen):
    """What a trial chose is the run's, also where it goes on on a machine with another gain."""
    def goes_on(gain, *knobs):
        monkeypatch.setattr(device, "conv_rate", lambda _, precision: gain if precision == "bfloat16" else 1.0)
        done = run(train.main, *base, "--device", "cpu", "--exp_dir", tmp_path, "--train.precision", asked, *knobs)
        assert done.status == 0 and ("2.0 times slower" in done.err) == (gain == 0.5), done
        return load_checkpoint(tmp_path / "last.pt")[0].train.precision

    assert goes_on(gain, "--train.max_steps", 1) == chosen
    if asked == "auto":
        assert goes_on(2.5 - gain, "--train.max_steps", 2, "--resume", tmp_path / "last.pt") == chosen


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_a_sentence(base, tmp_path):
    argv = *base, "--device", "cuda", "--exp_dir", tmp_path / "run"
    assert "--device cuda is not available here" in sentence(run(train.main, *argv))
