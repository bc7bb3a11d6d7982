"""Two real processes on the CPU against a single one; and the command under torchrun."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
import torch.multiprocessing
from helpers import ROOT, TINY, run, sentence, write_videos
from steps import CPU, config_of, take_steps
from test_train import log_of, wait_for_steps
from torch.testing import assert_close

import evaluate
import train
from lgn_net.distributed import (
    broadcast_,
    check_equal,
    collect,
    gather,
    processes,
    rank,
    reduce_max,
    reduce_sum,
    world_size,
)
from lgn_net.errors import TrainingDiverged
from lgn_net.scores.score_file import read_scores
from lgn_net.training.step import train_step

pytestmark = pytest.mark.slow            # starting processes takes minutes where cores are few
SHARED_BATCHES = (8, 7, 3, 1)           # 4 + 4 windows, 4 + 3, 2 + 1, and 1 of which the second process has none


class Case(NamedTuple):
    """Knobs of steps that two processes take, and one process without those of `train`."""

    model: dict
    train: dict = {}
    precision: str = "float32"
    sample: bool = False


CASES = {
    "lgn_net": Case({}),
    "in parts, with recomputed activations, by each item's own maximum":
        Case({"update_max": "own"}, {"accumulate": 2, "checkpoint_activations": True}),
    "revived items": Case({"revive_after": 2}, {"accumulate": 2}),
    "items drawn from queries": Case({"memory_init": "queries"}, sample=True),
    "msn_net": Case({"name": "msn_net", "revive_after": 2}),
    "no memory": Case({"memory": False}),
    "mnad_pred": Case({"name": "mnad_pred"}),
    "one frame, which leaves parameters unused": Case({"input_frames": 1}, {"accumulate": 2}),
    "bfloat16": Case({}, precision="bfloat16"),
}


def steps_of(case, **train):
    """In this process, beside others if there are any."""
    return take_steps(config_of(case.model, {"precision": case.precision, **train}), SHARED_BATCHES, case.sample)


# ----------------------------------------------------------------------------------------------------- two processes

@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What `in_a_process` found in each of two processes."""
    folder = tmp_path_factory.mktemp("both")
    write_videos(folder / "good/made/training/frames", [6, 7])
    write_videos(folder / "bad/made/training/frames", [6, 7])
    (folder / "bad/made/training/frames/01/005.png").write_text("not an image")
    (folder / "tiny.yaml").write_text(TINY)
    lengths = [9, 4, 7, 12]                                               # the second one is too short to score
    write_videos(folder / "good/made/testing/frames", lengths)
    for v, length in enumerate(lengths):
        (masks := folder / f"good/made/testing/masks/{v:02d}").mkdir(parents=True)
        for t in range(length):
            cv2.imwrite(str(masks / f"{t:03d}.png"), np.eye(16, 20, v, dtype=np.uint8) * 255 * (t > 5))
    (folder / "good/made/labels.csv").write_text("video,start,end\n00,6,8\n02,6,6\n03,6,11\n")
    torch.multiprocessing.spawn(in_a_process, (folder, free_ports(8)), nprocs=2)
    return [torch.load(folder / f"{number}.pt", weights_only=False) for number in (0, 1)]


def in_a_process(number, folder, ports):
    """All that is to be found out beside another process, written to a file: starting them takes seconds."""
    torch.set_num_threads(1)
    sys.modules["lpips"] = None                                           # which would download its weights
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1"}
    os.chdir(ROOT)
    found = {"folder": folder}

    def meet():
        os.environ["MASTER_PORT"] = str(ports.pop())

    meet()
    with processes(CPU):
        found["reduced"] = reductions()
        found["steps"] = {name: steps_of(case, **case.train) for name, case in CASES.items()}
        found["error"] = error_of_unequal_items()

    def command(data, *argv):
        return run(train.main, "--config", folder / "tiny.yaml", "--dataset_path", folder / data, "--device", "cpu",
                   "--train.epochs", 500, "--data.cache", folder / "cache", *argv)

    def signalled_step(*args):
        """SIGTERM to the second process in its fourth step; twice, as from torchrun and from Slurm."""
        if next(steps) == 4 and number == 1:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*args)

    steps, train.train_step = itertools.count(1), signalled_step
    meet()
    found["stopped"] = command("good", "--exp_dir", folder / "stopped")
    train.train_step, end = train_step, ("--train.max_steps", 8)
    meet()
    found["resumed"] = command("good", "--exp_dir", folder / "stopped", "--resume", folder / "stopped/last.pt", *end)
    meet()
    found["whole"] = command("good", "--exp_dir", folder / "whole", *end)
    for mode in ("reset", "frozen", "carry"):
        meet()
        found[mode] = run(evaluate.main, *evaluation(folder, mode), "--out", folder / mode)
    torch.distributed.destroy_process_group()                             # which the end of a failed process does
    meet()
    found["bad"] = command("bad", "--exp_dir", folder / "bad_run", "--data.shuffle", "false", "--data.cache", "null")
    torch.save(found, folder / f"{number}.pt")                            # and this process ends, as a failed one does
    os._exit(0)


def evaluation(folder, mode):
    """Arguments of evaluate.py; gamma lies between the scores, so that some frames update."""
    return ["--checkpoint", folder / "whole/last.pt", "--dataset_path", folder / "good", "--device", "cpu", "--quality",
            "--score.memory_update", mode, "--score.gamma", 0.1425]


def free_ports(count):
    """Ports at which nobody listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


def of_this_process():
    """(2, 3), other numbers in each process, laid out column by column."""
    return (torch.tensor([[1.0, -2.0], [5.0, 0.0], [-7.0, 3.0]]) * (-1) ** rank() + rank()).T


def reductions():
    """Every function on numbers that differ between the processes."""
    values = of_this_process()
    results = {"max": reduce_max(values), "sum": reduce_sum(values), "untouched": values,
               "ragged": gather(values[:, :1].repeat(3 - 2 * rank(), 1)), "one empty": gather(values[:2 * rank()]),
               "collected": collect({"of": rank()})}
    broadcast_(values := of_this_process().contiguous())
    return results | {"broadcast": values}


def error_of_unequal_items():
    """What `check_equal` says when an item of the second process was changed by hand, but not before."""
    items = torch.eye(3)
    check_equal(items, "items")
    items[1, 2] += 0.25 * rank()
    try:
        check_equal(items, "items")
    except TrainingDiverged as error:
        return str(error)


def test_reductions_by_hand(both):
    first, second = torch.tensor([[1.0, 5, -7], [-2, 0, 3]]), torch.tensor([[0.0, -4, 8], [3, 1, -2]])
    for number, found in enumerate(both):
        reduced = found["reduced"]
        assert_close(reduced["max"], torch.tensor([[1.0, 5, 8], [3, 1, 3]]), atol=0, rtol=0)
        assert_close(reduced["sum"], first + second, atol=0, rtol=0)
        assert_close(reduced["untouched"], (first, second)[number], atol=0, rtol=0)
        assert reduced["ragged"].tolist() == [[1], [-2], [1], [-2], [1], [-2], [0], [3]]
        assert_close(reduced["one empty"], second, atol=0, rtol=0)
        assert reduced["collected"] == [{"of": 0}, {"of": 1}]
        assert_close(reduced["broadcast"], first, atol=0, rtol=0)


def test_a_single_process_gets_back_what_it_gave():
    values = of_this_process()
    assert all(of_one(values) is values for of_one in (reduce_max, reduce_sum, gather)) and collect("x") == ["x"]
    with processes(CPU) as device:
        assert device == CPU and world_size() == 1


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(both, name):
    case, (ours, others) = CASES[name], [found["steps"][name] for found in both]
    for part in ("losses", "items", "usage"):
        assert_close(getattr(ours, part), getattr(others, part), atol=0, rtol=0)
    assert_close({key: value for key, value in ours.weights.items() if "num_batches" not in key},
                 {key: value for key, value in others.weights.items() if "num_batches" not in key}, atol=0, rtol=0)
    if case.sample:
        return
    alone, loose = steps_of(case), case.precision != "float32"
    assert_close(ours.losses, alone.losses, atol=2e-2 if loose else 1e-5, rtol=0)
    assert_close(ours.items, alone.items, atol=1e-2 if loose else 1e-6, rtol=0)
    assert_close(ours.weights, alone.weights, atol=1e-2 if loose else 1e-5, rtol=0)
    if not loose:
        assert_close(ours.usage, alone.usage, atol=0, rtol=0)


def test_items_that_differ_end_the_training_everywhere(both):
    assert [found["error"] for found in both] == 2 * ["items differ between the processes, by up to 0.25"]


# ------------------------------------------------------------------------------------------------------- the command

def test_signal_to_one_process_stops_both_and_the_run_can_go_on(both):
    """The second process got it. What follows equals an uninterrupted run to the last bit."""
    (first, second), folder = both, both[0]["folder"]
    assert first["stopped"].status == second["stopped"].status == 128 + signal.SIGTERM
    assert first["stopped"].out.splitlines()[-1].startswith(f"SIGTERM at step 4; go on with --resume {folder}")
    assert first["resumed"].status == first["whole"].status == 0
    assert (folder / "stopped/log.jsonl").read_bytes() == (folder / "whole/log.jsonl").read_bytes()
    ours, theirs = (torch.load(folder / name / "last.pt", weights_only=True) for name in ("stopped", "whole"))
    for part in ("model", "optimizer", "scheduler", "rng", "step"):
        assert_close(ours[part], theirs[part], atol=0, rtol=0)
    assert sorted(path.name for path in (folder / "stopped").glob("epoch_*")) == ["epoch_001.pt", "epoch_002.pt"]
    assert ours["provenance"]["processes"] == 2


def test_only_the_first_process_speaks(both):
    for name in ("stopped", "resumed", "whole"):
        first, second = (found[name] for found in both)
        assert second.out == second.err == "" and len(first.out.splitlines()) == 2
        said, = first.warnings()
        assert "BatchNorm takes the statistics of each process's share" in said
    assert len(list(both[0]["folder"].glob("cache/*.u8"))) == 1


@pytest.mark.parametrize("mode", ["reset", "frozen"])
def test_videos_shared_out_score_as_in_one_process(both, mode, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    (first, second), folder = [found[mode] for found in both], both[0]["folder"]
    assert first.status == second.status == 0, first
    assert second.out == second.err == "" and "AUC" in first.out
    assert run(evaluate.main, *evaluation(folder, mode), "--out", tmp_path).status == 0
    for name, signals in (("scores.csv", ["psnr", "distance", "memory_updated"]), ("quality.csv", ["ssim"])):
        ours, alone = (read_scores(path / name, signals, name == "scores.csv") for path in (folder / mode, tmp_path))
        assert [(video.name, len(video.frames)) for video in ours] == [("00", 5), ("02", 3), ("03", 8)]
        for video, expected in zip(ours, alone, strict=True):
            assert_close(video.signals, expected.signals, atol=1e-4, rtol=0)
    ours, alone = (json.loads((path / "results.json").read_text()) for path in (folder / mode, tmp_path))
    assert_close(ours["localization"], alone["localization"], atol=1e-6, rtol=0)
    assert (0 < ours["memory_updates"] < 16) == (mode == "reset") and ours["versions"]["processes"] == 2


def test_a_memory_carried_on_cannot_be_shared_out(both):
    for found in both:
        assert "score.memory_update carry" in sentence(found["carry"])
    assert not (both[0]["folder"] / "carry").exists()


def test_a_bad_frame_ends_every_process_with_a_sentence(both):
    folder = both[0]["folder"]
    other, failed = (sentence(found["bad"]) for found in both)            # the frame is in the second one's share
    assert failed.startswith(f"frame {folder / 'bad/made/training/frames/01/005.png'} is ")
    assert other.startswith("process 0 cannot go on: another one ended")
    assert not list((folder / "bad_run").glob("*.pt"))


def test_torchrun(tmp_path):
    """SIGTERM to torchrun saves."""
    write_videos(tmp_path / "made/training/frames", [6, 7])
    (tmp_path / "tiny.yaml").write_text(TINY)
    argv = ["--config", tmp_path / "tiny.yaml", "--dataset_path", tmp_path, "--device", "cpu", "--train.epochs", 500]
    process = subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                                "train.py", *map(str, argv), "--exp_dir", str(tmp_path / "run")], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_for_steps(process, tmp_path / "run")
        process.terminate()
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    step = torch.load(tmp_path / "run/last.pt", weights_only=True)["step"]
    assert [row["step"] for row in log_of(tmp_path / "run")] == list(range(1, step + 1))
    assert len(out.splitlines()) == 2 and f"SIGTERM at step {step}" in out and err.count("warning: ") == 1
    assert "error: " not in err
