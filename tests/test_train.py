"""train.py: stopping and going on, the schedule, the log, divergence, and everything that it must refuse."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
import yaml
from helpers import ROOT, TINY, edit_checkpoint, run, sentence, shell, tensors, write_videos
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from lgn_net.data.clips import to_float
from lgn_net.data.videos import index_videos
from lgn_net.data.windows import Windows
from lgn_net.model.build import build_model
from lgn_net.training.checkpoint import load_checkpoint
from lgn_net.training.run import only_one

STEPS = 9               # 5 windows in batches of 2, 3 epochs
STATE = ("model", "optimizer", "scheduler", "rng", "step")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The arguments of every run here but --exp_dir."""
    folder = tmp_path_factory.mktemp("made")
    write_videos(folder / "made/training/frames", [6, 7])
    (folder / "tiny.yaml").write_text(TINY)
    return "--config", folder / "tiny.yaml", "--dataset_path", folder, "--device", "cpu"


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
    assert type(value) is type(expected)
    if isinstance(value, torch.Tensor):
        assert torch.equal(value, expected)
    elif isinstance(value, dict):
        assert value.keys() == expected.keys()
        for key in value:
            assert_same(value[key], expected[key])
    elif isinstance(value, list | tuple):
        assert len(value) == len(expected)
        for pair in zip(value, expected, strict=True):
            assert_same(*pair)
    else:
        assert value == expected


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

def test_log_and_schedule(whole):
    rows = log_of(whole)
    assert [list(row) for row in rows] == STEPS * [["step", "epoch", "lr", "loss", "prediction", "compactness",
                                                    "separateness", "live_items"]]
    assert [(row["step"], row["epoch"]) for row in rows] == [(i + 1, i // 3 + 1) for i in range(STEPS)]
    assert [row["lr"] for row in rows] == pytest.approx(3 * [1e-3] + 3 * [0.75e-3] + 3 * [0.25e-3], rel=1e-9)
    for row in rows:
        total = row["prediction"] + 10 * row["compactness"] + 5 * row["separateness"]
        assert row["loss"] == pytest.approx(total, rel=1e-5) and 1 <= row["live_items"] <= 5


def test_first_losses(whole):
    """Golden values of this very run: they move when the method does."""
    rows = [[row[key] for key in ("loss", "prediction", "compactness", "separateness")] for row in log_of(whole)]
    assert rows[:6] == [pytest.approx(row, rel=1e-4) for row in GOLDEN]


GOLDEN = [
    [5.50015, 0.566618, 0.0484565, 0.889794],
    [3.45372, 0.432661, 0.0228387, 0.558534],
    [2.25544, 0.521788, 0.0123967, 0.321937],
    [1.41547, 0.477947, 0.00905609, 0.169393],
    [1.49172, 0.4188, 0.00930297, 0.195979],
    [0.458912, 0.427729, 0.00311831, 0.0],
]


def test_checkpoints(whole):
    names = ["epoch_001.pt", "epoch_002.pt", "epoch_003.pt", "last.pt"]
    assert sorted(path.name for path in whole.glob("*.pt")) == names
    epochs = [load(whole / name) for name in names[:3]]
    assert [epoch["step"] for epoch in epochs] == [3, 6, 9]
    assert_same(load(whole / "last.pt")["model"], epochs[2]["model"])
    items = [epoch["model"]["memory.items"] for epoch in epochs]
    assert not torch.equal(items[0], items[1]) and not torch.equal(items[1], items[2])       # what it learns is saved
    torch.testing.assert_close(items[2].norm(dim=1), torch.ones(5))


def test_tensorboard_has_the_log(whole):
    points = scalars(whole)
    for name in ("lr", "loss", "prediction", "compactness", "separateness", "live_items"):
        steps, values = zip(*points[f"train/{name}"], strict=True)
        assert steps == tuple(range(1, STEPS + 1))
        assert values == pytest.approx([row[name] for row in log_of(whole)], rel=1e-6)


def test_seed_decides(base, whole, tmp_path):
    for name, seed in (("again", 0), ("other", 1)):
        assert run(train.main, *base, "--exp_dir", tmp_path / name, "--seed", seed, "--train.max_steps", 2).status == 0
    first = (whole / "log.jsonl").read_text().splitlines()[:2]
    assert (tmp_path / "again/log.jsonl").read_text().splitlines() == first
    other = log_of(tmp_path / "other")
    assert all(ours["loss"] != json.loads(line)["loss"] for ours, line in zip(other, first, strict=True))


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


# ---------------------------------------------------------------------------------------------- stopping and going on

@pytest.mark.parametrize("stops, workers", [((4,), 0), ((3,), 0), ((1, 6, 8), 0), ((4,), 2)], ids=str)
def test_resumed_run_equals_uninterrupted_run(base, whole, tmp_path, stops, workers):
    first, *others = stops
    assert run(train.main, *base, "--exp_dir", tmp_path, "--train.max_steps", first, "--data.workers",
               workers).status == 0
    for stop in [*others, "null"]:
        assert resume(base, tmp_path, "--train.max_steps", stop).status == 0
    assert_same_run(tmp_path, whole)
    for epoch in ("epoch_001.pt", "epoch_002.pt", "epoch_003.pt"):
        assert_same(load(tmp_path / epoch)["model"], load(whole / epoch)["model"])


@pytest.mark.parametrize("torn", ["", '{"step": 7, "epo'], ids=["whole lines", "a torn line"])
def test_log_after_the_last_checkpoint_is_dropped(base, whole, tmp_path, torn):
    """The process was killed at step 6 or 7 when its checkpoint was of step 4."""
    assert run(train.main, *base, "--exp_dir", tmp_path, "--train.max_steps", 4).status == 0
    shutil.copy(tmp_path / "last.pt", tmp_path / "of_step_4")
    assert resume(base, tmp_path, "--train.max_steps", 6).status == 0
    os.replace(tmp_path / "of_step_4", tmp_path / "last.pt")
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write(torn)
    assert resume(base, tmp_path, "--train.max_steps", "null").status == 0
    assert_same_run(tmp_path, whole)
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("received, to_group, workers", [(signal.SIGTERM, False, 0), (signal.SIGINT, False, 0),
                                                         (signal.SIGINT, True, 2)], ids=["TERM", "INT", "ctrl-c"])
def test_signal_saves_and_the_run_can_go_on(base, tmp_path, received, to_group, workers):
    stopped, uninterrupted = tmp_path / "stopped", tmp_path / "uninterrupted"
    long = [*base, "--train.epochs", 500, "--data.workers", workers]
    process = subprocess.Popen([sys.executable, "train.py", *map(str, long), "--exp_dir", str(stopped)], cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while not (stopped / "log.jsonl").exists() or len(log_of(stopped)) < 2:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"no two steps: {process.communicate()}")
            time.sleep(0.02)
        (os.killpg if to_group else os.kill)(process.pid, received)
        out, err = process.communicate(timeout=120)
        with pytest.raises(ProcessLookupError):                           # no data worker is left behind
            os.killpg(process.pid, 0)
    finally:
        process.kill()
    assert process.returncode == 128 + received
    assert f"--resume {stopped / 'last.pt'}" in out.splitlines()[-1]
    assert "Traceback" not in err and "error" not in err

    step = load(stopped / "last.pt")["step"]
    assert log_of(stopped)[-1]["step"] == step and f"step {step}" in out
    end = ["--train.max_steps", step + 4]
    assert resume(base, stopped, *end).status == 0
    assert run(train.main, *long, "--exp_dir", uninterrupted, *end).status == 0
    assert_same_run(stopped, uninterrupted)


# ----------------------------------------------------------------------------------- starting from another checkpoint

def test_init_from_takes_weights_and_items(base, whole, tmp_path):
    assert run(train.main, *base, "--exp_dir", tmp_path, "--init_from", whole / "last.pt", "--data.shuffle", "false",
               "--seed", 7, "--train.max_steps", 1).status == 0
    config, saved = load_checkpoint(whole / "last.pt")
    model = build_model(config).train()
    model.load_state_dict(saved["model"])
    windows = Windows(index_videos(base[3] / "made/training/frames"), 5, 1, 16)
    clip = to_float(torch.stack([windows[0], windows[1]]))
    with torch.no_grad():
        out = model(clip[:, :-1])
    queries = out.queries[0].permute(0, 2, 3, 1).reshape(-1, 32)
    nearest = torch.cdist(queries, saved["model"]["memory.items"]).min(dim=1).values
    row, = log_of(tmp_path)
    assert row["prediction"] == pytest.approx(F.mse_loss(out.prediction, clip[:, -1]).item(), rel=1e-4)
    assert row["compactness"] == pytest.approx(nearest.square().mean().item() / 32, rel=1e-3)
    assert row["lr"] == 1e-3                                                       # the schedule starts anew


@pytest.mark.parametrize("flag", ["--init_from", "--resume"])
def test_other_architecture_is_refused(base, whole, tmp_path, flag):
    said = sentence(run(train.main, *base, "--exp_dir", tmp_path, flag, whole / "last.pt", "--model.base_width", 8,
                        "--model.memory_items", 6))
    assert "model.base_width is 4 there, 8 here" in said and "model.memory_items is 5 there, 6 here" in said
    assert not list(tmp_path.iterdir())


def test_run_is_not_overwritten_nor_changed(base, whole):
    before = {path: path.read_bytes() for path in whole.iterdir()}
    said = sentence(run(train.main, *base, "--exp_dir", whole))
    assert f"--resume {whole / 'last.pt'}" in said
    said = sentence(resume(base, whole, "--train.lr", 5e-4))
    assert "train.lr is 0.001 there, 0.0005 here" in said
    sentence(resume(base, whole, "--seed", 3))
    assert {path: path.read_bytes() for path in whole.iterdir()} == before


def test_only_a_run_can_be_resumed(base, whole, tmp_path):
    """The checkpoint of an epoch holds no optimizer."""
    said = sentence(run(train.main, *base, "--exp_dir", tmp_path, "--resume", whole / "epoch_001.pt"))
    assert "epoch_001.pt" in said


# --------------------------------------------------------------------------------------------------------- divergence

def test_divergence_leaves_the_last_good_checkpoint(base, tmp_path):
    one_step_an_epoch = [*base, "--train.batch_size", 5, "--train.lr", 1e20]
    assert run(train.main, *one_step_an_epoch, "--exp_dir", tmp_path, "--train.max_steps", 1).status == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("*.pt")}
    said = sentence(resume(base, tmp_path, "--train.max_steps", "null"), status=1)
    assert said.startswith("step 2: ") and "prediction nan" in said and "compactness" in said and "separateness" in said
    assert str(tmp_path / "last.pt") in said
    assert {path: path.read_bytes() for path in tmp_path.glob("*.pt")} == before
    assert [row["step"] for row in log_of(tmp_path)] == [1]


def test_divergence_at_the_first_step(base, whole, tmp_path):
    huge = edit_checkpoint(whole / "last.pt", tmp_path / "huge.pt",
                           lambda saved: saved["model"]["prototype_encoder.block4.3.weight"].fill_(3e38))
    said = sentence(run(train.main, *base, "--exp_dir", tmp_path / "run", "--init_from", huge), status=1)
    assert said.startswith("step 1: ") and "no checkpoint" in said
    assert not list((tmp_path / "run").glob("*.pt"))


def test_weights_that_are_not_finite_or_missing_are_refused(base, whole, tmp_path):
    def broken(saved):
        saved["model"]["decoder.head.6.weight"].fill_(torch.nan)
    for change, word in ((broken, "not finite"), (lambda saved: saved["model"].pop("memory.items"), "memory.items"),
                         (lambda saved: saved.pop("config"), "configuration")):
        damaged = edit_checkpoint(whole / "last.pt", tmp_path / "damaged.pt", change)
        for flag in ("--init_from", "--resume"):
            said = sentence(run(train.main, *base, "--exp_dir", tmp_path / "run", flag, damaged), status=2)
            assert word in said and "damaged.pt" in said


def test_a_run_is_not_overwritten_by_another(base, whole, tmp_path):
    folder = tmp_path / "run"
    assert run(train.main, *base, "--exp_dir", folder, "--seed", 5, "--train.max_steps", 1).status == 0
    before = (folder / "last.pt").read_bytes()
    said = sentence(run(train.main, *base, "--exp_dir", folder, "--resume", whole / "last.pt"), status=2)
    assert "already holds a run" in said and (folder / "last.pt").read_bytes() == before
    (folder / "last.pt").rename(folder / "epoch_001.pt")
    said = sentence(run(train.main, *base, "--exp_dir", folder), status=2)
    assert "already holds a run, which lost its last.pt; remove its epoch_*.pt, or choose" in said


def test_what_max_steps_leaves_is_named(base, whole, tmp_path):
    done = run(train.main, *base, "--exp_dir", tmp_path / "run", "--train.max_steps", STEPS - 2)
    last = tmp_path / "run/last.pt"
    assert f"done: {STEPS - 2} steps; 2 more with --resume {last} --train.max_steps null" in done.out
    before = (tmp_path / "run/config.yaml").read_text()
    assert run(train.main, *base[2:], "--exp_dir", tmp_path / "run", "--resume", last, "--score.gamma", 0.5).status == 0
    assert (tmp_path / "run/config.yaml").read_text() == before                        # nothing was trained with it
    done = run(train.main, *base[2:], "--exp_dir", tmp_path / "run", "--resume", last, "--train.max_steps", "null")
    assert f"done: {STEPS} steps; next" in done.out


def test_one_process_a_run(base, tmp_path):
    with only_one(tmp_path):
        assert "another process" in sentence(run(train.main, *base, "--exp_dir", tmp_path), status=2)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("lr", ["1e10", "1e20", ".inf"])
def test_no_checkpoint_with_numbers_that_are_not_finite(base, tmp_path, lr):
    """At 1e10 BatchNorm keeps the loss finite while its running variances overflow."""
    result = run(train.main, *base, "--exp_dir", tmp_path, "--train.lr", lr)
    damaged = [path.name for path in tmp_path.glob("*.pt") if not all(t.isfinite().all() for t in tensors(load(path)))]
    assert not damaged and result.status in (1, 2)
    sentence(result, result.status)


# ------------------------------------------------------------------------------------------------ disks that say no

def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]


@pytest.fixture
def stopped(base, tmp_path):
    """A run that stands at step 2."""
    def start(folder):
        assert run(train.main, *base, "--exp_dir", folder, "--train.max_steps", 2).status == 0
        return folder
    return start


def test_file_too_large_for_the_disk(base, stopped, tmp_path):
    folder = stopped(tmp_path)
    before, limits = (folder / "last.pt").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        result = resume(base, folder, "--train.max_steps", 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "large" in sentence(result)
    assert (folder / "last.pt").read_bytes() == before and not leftovers(folder)


@pytest.fixture
def mounted(tmp_path):
    """A file system of 3 MB."""
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path], check=False,
                                      capture_output=True).returncode:
        pytest.skip("needs root and the permission to mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.parametrize("free", [0, 64_000], ids=["to the last byte", "64 kB free"])
def test_full_disk(base, stopped, mounted, free):
    folder = stopped(mounted / "run")
    before = (folder / "last.pt").read_bytes()
    disk = os.statvfs(mounted)
    (mounted / "filler").write_bytes(bytes(disk.f_bavail * disk.f_frsize - free))
    result = resume(base, folder, "--train.max_steps", 3)
    (mounted / "filler").unlink()
    assert "space" in sentence(result)
    assert (folder / "last.pt").read_bytes() == before and not leftovers(folder)
    assert resume(base, folder, "--train.max_steps", 3).status == 0                          # and there is space again


def test_folder_that_cannot_be_written(base, tmp_path):
    (tmp_path / "file").touch()
    assert "file" in sentence(run(train.main, *base, "--exp_dir", tmp_path / "file/run"))
    assert sentence(run(train.main, *base, "--exp_dir", "/proc/run"))


# ---------------------------------------------------------------------------------------------------------- bad input

@pytest.mark.parametrize("damage, workers", [("truncated", 0), ("text", 0), ("other size", 0), ("truncated", 2)])
def test_bad_frame_is_named(base, tmp_path, damage, workers):
    """With workers in a real process, which has to end them, too."""
    write_videos(tmp_path / "made/training/frames", [6, 7])
    frame = tmp_path / "made/training/frames/01/005.png"
    if damage == "truncated":
        frame.write_bytes(frame.read_bytes()[:-30])
    elif damage == "text":
        frame.write_text("not an image")
    else:
        write_videos(tmp_path / "small", [6], H=8, W=8)
        shutil.copy(tmp_path / "small/00/005.png", frame)
    argv = (*base[:2], "--dataset_path", tmp_path, "--exp_dir", tmp_path / "run", "--data.workers", workers)
    said = sentence(shell("train.py", *argv) if workers else run(train.main, *argv))
    assert said.startswith(f"frame {frame} is ") and ("8 x 8" in said and "20 x 16" in said) == (damage == "other size")
    assert not list((tmp_path / "run").glob("*.pt"))


def test_videos_too_short(base, tmp_path):
    write_videos(tmp_path / "made/training/frames", [4, 6, 3])
    argv = (*base[:2], "--dataset_path", tmp_path, "--exp_dir", tmp_path / "run", "--train.max_steps", 1)
    result = run(train.main, *argv)
    assert result.status == 0 and result.out.startswith("2 windows of ")
    assert [line.split(" has ")[0] for line in result.warnings()] == ["warning: video 00", "warning: video 02"]
    shutil.rmtree(tmp_path / "made/training/frames/01")
    said = sentence(run(train.main, *argv, "--exp_dir", tmp_path / "other"))
    assert "5 frames" in said and not (tmp_path / "other").exists()


@pytest.mark.parametrize("argv, words", [
    (["--train.learning_rate", 1], ["train.learning_rate"]),
    (["--train.lr", "fast"], ["train.lr", "fast"]),
    (["--train.lr", -1], ["train.lr", "-1"]),
    (["--train.epochs", 1.5], ["train.epochs", "1.5"]),
    (["--train.precision", "float8"], ["train.precision", "float8", "bfloat16"]),
    (["--data.image_size", 20], ["data.image_size", "20", "multiple of 8"]),
    (["--dataset_path", "nowhere"], ["nowhere", "no such folder"]),
    (["--device", "potato"], ["--device potato"]),
    (["--device", "meta"], ["--device meta"]),
    (["--init_from", "nowhere.pt"], ["nowhere.pt", "no such file"]),
    (["--resume", "nowhere.pt"], ["nowhere.pt", "no such file"]),
    (["run17"], ["run17"]),
], ids=lambda value: " ".join(map(str, value)))
def test_bad_arguments(base, tmp_path, argv, words):
    said = sentence(run(train.main, *base, "--exp_dir", tmp_path / "run", *argv))
    assert all(word in said for word in words), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", ["--exp_dir", "--dataset_path"])
def test_missing_argument(base, tmp_path, missing):
    given = {"--config": base[1], "--dataset_path": base[3], "--exp_dir": tmp_path / "run"}
    del given[missing]
    assert missing.removeprefix("--") in sentence(run(train.main, *(word for pair in given.items() for word in pair)))


@pytest.mark.parametrize("content, word", [
    ("train: {learning_rate: 1}", "train.learning_rate"), ("optimizer: {lr: 1}", "optimizer"),
    ("train: {lr: [1]}", "lr"), ("train: 3", "train"), ("- 1", "config"), ("train: {lr: 1", "config"),
    ("\x00", "config"),
])
def test_bad_config_file(base, tmp_path, content, word):
    (tmp_path / "config.yaml").write_text(content)
    said = sentence(run(train.main, "--config", tmp_path / "config.yaml", *base[2:], "--exp_dir", tmp_path / "run"))
    assert word in said and not (tmp_path / "run").exists()
