"""Two real processes on the CPU, as torchrun starts them, against a single one."""

import itertools
import json
import os
import signal
import socket

import cv2
import numpy as np
import pytest
import torch
import torch.multiprocessing
from helpers import run, sentence, write_data_set
from steps import CPU, config_of, take_steps
from test_train import assert_same_run, load
from torch.testing import assert_close

import evaluate
import train
from lgn_net.distributed import processes
from lgn_net.scores.score_file import read_scores
from lgn_net.training.step import train_step

pytestmark = pytest.mark.slow            # starting processes takes minutes where cores are few
SHARED_BATCHES = (8, 7, 3, 1)           # 4 + 4 windows, 4 + 3, 2 + 1, and 1 of which the second process has none
CASES = {                               # knobs of the network, and those of the training that two processes alone have
    "lgn_net": ({}, {}),
    "in parts, with recomputed activations, by each item's own maximum":
        ({"update_max": "own"}, {"accumulate": 2, "checkpoint_activations": True}),
    "revived items": ({"revive_after": 2}, {"accumulate": 2}),
    "items drawn from queries": ({"memory_init": "queries"}, {}),
    "msn_net": ({"name": "msn_net", "revive_after": 2}, {}),
    "no memory": ({"memory": False}, {}),
    "one frame, which leaves parameters unused": ({"input_frames": 1}, {"accumulate": 2}),
}


def steps_of(model, train):
    """In this process, beside others if there are any."""
    return take_steps(config_of(model, train), SHARED_BATCHES, "memory_init" in model)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What `in_a_process` found in each of two processes."""
    folder = tmp_path_factory.mktemp("both")
    lengths = [9, 4, 7, 12]                                               # the second one is too short to score
    for name in ("good", "bad"):
        write_data_set(folder / name, [6, 7], lengths)
    (folder / "bad/made/training/frames/01/005.png").write_text("not an image")
    for v, length in enumerate(lengths):
        (masks := folder / f"good/made/testing/masks/{v:02d}").mkdir(parents=True)
        for t in range(length):
            cv2.imwrite(str(masks / f"{t:03d}.png"), np.eye(16, 20, v, dtype=np.uint8) * 255 * (t > 5))
    (folder / "good/made/labels.csv").write_text("video,start,end\n00,6,8\n02,6,6\n03,6,11\n")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(8)]
    ports = [listening.getsockname()[1] for listening in sockets]         # at which nobody listens
    for listening in sockets:
        listening.close()
    torch.multiprocessing.spawn(in_a_process, (folder, ports), nprocs=2)
    return [torch.load(folder / f"{number}.pt", weights_only=False) for number in (0, 1)]


def in_a_process(number, folder, ports):
    """All that is to be found out beside another process, written to a file: starting them takes seconds."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1"}
    found = {"folder": folder}

    def meet():
        os.environ["MASTER_PORT"] = str(ports.pop())

    def command(data, *argv):
        meet()
        return run(train.main, "--config", folder / data / "tiny.yaml", "--dataset_path", folder / data, "--device",
                   "cpu", "--train.epochs", 500, "--data.cache", folder / "cache", *argv)

    def signalled_step(*args):
        """SIGTERM to the second process in its fourth step; twice, as from torchrun and from Slurm."""
        if next(steps) == 4 and number == 1:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*args)

    meet()
    with processes(CPU):
        found["steps"] = {name: steps_of(*knobs) for name, knobs in CASES.items()}
    steps, train.train_step = itertools.count(1), signalled_step
    found["stopped"] = command("good", "--exp_dir", folder / "stopped")
    train.train_step, end = train_step, ("--train.max_steps", 8)
    found["resumed"] = command("good", "--exp_dir", folder / "stopped", "--resume", folder / "stopped/last.pt", *end)
    found["whole"] = command("good", "--exp_dir", folder / "whole", *end)
    for mode in ("reset", "frozen", "carry"):
        meet()
        found[mode] = run(evaluate.main, *evaluation(folder, mode), "--out", folder / mode)
    torch.distributed.destroy_process_group()                             # which the end of a failed process does
    found["bad"] = command("bad", "--exp_dir", folder / "bad_run", "--data.shuffle", "false", "--data.cache", "null")
    torch.save(found, folder / f"{number}.pt")                            # and this process ends, as a failed one does
    os._exit(0)


def evaluation(folder, mode):
    """Arguments of evaluate.py; gamma lies between the scores, so that some frames update."""
    return ["--checkpoint", folder / "whole/last.pt", "--dataset_path", folder / "good", "--device", "cpu",
            "--score.memory_update", mode, "--score.gamma", 0.1425]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(both, name):
    (model, _), (ours, others) = CASES[name], [found["steps"][name] for found in both]
    for part in ("losses", "items", "usage", "weights"):
        assert_close(getattr(ours, part), getattr(others, part), atol=0, rtol=0)
    if "memory_init" in model:          # the first process draws from its own queries
        assert not torch.equal(ours.items[0][0], both[0]["steps"]["lgn_net"].items[0][0])
        return
    alone = steps_of(model, {})
    assert_close(ours.losses, alone.losses, atol=1e-5, rtol=0)
    assert_close(ours.items, alone.items, atol=1e-6, rtol=0)
    assert_close(ours.weights, alone.weights, atol=1e-5, rtol=0)
    assert_close(ours.usage, alone.usage, atol=0, rtol=0)


def test_signal_to_one_process_stops_both_and_the_run_can_go_on(both):
    """The second process got it. What follows equals an uninterrupted run to the last bit; the first one speaks."""
    (first, second), folder = both, both[0]["folder"]
    assert first["stopped"].status == second["stopped"].status == 128 + signal.SIGTERM
    assert first["stopped"].out.splitlines()[-1].startswith(f"SIGTERM at step 4; go on with --resume {folder}")
    assert_same_run(folder / "stopped", folder / "whole")
    assert load(folder / "stopped/last.pt")["provenance"]["processes"] == 2
    assert len(list(folder.glob("cache/*.u8"))) == 1
    for name in ("stopped", "resumed", "whole"):
        assert second[name].out == second[name].err == "" and len(first[name].out.splitlines()) == 2
        said, = first[name].warnings()
        assert "BatchNorm takes the statistics of each process's share" in said


@pytest.mark.parametrize("mode", ["reset", "frozen"])
def test_videos_shared_out_score_as_in_one_process(both, mode, tmp_path):
    (first, second), folder = [found[mode] for found in both], both[0]["folder"]
    assert first.status == second.status == 0, first
    assert second.out == second.err == "" and "AUC" in first.out
    assert run(evaluate.main, *evaluation(folder, mode), "--out", tmp_path).status == 0
    ours, alone = (read_scores(path / "scores.csv", ["psnr", "distance", "memory_updated"])
                   for path in (folder / mode, tmp_path))
    assert [(video.name, len(video.frames)) for video in ours] == [("00", 5), ("02", 3), ("03", 8)]
    for video, expected in zip(ours, alone, strict=True):
        assert_close(video.signals, expected.signals, atol=1e-4, rtol=0)
    ours, alone = (json.loads((path / "results.json").read_text()) for path in (folder / mode, tmp_path))
    assert_close(ours["localization"], alone["localization"], atol=1e-6, rtol=0)
    assert (0 < ours["memory_updates"] < 16) == (mode == "reset") and ours["versions"]["processes"] == 2


def test_what_two_processes_cannot_do(both):
    """Share out a memory that is carried on; and go on where the second one finds a bad frame."""
    folder, (other, failed) = both[0]["folder"], (sentence(found["bad"]) for found in both)
    assert all("score.memory_update carry" in sentence(found["carry"]) for found in both)
    assert not (folder / "carry").exists()
    assert failed.startswith(f"frame {folder / 'bad/made/training/frames/01/005.png'} is ")
    assert other.startswith("process 0 cannot go on: another one ended")
    assert not list((folder / "bad_run").glob("*.pt"))
