"""Throw kills, full disks and damage at the commands, and count what holds; `make soak` runs it.

    PYTHONPATH=. python tests/soak.py [PROMISE ...] [--minutes 28] [--seed 0]

Each function in PROMISES proves a promise of docs/reliability.md: it yields, for every trial, what went wrong, or "".
"""

import argparse
import contextlib
import functools
import itertools
import os
import random
import re
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import zipfile
from pathlib import Path

import cv2
import numpy as np
import scipy.io
import torch
from helpers import TINY, load_script, run, write_data_set
from hostile import attempt, cases, outcome
from test_footage import read as decode
from test_footage import write
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

import evaluate
import train
from lgn_net.cli import command_parser, parse_command
from lgn_net.data.archives import unpack
from lgn_net.data.cache import pack_frames
from lgn_net.data.clips import read_image
from lgn_net.data.labels import load_label_folder, load_labels
from lgn_net.data.videos import index_videos
from lgn_net.errors import UserError
from lgn_net.inference.loop import score_videos
from lgn_net.model.build import build_model
from lgn_net.scores.evaluation import read_foreign
from lgn_net.scores.score_file import read_scores
from lgn_net.terminal import run_command
from lgn_net.training.checkpoint import load_checkpoint, load_file
from lgn_net.training.run import read_log

tqdm.set_lock(threading.RLock())         # its own is shared with forked processes; killed ones would keep it locked
tqdm.monitor_interval = 0                # no thread while processes are forked
prepare, predict, run_plan, measure = (load_script(f"scripts/{name}.py").main for name in (
    "prepare_data", "predict_video", "run_plan", "measure"))


def forked(main, argv=(), seconds=120.0, limit=None):
    """Run a command until it ends or is killed, on a disk that takes no file above `limit` bytes: status and output."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.argv, status = ["command", *map(str, argv)], 70
        try:
            if limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            run_command(main)
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    os.close(writer)
    os.setpgid(child, child)
    end = threading.Timer(seconds, os.killpg, (child, signal.SIGKILL))
    end.start()
    with open(reader, errors="replace") as pipe:
        printed = pipe.read()
    end.cancel()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), printed


@functools.cache
def base():
    """A folder with a small data set, a trained run and its evaluation, and a plan."""
    folder = Path(tempfile.mkdtemp(prefix="soak_"))
    write_data_set(folder)
    (folder / "tiny.yaml").write_text(TINY.replace("log_every: 1", "log_every: 1, save_minutes: 0.001"))
    (folder / "plan.yaml").write_text(f"title: P\nconfig: {folder}/tiny.yaml\nrows: {{A: {{set: {{train.lr: 1e-3}}}}}}")
    where = "--dataset_path", folder, "--device", "cpu"
    # In this process, so that the ones that are forked find everything imported.
    assert not run(train.main, "--config", folder / "tiny.yaml", "--exp_dir", folder / "run", *where).status
    assert not run(evaluate.main, "--checkpoint", folder / "run/last.pt", *where).status
    return folder


def commands(out):
    """The commands that write, each into `out`, by name."""
    b, where = base(), ("--dataset_path", base(), "--device", "cpu")
    training = "--config", b / "tiny.yaml", *where, "--exp_dir", out / "run", "--resume", "auto"
    return {
        "train": (train.main, training),
        "packing": (train.main, (*training, "--data.cache", out / "cache", "--train.max_steps", 1)),
        "evaluate": (evaluate.main, ("--checkpoint", b / "run/last.pt", *where, "--out", out / "evaluation")),
        "prepare": (prepare, ("custom", "--source", b / "made", "--labels", b / "made/labels.csv", "--out",
                              out / "DATA", "--name", "mine")),
        "own video": (predict, ("--checkpoint", b / "run/last.pt", "--normal", b / "made/training/frames/00",
                                "--video", b / "made/testing/frames/01", "--out", out / "own")),
        "plan": (run_plan, ("--plan", b / "plan.yaml", "--seeds", 0, "--exp_dir", out / "plan", *where))}


def tensors(content):
    """Every tensor in nested containers."""
    return [leaf for leaf in tree_leaves(content) if isinstance(leaf, torch.Tensor)]


def state(folder):
    """What a command leaves: the tensors of checkpoints, and the bytes of frames, labels, packed frames and scores."""
    kept = {}
    for path in folder.rglob("*"):
        if path.suffix == ".pt":
            kept[path.relative_to(folder)] = [t.numpy().tobytes() for t in tensors(load_checkpoint(path)[1])]
        elif path.suffix in (".npy", ".u8") or path.name == "scores.csv" or "frames" in path.parts and path.is_file():
            kept[path.relative_to(folder)] = path.read_bytes()
    return kept


def stopped(seconds, stop):
    """Stop each command twice, and give it again: its end is that of a run that nobody stopped."""
    wanted, took = {}, {}
    names = list(commands(Path()))[:None if seconds > 100 else -1]               # a plan starts processes: slow
    end = time.monotonic() + seconds
    for name in itertools.chain(names, itertools.cycle(10 * names[:-1] + names[-1:])):
        with tempfile.TemporaryDirectory() as out:
            main, argv = commands(Path(out))[name]
            for _ in range(2 if name in took else 0):
                fault = stop(main, argv, took[name])
                yield fault and f"{name}: {fault}"
            begun = time.monotonic()
            status, said = forked(main, argv)
            took.setdefault(name, time.monotonic() - begun)
            if status or state(Path(out)) != wanted.setdefault(name, state(Path(out))):
                yield f"{name}: status {status}, or another end: {said[-300:]}"
        if len(took) == len(names) and time.monotonic() > end:
            return


def kills(dice, seconds):
    """SIGKILL at any time loses nothing that the next command does not make again."""
    return stopped(seconds, lambda main, argv, took: forked(main, argv, dice.uniform(0, took)) and "")


def full_disks(dice, seconds):
    """A file that cannot grow, at any writer, ends a command in one sentence."""
    def fill(main, argv, _):
        status, said = forked(main, argv, limit=int(10 ** dice.uniform(1.5, 5)))
        good = "Traceback" not in said and (status in (0, 1) or status == 2 and "error: " in said)
        return "" if good else f"status {status}: {said[-300:]}"

    return stopped(seconds, fill)


def flipped_bits(dice, seconds):
    """A flipped bit or a zeroed block of a tensor is noticed before anything of a checkpoint is used."""
    path, copy = base() / "run/last.pt", base() / "copy.pt"
    content = path.read_bytes()
    stored = [bytes(t.untyped_storage()) for t in tensors(torch.load(path)) if t.numel() > 8 and t.any()]
    for _ in range(1000 if seconds > 20 else 200):
        tensor, data, fault = dice.choice(stored), bytearray(content), ""
        place = content.index(tensor) + dice.randrange(len(tensor))
        if dice.random() < 0.5 and any(data[place:place + 64]):
            data[place:place + 64] = bytes(64)
        else:
            data[place] ^= 1 << dice.randrange(8)
        copy.write_bytes(data)
        with contextlib.suppress(UserError):
            load_checkpoint(copy)
            fault = "last.pt was changed, and the file loaded"
        yield fault


def readers():
    """Small real files of every kind, and the functions that read them."""
    b, made, image = base(), base() / "fuzz", cv2.imread(str(base() / "made/testing/frames/00/000.png"))
    made.mkdir(exist_ok=True)
    for name in "l.npy", "folder.npy", "theirs.npy":
        np.save(made / name, np.repeat([0, 1], 9))
    scipy.io.savemat(made / "l.mat", {"gt": np.array([np.array([[2], [5]]), np.array([[1], [3]]), None], object)[:-1]})
    for name, text in {"l.m": "x{end+1}.gt_frame = [2:3, 5:5];\nx{end+1}.gt_frame = [1];\n", "c.yaml": TINY,
                       "l.csv": "video,start,end\n00,1,2\n", "lf.csv": "video_frame;label\n00_1;1\n01_2;0\n",
                       "l.json": '{"videos": ["00", "01"], "frames": [8, 10], "abnormal": [[[1, 2]], []]}'}.items():
        (made / name).write_text(text)
    for suffix in ("png", "jpg", "tif", "bmp", "webp"):
        cv2.imwrite(str(made / f"i.{suffix}"), image)
    torch.save(torch.load(b / "run/last.pt"), made / "old.pt", _use_new_zipfile_serialization=False)
    write(made / "v.avi", [image] * 5, "mjpeg", "yuvj420p")
    write(made / "v.mp4", [image] * 5, "mpeg4")
    with tarfile.open(made / "a.tgz", "w:gz") as tar, zipfile.ZipFile(made / "a.zip", "w") as packed:
        tar.add(made / "v.avi")
        packed.write(made / "v.avi")
    videos, preparing = index_videos(b / "made/testing/frames"), commands(b)["prepare"]
    index = pack_frames(videos, 1, 16, made / "cache").path.with_suffix(".json")
    forked(*preparing)
    scores = b / "run/evaluation_last/scores.csv"
    return {
        **dict.fromkeys(sorted(made.glob("l*")), lambda path: load_labels(path, {"00": 8, "01": 10})),
        **dict.fromkeys(made.glob("i.*"), read_image), **dict.fromkeys(made.glob("v.*"), decode),
        **dict.fromkeys(made.glob("a.*"), lambda path: unpack(path, b / "unpacked", [r".*\.avi"])),
        made / "c.yaml": lambda path: parse_command(command_parser("", "", False), ["--config", str(path)]),
        made / "old.pt": load_file, b / "run/last.pt": load_checkpoint,
        b / "run/log.jsonl": read_log, index: lambda path: pack_frames(videos, 1, 16, made / "cache"),
        b / "DATA/mine/prepared.json": lambda path: preparing[0]([*map(str, preparing[1])]),
        scores: lambda path: read_scores(path, ("psnr", "distance")),
        scores.with_name("results.json"): lambda path: measure([str(path.parent)]),
        made / "folder.npy": lambda path: load_label_folder(path.parent),
        made / "theirs.npy": lambda path: read_foreign(path, {"00": 8, "01": 10}, None, None),
        b / "plan.yaml": lambda path: run_plan(["--plan", str(path), "--dry-run", "--exp_dir", str(b / "plan"),
                                                "--dataset_path", str(b)])}


TOKENS = [b"9" * 5000, b"1e400", b"NaN", b"-1", b"null", b"[]", b"{}", b'"\\u001b[31m"', b"2020-01-01", b"[" * 5000,
          b"&a [*a, *a]", b"0x7fffffffffffffff", b"", b"\xff\xfe", b"=1+1", b"true", b"1.5", b"\0"]


def mutated(data, dice):
    """Another content: bits, bytes, pieces; numbers and words that are not what they seem."""
    data = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 4])):
        words = [m.span() for m in re.finditer(rb"[-\w.]+", data)] if len(data) < 20000 else []
        if words and dice.random() < 0.4:
            data[slice(*dice.choice(words))] = dice.choice(TOKENS)
        else:
            at, n = dice.randrange(len(data) + 1), dice.choice([1, 1, 4, 30, 300])
            piece = data[at:at + n]
            flipped = bytes(byte ^ 1 << dice.randrange(8) for byte in piece)
            data[at:at + n] = dice.choice([flipped, dice.randbytes(n), bytes(n), b"", 2 * piece, 50 * piece])
            del data[dice.choice([at, *3 * [len(data)]]):]
    return bytes(data)


def attack(path, read, content, dice, seconds, _argv):
    """Read changed contents of a file, in a process of its own, since it may crash; print a line for each."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        path.write_bytes(mutated(content, dice))
        *_, fault = outcome(lambda _: (read(path), None)[1])
        print(f"\nTRIAL {fault and f'{fault}, {shutil.copy(path, tempfile.mkdtemp())}'}")


def fuzz(dice, seconds):
    """A changed file of any kind gives an answer or one sentence, soon, and crashes nothing."""
    tried = readers()
    for path, read in tried.items():
        content, draw = path.read_bytes(), random.Random(dice.randrange(2 ** 32))
        work = functools.partial(attack, path, read, content, draw, seconds / len(tried))
        status, said = forked(work, (), 60 + seconds)
        path.write_bytes(content)
        results = re.findall("^TRIAL (.*)$", said, re.MULTILINE)
        print(f"    {path.name}: {len(results)}", file=sys.stderr)
        yield from results
        if status:
            yield f"{path.name}: status {status}, {said[-400:]}"


def hostile(dice, seconds):
    """A file that means harm runs no code, reaches no other folder, and shows no text that is obeyed."""
    every, end = cases(base(), readers()), time.monotonic() + seconds
    for case in dice.sample(every, len(every)):
        fault = attempt(base(), *case)
        yield fault and f"{fault}: {case}"
        if time.monotonic() > end:
            return


def long_run(dice, seconds):
    """Memory stays what it is while many frames are scored."""
    config, saved = load_checkpoint(base() / "run/last.pt")
    model, resident = build_model(config), []
    model.load_state_dict(saved["model"])
    video, = [video for video in index_videos(base() / "made/testing/frames") if video.name == "00"]
    many = [video._replace(frames=1250 * video.frames)] * (10 if seconds > 200 else 1)
    for signals in score_videos(model, many, config, torch.device("cpu")):
        if signals.frame % 1000 == 0:
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6)
    early, late = resident[len(resident) // 5], max(resident)
    print(f"    {10_000 * len(many)} frames: {early:.1f} MB, at most {late:.1f} MB", file=sys.stderr)
    yield "" if late < 1.02 * early else f"{early} MB were resident after a fifth, later {late}"


# Each promise, and its share of the time.
PROMISES = {kills: 0.35, full_disks: 0.1, flipped_bits: 0.05, hostile: 0.15, fuzz: 0.3, long_run: 0.05}


def main(argv):
    """Try the promises; return the exit status, 1 where a trial failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("promises", nargs="*", metavar="PROMISE", default=[f.__name__ for f in PROMISES])
    parser.add_argument("--minutes", type=float, default=28)
    parser.add_argument("--seed", type=int, default=0)
    args, failures = parser.parse_args(argv), 0
    for promise, share in PROMISES.items():
        if promise.__name__ in args.promises:
            start, results = time.monotonic(), []
            for result in promise(random.Random(args.seed), 60 * share * args.minutes):
                results.append(bool(result))
                if result:
                    print(f"    {promise.__name__}: {result}", file=sys.stderr)
            took, failed = time.monotonic() - start, sum(results)
            print(f"{promise.__name__}: {len(results)} trials, {failed} failed, {took:.0f} s", flush=True)
            failures += failed
    if not failures:
        shutil.rmtree(base())
    return failures > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
