"""train.py: stopping and going on, the schedule, the log, divergence, and everything that it must refuse."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from helpers import ROOT, edit_checkpoint, run, sentence, write_data_set, write_videos
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

import train
from lgn_net.model.losses import Losses
from lgn_net.training import run as run_folder

STEPS = 9               # 5 windows in batches of 2, 3 epochs
STATE = ("model", "optimizer", "scheduler", "rng", "step")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The arguments of every run here but --exp_dir."""
    return write_data_set(tmp_path_factory.mktemp("made"), [6, 7])


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(train.main, *base, "--exp_dir", folder).status == 0
    return folder


@pytest.fixture(scope="module")
def four_steps(base, tmp_path_factory):
    """A run that ended after 4 of the 9 steps."""
    folder = tmp_path_factory.mktemp("four")
    assert run(train.main, *base, "--exp_dir", folder, "--train.max_steps", 4).status == 0
    return folder


def resume(base, folder, *argv):
    return run(train.main, *base[2:], "--exp_dir", folder, "--resume", folder / "last.pt", "--train.max_steps", "null",
               *argv)


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def load(path):
    return torch.load(path, weights_only=True)


def contents(folder, pattern="*"):
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def assert_same_run(folder, expected):
    """All weights, optimizer, position, random state and log are those of the other run, to the last bit."""
    assert (folder / "log.jsonl").read_text() == (expected / "log.jsonl").read_text()
    assert {*contents(folder, "*.pt")} == {*contents(expected, "*.pt")}
    for path in expected.glob("*.pt"):
        ours, theirs = ({part: value for part, value in load(file).items() if part in STATE}
                        for file in (folder / path.name, path))
        assert_close(ours, theirs, atol=0, rtol=0)


def scalars(folder):
    """TensorBoard's points: tag -> [(step, value)]."""
    board = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


GOLDEN = [              # the first steps of this very run: they move when the method does
    [5.50015, 0.566618, 0.0484565, 0.889794], [3.45372, 0.432661, 0.0228387, 0.558534],
    [2.25544, 0.521788, 0.0123967, 0.321937], [1.41547, 0.477947, 0.00905609, 0.169393]]


def test_log_schedule_and_checkpoints(whole):
    rows, names = log_of(whole), ["loss", "prediction", "compactness", "separateness"]
    assert [list(row) for row in rows] == STEPS * [["step", "epoch", "lr", *names, "live_items"]]
    assert [(row["step"], row["epoch"]) for row in rows] == [(i + 1, i // 3 + 1) for i in range(STEPS)]
    assert [row["lr"] for row in rows] == pytest.approx(3 * [1e-3] + 3 * [0.75e-3] + 3 * [0.25e-3], rel=1e-9)
    assert [[row[name] for name in names] for row in rows[:4]] == [pytest.approx(row, rel=1e-4) for row in GOLDEN]
    assert all(1 <= row["live_items"] <= 5 for row in rows)
    points = scalars(whole)
    for name in ("lr", "live_items", *names):
        assert points[f"train/{name}"] == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]
    epochs = [load(whole / f"epoch_00{epoch}.pt") for epoch in (1, 2, 3)]
    assert [epoch["step"] for epoch in epochs] == [3, 6, 9]
    items = [epoch["model"]["memory.items"] for epoch in epochs]
    assert not torch.equal(items[0], items[1]) and not torch.equal(items[1], items[2])       # what it learns is saved


@pytest.mark.parametrize("keep, missing, kept", [("last", "torch.utils.tensorboard", []),
                                                 ("2", "torchvision.utils", ["epoch_002.pt", "epoch_003.pt"])])
def test_epochs_that_are_kept(base, tmp_path, monkeypatch, keep, missing, kept):
    """Without a package that only pictures need: one warning."""
    monkeypatch.setitem(sys.modules, missing, None)
    result = run(train.main, *base, "--exp_dir", tmp_path, "--train.keep_epochs", keep, "--train.batch_size", 5)
    warning, = result.warnings()
    assert result.status == 0 and "TensorBoard" in warning
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [*kept, "last.pt"]


def test_places_of_the_frames_and_tf32_without_a_gpu_change_no_bit(base, four_steps, tmp_path):
    assert run(train.main, *base, "--data.on_device", "yes", "--data.cache", tmp_path / "cache", "--train.precision",
               "tf32", "--exp_dir", tmp_path / "run", "--train.max_steps", 4).status == 0
    assert_same_run(tmp_path / "run", four_steps)


def test_resumed_run_equals_uninterrupted_run(base, whole, four_steps, tmp_path):
    """Also where the log is ahead of last.pt, damaged and torn, and where a kill left out the last epoch's file."""
    folder = shutil.copytree(four_steps, tmp_path / "run")
    with open(folder / "log.jsonl", "ab") as log:
        log.write(b'{"step": 5, "epoch": 2, "live_items": 1}\n[1]\n\xff\n'
                  b'{"step": "x", "epoch": 1, "live_items": 1}\n{"step": 6, "epo')
    assert resume(base, folder).status == 0
    assert_same_run(folder, whole)
    assert [step for step, _ in scalars(folder)["train/loss"]] == list(range(1, STEPS + 1))
    (folder / "epoch_003.pt").unlink()
    assert resume(base, folder).status == 0
    assert_same_run(folder, whole)


@pytest.fixture
def each_step(monkeypatch):
    """Lets a test act before every step, and sets the clock of the training, which a step moves by 20 seconds."""
    def install(act=lambda step: None, step=train.train_step):
        state = SimpleNamespace(now=0.0, step=0)

        def acting(*args):
            state.now, state.step = state.now + 20, state.step + 1
            act(state.step)
            return step(*args)

        monkeypatch.setattr(train, "train_step", acting)
        for module in (train, run_folder):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: state.now))
        return state
    return install


@pytest.mark.parametrize("how, status", [("minutes", 75), ("signal", 128 + signal.SIGTERM)])
def test_a_run_that_is_stopped_saves_its_last_step(base, four_steps, tmp_path, each_step, monkeypatch, how, status):
    """After 80 of 60 seconds, or by SIGTERM; while checkpoints are written, the training goes on."""
    save = run_folder.save_checkpoint
    monkeypatch.setattr(run_folder, "save_checkpoint", lambda *args, **state: (time.sleep(0.3), save(*args, **state)))
    each_step(lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 4 and how == "signal" else None)
    stopped = run(train.main, *base, "--exp_dir", tmp_path, *["--train.minutes", 1] * (how == "minutes"))
    assert stopped.status == status and "error" not in stopped.err
    assert f"at step 4; go on with --resume {tmp_path / 'last.pt'}" in stopped.out
    assert_same_run(tmp_path, four_steps)


@pytest.mark.parametrize("last, saved", [(3, 2), (5, 3)])
def test_last_is_written_between_epochs(base, whole, tmp_path, each_step, last, saved):
    """After 40 seconds, and at the end of an epoch that is kept; what a crash leaves of it is whole. Seeds decide."""
    def crash(step):
        if step == last:
            raise ZeroDivisionError

    each_step(crash)
    with pytest.raises(ZeroDivisionError):
        run(train.main, *base, "--exp_dir", tmp_path, "--train.save_minutes", 0.5, "--seed", 1)
    assert load(tmp_path / "last.pt")["step"] == saved and log_of(tmp_path)[0]["loss"] != log_of(whole)[0]["loss"]


SLOW_STEP = """
import sys, time, train
def step(*args):
    print("step", flush=True)
    time.sleep({})
    return real(*args)
real, train.train_step, train.PATIENCE = train.train_step, step, 1
train.run_command(train.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent, seconds, said", [(signal.SIGINT, 0, "go on with --resume"),
                                                 (signal.SIGTERM, 1000, "not saved within 1 s")])
def test_a_signal_ends_a_run(base, tmp_path, sent, seconds, said):
    """Ctrl-C, and SIGTERM in a step that hangs; no process or thread is left."""
    argv = [*base, "--train.epochs", 500, "--data.workers", 2, "--exp_dir", tmp_path]
    process = subprocess.Popen([sys.executable, "-c", SLOW_STEP.format(seconds), *map(str, argv)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        while process.stdout.readline() != "step\n":
            assert process.poll() is None
        (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 128 + sent and said in out + err and "Traceback" not in err
        deadline = time.monotonic() + 20
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(process.pid, 0)
    finally:
        process.kill()


def test_a_run_of_so_many_minutes(base, tmp_path, each_step, monkeypatch):
    """Steps of 20 s, and 0.1 s to score a frame: the first 50 steps show how many epochs of 5 steps fit.

    1003 s are gone then, 30 s are kept to start an evaluation, and for Ped2 201 s to score 2010 frames.
    """
    write_videos(tmp_path / "ped2/training/frames", [6, 7])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)                        # which takes time
    state = each_step(step=lambda *_: (Losses(*torch.zeros(4)), []))

    def score(_model, _videos, _config, frames, _device):
        state.now += 0.1 * frames

    monkeypatch.setattr(train, "sample_normal", score)
    timed = [*base, "--train.epochs", 60, "--train.fit_minutes", (1003.2 + 30 + 201 + 10.5 * 20) / 60,
             "--train.batch_size", 1, "--train.keep_epochs", "last", "--train.max_steps"]
    of_ped2 = ["--data.dataset", "ped2", "--dataset_path", tmp_path, "--exp_dir", tmp_path / "ped2_run"]
    for argv, folder, steps, epochs in [(["--exp_dir", tmp_path / "run"], "run", 51, 14), (of_ped2, "ped2_run", 51, 12),
                                        ([*of_ped2, "--resume", tmp_path / "ped2_run/last.pt"], "ped2_run", 60, 12)]:
        assert run(train.main, *timed, "null" if steps == 60 else steps, *argv).status == 0
        saved = load(tmp_path / folder / "last.pt")
        chosen = saved["config"]["train"]["epochs"], saved["scheduler"]["T_max"]
        assert saved["step"] == steps and chosen == (epochs, epochs)


def test_init_from_takes_weights_and_items(base, whole, tmp_path):
    """So small a step leaves the weights, and the update those items that are nobody's nearest; the schedule is new."""
    assert run(train.main, *base, "--exp_dir", tmp_path, "--init_from", whole / "last.pt", "--train.lr", 1e-30,
               "--train.max_steps", 1).status == 0
    ours, theirs = (load(folder / "last.pt")["model"] for folder in (tmp_path, whole))
    row, = log_of(tmp_path)
    assert row["lr"] == 1e-30 and row["step"] == 1
    unmoved = (ours.pop("memory.items") == theirs["memory.items"]).all(dim=1)
    assert unmoved.sum() == 5 - row["live_items"] and 0 < row["live_items"] < 5
    for name in (name for name in ours if name.endswith(("weight", "bias"))):
        assert_close(ours[name], theirs[name], msg=name)


def test_other_runs_and_bad_arguments_are_refused(base, whole, tmp_path):
    def broken(saved):
        saved["model"]["decoder.head.6.weight"].fill_(torch.nan)

    before, new = contents(whole), ["--exp_dir", tmp_path / "new"]
    nan = edit_checkpoint(whole / "last.pt", tmp_path / "nan.pt", broken)
    short = edit_checkpoint(whole / "last.pt", tmp_path / "short.pt", lambda saved: saved["model"].pop("memory.items"))
    write_videos(tmp_path / "made/training/frames", [6, 7])
    frame = tmp_path / "made/training/frames/01/005.png"
    frame.write_bytes(frame.read_bytes()[:-30])
    for argv, words in [
            ([*new, "--init_from", whole, "--model.base_width", 8], ["model.base_width is 4 there, 8 here"]),
            ([*new, "--init_from", nan], ["nan.pt", "not finite"]),
            ([*new, "--init_from", short], ["short.pt", "memory.items"]),
            ([*new, "--resume", whole / "epoch_001.pt"], ["epoch_001.pt"]),                  # it holds no optimizer
            ([*new, "--init_from", nan, "--resume", nan], ["not both"]), ([*new, "--dataset_path", "x"], ["x"]),
            ([*new, "--device", "potato"], ["--device potato"]), (["--exp_dir", "/proc/run"], ["/proc/run"]),
            (["--exp_dir", whole], ["--resume auto"]),
            (["--exp_dir", whole, "--resume", "auto", "--train.lr", 5e-4], ["train.lr is 0.001 there, 0.0005 here"]),
            (["--exp_dir", tmp_path / "run", "--dataset_path", tmp_path, "--data.workers", 1], [f"frame {frame} is "])]:
        said = sentence(run(train.main, *base, *argv))
        assert all(word in said for word in words), said
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob("run/*.pt"))
    assert resume(base, whole, "--score.gamma", 0.5).status == 0          # nothing is left to train
    assert contents(whole) == before
    with FileLock(tmp_path / ".lock"):
        assert "another process" in sentence(run(train.main, *base, "--exp_dir", tmp_path))


@pytest.mark.parametrize("lr, what", [(1e20, "the loss is nan"), (1e10, "weights or BatchNorm statistics")])
def test_divergence_leaves_the_last_good_checkpoint(base, tmp_path, lr, what):
    """Also where BatchNorm keeps the loss finite while its running variances overflow."""
    one_step_an_epoch = [*base, "--train.batch_size", 5, "--train.lr", lr]
    assert run(train.main, *one_step_an_epoch, "--exp_dir", tmp_path, "--train.max_steps", 1).status == 0
    before = contents(tmp_path, "*.pt")
    said = sentence(resume(base, tmp_path), status=1)
    assert said.startswith(f"step 2: {what}") and str(tmp_path / "last.pt") in said
    assert contents(tmp_path, "*.pt") == before


def test_file_too_large_for_the_disk(base, four_steps, tmp_path):
    folder = shutil.copytree(four_steps, tmp_path / "run")
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), contents(folder, "last.pt")
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["last.pt"]) // 2, limits[1]))
    try:
        said = sentence(resume(base, folder))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"cannot write {folder}" in said and "File too large" in said and contents(folder, "last.pt") == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]
