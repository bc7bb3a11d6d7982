"""Damaged files of a run: noticed, named, and made again or replaced by the newest good one."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import ROOT, edit_checkpoint, run, sentence, write_data_set

import train
from lgn_net.files import results_folder
from lgn_net.training.checkpoint import load_checkpoint
from lgn_net.training.run import read_log


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The arguments of every run here but --exp_dir; a run that is done lies in `run` beside their data."""
    base = write_data_set(tmp_path_factory.mktemp("made"), [6, 7])
    assert run(train.main, *base, "--exp_dir", base[3] / "run").status == 0
    return base


@pytest.fixture
def whole(base, tmp_path):
    """A copy of that run's folder, to be damaged."""
    return shutil.copytree(base[3] / "run", tmp_path / "run")


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_auto_takes_the_newest_good_file(base, whole):
    """Of a run with a damaged last.pt the newest good epoch; a run that is done ends with a good last.pt."""
    go_on = partial(run, train.main, *base, "--exp_dir", whole, "--resume", "auto")
    for damaged, begins in ((["last.pt"], 9), (["last.pt", "epoch_003.pt"], 6)):
        for name in damaged:
            flip(whole / name)
        warning, = go_on().warnings()
        assert "last.pt is damaged" in warning and f"going on from {whole / f'epoch_00{begins // 3}.pt'}" in warning
        assert load_checkpoint(whole / "last.pt")[1]["step"] == 9
        rates = [row["lr"] for row in read_log(whole / "log.jsonl")]
        assert rates == pytest.approx(3 * [1e-3] + 3 * [0.75e-3] + 3 * [0.25e-3])
    assert not go_on().warnings()
    for path in whole.glob("*.pt"):
        flip(path)
    assert "no checkpoint in" in sentence(go_on())


@pytest.mark.parametrize("name, value", [
    ("optimizer.state.0.exp_avg", torch.zeros(3)), ("optimizer.state.0.exp_avg", torch.full((4, 4, 3, 3), torch.nan)),
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
