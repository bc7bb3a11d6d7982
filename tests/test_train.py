"""train.py: stopping and going on, the schedule, the log, divergence, and everything that it must refuse."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import yaml
from filelock import FileLock
from helpers import ROOT, edit_checkpoint, run, sentence, shell, tensors, write_training_set, write_videos
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

import train
from lgn_net.config import Config, with_knobs
from lgn_net.data import windows
from lgn_net.data.clips import to_float
from lgn_net.data.videos import index_videos
from lgn_net.data.windows import Windows
from lgn_net.model.build import build_model
from lgn_net.training import run as run_folder
from lgn_net.training.checkpoint import load_checkpoint

STEPS = 9               # 5 windows in batches of 2, 3 epochs
STATE = ("model", "optimizer", "scheduler", "rng", "step")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The arguments of every run here but --exp_dir."""
    return write_training_set(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(train.main, *base, "--exp_dir", folder).status == 0
    return folder


def resume(base, folder, *argv):
    return run(train.main, *base[2:], "--exp_dir", folder, "--resume", folder / "last.pt", *argv)


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def load(path):
    return torch.load(path, weights_only=True)


def assert_same(value, expected):
    """Equal to the last bit, through all containers."""
    assert_close(value, expected, atol=0, rtol=0)


def assert_same_run(folder, expected):
    """Weights, memory items, optimizer, position, random state and log are those of the other run."""
    ours, theirs = load(folder / "last.pt"), load(expected / "last.pt")
    for part in STATE:
        assert_same(ours[part], theirs[part])
    assert (folder / "log.jsonl").read_text() == (expected / "log.jsonl").read_text()


def scalars(folder):
    """TensorBoard's points: tag -> [(step, value)]."""
    board = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


# ------------------------------------------------------------------------------------------------- an undisturbed run

GOLDEN = [              # of this very run: they move when the method does
    [5.50015, 0.566618, 0.0484565, 0.889794], [3.45372, 0.432661, 0.0228387, 0.558534],
    [2.25544, 0.521788, 0.0123967, 0.321937], [1.41547, 0.477947, 0.00905609, 0.169393],
    [1.49172, 0.4188, 0.00930297, 0.195979], [0.458912, 0.427729, 0.00311831, 0.0]]


def test_log_schedule_and_checkpoints(whole):
    rows, names = log_of(whole), ["loss", "prediction", "compactness", "separateness"]
    assert [list(row) for row in rows] == STEPS * [["step", "epoch", "lr", *names, "live_items"]]
    assert [(row["step"], row["epoch"]) for row in rows] == [(i + 1, i // 3 + 1) for i in range(STEPS)]
    assert [row["lr"] for row in rows] == pytest.approx(3 * [1e-3] + 3 * [0.75e-3] + 3 * [0.25e-3], rel=1e-9)
    assert [[row[name] for name in names] for row in rows[:6]] == [pytest.approx(row, rel=1e-4) for row in GOLDEN]
    assert all(1 <= row["live_items"] <= 5 for row in rows)
    points = scalars(whole)
    for name in ("lr", "live_items", *names):
        assert points[f"train/{name}"] == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]
    epochs = [load(whole / f"epoch_00{epoch}.pt") for epoch in (1, 2, 3)]
    assert [epoch["step"] for epoch in epochs] == [3, 6, 9]
    assert_same(load(whole / "last.pt")["model"], epochs[2]["model"])
    items = [epoch["model"]["memory.items"] for epoch in epochs]
    assert not torch.equal(items[0], items[1]) and not torch.equal(items[1], items[2])       # what it learns is saved


@pytest.mark.parametrize("missing", ["torch.utils.tensorboard", "torchvision.utils"])
def test_a_missing_package_costs_its_own_output(base, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    result = run(train.main, *base, "--exp_dir", tmp_path, "--train.epochs", 1)
    assert result.status == 0 and load(tmp_path / "last.pt")["step"] == 3
    assert len(result.warnings()) == 1 and "TensorBoard" in result.warnings()[0]


def test_seed_decides(base, whole, tmp_path):
    assert run(train.main, *base, "--exp_dir", tmp_path, "--seed", 1, "--train.max_steps", 1).status == 0
    assert log_of(tmp_path)[0]["loss"] != log_of(whole)[0]["loss"]


def test_flags_of_the_authors_readme(tmp_path):
    write_videos(tmp_path / "ped2/train/frames", [6], first=1)
    small = ["--data.image_size", 16, "--data.workers", 0, "--model.base_width", 4, "--model.hidden_width", 4]
    result = run(train.main, "--dataset_type", "ped2", "--dataset_path", tmp_path, "--exp_dir", tmp_path / "run",
                 "--loss_compact", 0.1, "--loss_separate=0.2", "--msize", 6, "--train.max_steps", 1, *small)
    assert result.status == 0
    assert len(result.warnings()) == 1 and "published" in result.warnings()[0]               # 1 video is not Ped2
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["loss"] == {"compactness": 0.1, "separateness": 0.2, "margin": 1}
    assert config["model"]["memory_items"] == 6 and config["data"]["dataset"] == "ped2"


@pytest.mark.parametrize("keep, expected", [("last", []), ("2", [2, 3])])
def test_epochs_that_are_kept(base, tmp_path, keep, expected):
    assert run(train.main, *base, "--exp_dir", tmp_path, "--train.keep_epochs", keep, "--train.batch_size",
               5).status == 0
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [*(f"epoch_00{k}.pt" for k in expected), "last.pt"]


def test_places_of_the_frames_and_tf32_without_a_gpu_change_no_bit(base, whole, tmp_path):
    assert run(train.main, *base, "--data.on_device", "yes", "--data.cache", tmp_path / "cache", "--train.precision",
               "tf32", "--exp_dir", tmp_path / "run").status == 0
    assert_same_run(tmp_path / "run", whole)


# ---------------------------------------------------------------------------------------------- stopping and going on

@pytest.mark.parametrize("stops, workers", [((4,), 0), pytest.param((1, 3, 8), 2, marks=pytest.mark.slow)], ids=str)
def test_resumed_run_equals_uninterrupted_run(base, whole, tmp_path, stops, workers):
    first, *others = stops
    start = run(train.main, *base, "--exp_dir", tmp_path, "--train.max_steps", first, "--data.workers", workers)
    assert start.status == 0 and f"done: {first} steps; {STEPS - first} more with --resume" in start.out
    for stop in [*others, "null"]:
        assert resume(base, tmp_path, "--train.max_steps", stop).status == 0
    assert_same_run(tmp_path, whole)
    for epoch in ("epoch_001.pt", "epoch_002.pt", "epoch_003.pt"):
        assert_same(load(tmp_path / epoch)["model"], load(whole / epoch)["model"])


@pytest.fixture
def each_step(monkeypatch):
    """Lets a test act before every step, and sets the clock of the training, which a step moves by 20 seconds."""
    def install(act=lambda step: None):
        state, real = SimpleNamespace(now=0.0, step=0), train.train_step

        def step(*args):
            state.now, state.step = state.now + 20, state.step + 1
            act(state.step)
            return real(*args)

        monkeypatch.setattr(train, "train_step", step)
        for module in (train, run_folder):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: state.now))
        return state
    return install


@pytest.mark.parametrize("how, status", [("minutes", 75), ("signal", 128 + signal.SIGTERM)])
def test_a_run_that_is_stopped_goes_on(base, whole, tmp_path, each_step, how, status):
    """After 80 of 60 seconds, or by SIGTERM."""
    each_step(lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 4 and how == "signal" else None)
    stopped = run(train.main, *base, "--exp_dir", tmp_path, *["--train.minutes", 1] * (how == "minutes"))
    assert stopped.status == status and "error" not in stopped.err
    assert f"at step 4; go on with --resume {tmp_path / 'last.pt'}" in stopped.out
    assert load(tmp_path / "last.pt")["step"] == 4
    assert resume(base, tmp_path, "--train.minutes", "null").status == 0
    assert_same_run(tmp_path, whole)


def test_last_is_written_between_epochs_and_after_a_crash_the_run_goes_on(base, whole, tmp_path, each_step,
                                                                          monkeypatch):
    """The log is ahead of last.pt, and its end is torn."""
    written, write = {}, run_folder.Run.write
    monkeypatch.setattr(run_folder.Run, "write", lambda r, *args, **kw: (write(r, *args, **kw), r.finish_writing()))

    def crash(step):
        written[step] = load(tmp_path / "last.pt")["step"] if (tmp_path / "last.pt").exists() else None
        if step == 5:
            raise ZeroDivisionError

    each_step(crash)
    with pytest.raises(ZeroDivisionError):
        run(train.main, *base, "--exp_dir", tmp_path, "--train.save_minutes", 0.5)
    assert written == {1: None, 2: None, 3: 2, 4: 3, 5: 3}               # after 40 s; the epoch is kept
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"step": 5, "epo')
    each_step()
    assert resume(base, tmp_path, "--train.save_minutes", 10).status == 0
    assert_same_run(tmp_path, whole)
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == list(range(1, STEPS + 1))


def test_checkpoints_are_written_while_the_training_goes_on(tmp_path, monkeypatch):
    """From a copy of the weights, in order; what fails is raised at the end."""
    go, save = threading.Event(), run_folder.save_checkpoint
    monkeypatch.setattr(run_folder, "save_checkpoint", lambda *args, **state: (go.wait(20), save(*args, **state)))
    weights = {"w": torch.zeros(3)}
    with pytest.raises(IsADirectoryError), run_folder.Run(tmp_path, Config(), 0, {}) as folder:
        folder.save(1, weights)
        folder.write(folder.epoch_file(1), weights, step=1)
        weights["w"] += 1
        assert not folder.last.exists()
        go.set()
        folder.finish_writing()
        for path in (folder.last, tmp_path / "epoch_001.pt"):
            assert not load(path)["model"]["w"].any()
        (tmp_path / "epoch_002.pt").mkdir()
        folder.write(folder.epoch_file(2), weights, step=2)


def test_the_file_of_an_epoch_that_a_kill_left_out_is_written_on_resume(base, whole, tmp_path):
    """Also where nothing is left to train."""
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/epoch_003.pt").unlink()
    assert resume(base, tmp_path / "run").status == 0
    assert_same(load(tmp_path / "run/epoch_003.pt")["model"], load(whole / "epoch_003.pt")["model"])


@pytest.mark.slow
def test_ctrl_c_leaves_no_process(base, tmp_path):
    """It reaches the data workers, too."""
    long = [*base, "--train.epochs", 500, "--data.workers", 2, "--exp_dir", tmp_path]
    process = subprocess.Popen([sys.executable, "train.py", *map(str, long)], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for_steps(process, tmp_path)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in err and "error" not in err
    assert f"at step {load(tmp_path / 'last.pt')['step']}; go on" in out.splitlines()[-1]


HANGS = """
import sys, time, train
def step(*_):
    time.sleep(0 if print("hangs", flush=True) else 1000)
train.train_step, train.PATIENCE = step, 1
train.run_command(train.main)
"""


@pytest.mark.slow
def test_a_step_that_hangs_ends_after_sigterm(base, tmp_path):
    long = [*base, "--data.workers", 2, "--exp_dir", tmp_path]
    process = subprocess.Popen([sys.executable, "-c", HANGS, *map(str, long)], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.stdout.readline() != "hangs\n":
        assert process.poll() is None
    process.terminate()
    assert "not saved within 1 s" in process.communicate(timeout=20)[1].splitlines()[-1]
    assert process.returncode == 128 + signal.SIGTERM
    deadline = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)


def test_data_workers_that_do_not_answer(base, tmp_path, monkeypatch):
    """As where shared memory is too small."""
    monkeypatch.setattr(windows, "PATIENCE", 0.5)
    monkeypatch.setattr(windows.Windows, "__getitems__", lambda *_: time.sleep(5))
    said = sentence(run(train.main, *base, "--exp_dir", tmp_path / "run", "--data.workers", 1))
    assert "--data.workers 0" in said and "--shm-size" in said


def wait_for_steps(process, folder):
    """Until the log of a run has two lines."""
    deadline = time.monotonic() + 240
    while not (folder / "log.jsonl").exists() or len(log_of(folder)) < 2:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"no two steps: {process.communicate()}")
        time.sleep(0.02)


# -------------------------------------------------------------------------------------------- epochs that fit in a time

def test_epochs_are_chosen_by_hand(monkeypatch):
    """A step takes 0.5 s, scoring a frame 0.1 s."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(run_folder, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def score(frames):
        clock.now += 0.1 * frames

    for dataset, minutes, most, expected in [("mine", 10, 60, 11), ("ped2", 10, 60, 7), ("mine", 10, 8, 8),
                                             ("mine", 0.1, 60, 1)]:
        config = with_knobs(Config(), {"data.dataset": dataset, "train.fit_minutes": minutes, "train.epochs": most})
        fitter, chosen = run_folder.EpochFitter(config, 100, score), []
        for _ in range(60):
            clock.now += 0.5
            chosen.append(fitter.after_step())
        # Of 600 s, 25 are gone, 3.2 to score 32 frames, 30 (and of Ped2 2010 frames 201) are kept: 50 + 1083.6 steps.
        assert chosen == 49 * [None] + [expected] + 10 * [None]


def test_a_run_of_so_many_minutes(base, tmp_path, each_step, monkeypatch):
    """20 s a step and 3 steps an epoch: 30 s are kept, 3 steps done at 60 s, 5.5 more fit until 200 s."""
    monkeypatch.setattr(run_folder, "WARM_UP", 1)
    monkeypatch.setattr(run_folder, "MEASURED", 2)
    each_step()
    timed = [*base, "--train.epochs", 60, "--train.fit_minutes", 200 / 60]
    assert run(train.main, *timed, "--exp_dir", tmp_path / "whole").status == 0
    saved = load(tmp_path / "whole/last.pt")
    assert (saved["step"], saved["config"]["train"]["epochs"], saved["scheduler"]["T_max"]) == (6, 2, 2)
    assert [row["lr"] for row in log_of(tmp_path / "whole")] == pytest.approx(3 * [1e-3] + 3 * [0.5e-3])
    assert run(train.main, *timed, "--exp_dir", tmp_path / "run", "--train.max_steps", 4).status == 0
    assert run(train.main, *timed, "--exp_dir", tmp_path / "run", "--resume", tmp_path / "run/last.pt",
               "--train.max_steps", "null").status == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# ----------------------------------------------------------------------------------- starting from another checkpoint

def test_init_from_takes_weights_and_items(base, whole, tmp_path):
    assert run(train.main, *base, "--exp_dir", tmp_path, "--init_from", whole / "last.pt", "--data.shuffle", "false",
               "--seed", 7, "--train.max_steps", 1).status == 0
    config, saved = load_checkpoint(whole / "last.pt")
    model = build_model(config).train()
    model.load_state_dict(saved["model"])
    data = Windows(index_videos(base[3] / "made/training/frames"), 5, 1, 16)
    clip = to_float(torch.stack([data[0], data[1]]))
    with torch.no_grad():
        out = model(clip[:, :-1])
    nearest = torch.cdist(out.lookups[0].flat, saved["model"]["memory.items"]).min(dim=1).values
    row, = log_of(tmp_path)
    assert row["prediction"] == pytest.approx(F.mse_loss(out.prediction, clip[:, -1]).item(), rel=1e-4)
    assert row["compactness"] == pytest.approx(nearest.square().mean().item() / 32, rel=1e-3)
    assert row["lr"] == 1e-3                                                       # the schedule starts anew


def test_other_networks_and_other_runs_are_refused(base, whole, tmp_path):
    before = {path: path.read_bytes() for path in whole.iterdir()}
    for flag in ("--init_from", "--resume"):
        said = sentence(run(train.main, *base, "--exp_dir", tmp_path / "new", flag, whole / "last.pt",
                            "--model.base_width", 8, "--model.memory_items", 6))
        assert "model.base_width is 4 there, 8 here" in said and "model.memory_items is 5 there, 6 here" in said
    assert "--resume auto" in sentence(run(train.main, *base, "--exp_dir", whole))
    assert "train.lr is 0.001 there, 0.0005 here" in sentence(resume(base, whole, "--train.lr", 5e-4))
    assert "epoch_001.pt" in sentence(run(train.main, *base, "--exp_dir", tmp_path / "new", "--resume",
                                          whole / "epoch_001.pt"))        # which holds no optimizer
    assert not (tmp_path / "new").exists()
    assert resume(base, whole, "--score.gamma", 0.5).status == 0          # nothing is left to train
    assert {path: path.read_bytes() for path in whole.iterdir()} == before
    with FileLock(tmp_path / ".lock"):
        assert "another process" in sentence(run(train.main, *base, "--exp_dir", tmp_path))


# -------------------------------------------------------------------------------------------------- divergence, disks

def test_divergence_leaves_the_last_good_checkpoint(base, tmp_path):
    one_step_an_epoch = [*base, "--train.batch_size", 5, "--train.lr", 1e20]
    assert run(train.main, *one_step_an_epoch, "--exp_dir", tmp_path, "--train.max_steps", 1).status == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("*.pt")}
    said = sentence(resume(base, tmp_path, "--train.max_steps", "null"), status=1)
    assert said.startswith("step 2: ") and str(tmp_path / "last.pt") in said
    assert {path: path.read_bytes() for path in tmp_path.glob("*.pt")} == before


def test_no_checkpoint_with_numbers_that_are_not_finite(base, tmp_path):
    """BatchNorm keeps the loss finite while its running variances overflow."""
    sentence(run(train.main, *base, "--exp_dir", tmp_path, "--train.lr", 1e10), status=1)
    assert all(t.isfinite().all() for path in tmp_path.glob("*.pt") for t in tensors(load(path)))


def test_weights_that_are_not_finite_or_missing_are_refused(base, whole, tmp_path):
    def broken(saved):
        saved["model"]["decoder.head.6.weight"].fill_(torch.nan)
    for change, word in ((broken, "not finite"), (lambda saved: saved["model"].pop("memory.items"), "memory.items")):
        damaged = edit_checkpoint(whole / "last.pt", tmp_path / "damaged.pt", change)
        said = sentence(run(train.main, *base, "--exp_dir", tmp_path / "run", "--init_from", damaged))
        assert word in said and "damaged.pt" in said


@pytest.mark.parametrize("full, named", [("checkpoint", "last.pt"), ("log", ""), ("TensorBoard", "")])
def test_file_too_large_for_the_disk(base, tmp_path, monkeypatch, full, named):
    """The log is padded with lines of before, and may grow by 9 bytes; of TensorBoard's there is no checkpoint."""
    assert run(train.main, *base, "--exp_dir", tmp_path, "--train.max_steps", 2).status == 0
    log, limits = tmp_path / "log.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    before = (tmp_path / "last.pt").read_bytes()
    if full == "log":
        log.write_text(40 * log.read_text())
    if full == "TensorBoard":
        monkeypatch.setattr(run_folder, "save_checkpoint", lambda *_, **__: None)
    most = {"checkpoint": len(before) // 2, "log": log.stat().st_size + 9, "TensorBoard": 3000}[full]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        said = sentence(resume(base, tmp_path, "--train.max_steps", "null"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"cannot write {tmp_path / named}: File too large" in said and (tmp_path / "last.pt").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") and path.name != ".lock"]


# ---------------------------------------------------------------------------------------------------------- bad input

@pytest.mark.slow
def test_bad_frame_is_named(base, tmp_path):
    """By the worker that decodes it, in a real process, which has to end its workers."""
    write_videos(tmp_path / "made/training/frames", [6, 7])
    frame = tmp_path / "made/training/frames/01/005.png"
    frame.write_bytes(frame.read_bytes()[:-30])
    said = sentence(shell("train.py", *base[:2], "--dataset_path", tmp_path, "--exp_dir", tmp_path / "run",
                          "--data.workers", 2))
    assert said.startswith(f"frame {frame} is ") and not list((tmp_path / "run").glob("*.pt"))


@pytest.mark.parametrize("argv, word", [
    (["--train.learning_rate", 1], "train.learning_rate"), (["--dataset_path", "nowhere"], "nowhere"),
    (["--device", "potato"], "--device potato"), (["--resume", "nowhere.pt"], "nowhere.pt"),
    (["--init_from", "a.pt", "--resume", "a.pt"], "a.pt"), (["--model.name", "../ped2"], "mnad_pred"),
    (["--exp_dir", "/proc/run"], "/proc/run")], ids=str)
def test_bad_arguments(base, tmp_path, argv, word):
    assert word in sentence(run(train.main, *base, "--exp_dir", tmp_path / "run", *argv))
    assert not (tmp_path / "run").exists()
