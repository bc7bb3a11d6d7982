"""A run of a network: device, seed, provenance, log, lock, data workers."""

import atexit
import contextlib
import fcntl
import json
import multiprocessing
import platform
import random
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

import lgn_net
from lgn_net.distributed import world_size
from lgn_net.errors import UserError
from lgn_net.files import ROOT, write_atomic
from lgn_net.model.memory import PrototypeMemory


def pick_device(name: str) -> torch.device:
    """`auto` -> cuda, mps or cpu, the first there is; otherwise the named one. UserError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else
                            "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} is not available here ({reason}); leave it out, or use cpu") from None
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Convolutions in bfloat16 for `precision="bfloat16"`; nothing changes for the others."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), NumPy and random."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def set_kernels(precision: str, deterministic: bool = True) -> None:
    """Which convolutions cuDNN takes: rounded to TF32 or not, and repeatable ones or the fastest it finds.

    The matrix products are the memory's, and stay float32. Convolutions that bfloat16 leaves out may be TF32.
    """
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic


def provenance(device: torch.device) -> dict:
    """Versions, git revision and machine, for checkpoints and results."""
    return {
        "lgn_net": lgn_net.__version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else
                  f"{device.type}, {torch.get_num_threads()} threads",
        "processes": world_size(),
    }


def git_revision() -> str:
    """Commit of this checkout, `-dirty` when tracked files were changed; "unknown" outside git."""
    try:
        return subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"], check=True,
                              capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@contextlib.contextmanager
def only_one(run: Path) -> Iterator[None]:
    """Keep a second process out of a run folder, and clear away what a killed one left unfinished."""
    run.mkdir(parents=True, exist_ok=True)
    with open(run / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)           # released when the process ends, however it ends
        except BlockingIOError:
            raise UserError(f"another process is training in {run}; wait for it, or choose another "
                            f"--exp_dir") from None
        for leftover in run.glob(".*.pt.*"):
            leftover.unlink()
        yield


class RunLog:
    """log.jsonl, an object per logged step, and the same numbers for TensorBoard.

    Opened to go on after `step`: lines of later steps, logged after the checkpoint that is resumed from, are dropped.
    """

    def __init__(self, folder: Path, step: int):
        path = folder / "log.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        try:
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is not the log of a run; move it away") from None
        write_atomic(path, "".join(kept))
        self.file = path.open("a")
        self.board = SummaryWriter(folder, purge_step=step + 1)

    def write(self, row: dict, images_per_s: float | None, memories: Sequence[PrototypeMemory] = (),
              usage: Sequence[torch.Tensor] = ()) -> None:
        """Log the numbers of one step; the speed goes to TensorBoard only, so that equal runs have equal logs.

        TensorBoard also gets, of each memory, the mean cosine between its items and the share of the batch's queries
        that each item is nearest to: `usage` holds their counts (M,).
        """
        print(json.dumps(row), file=self.file, flush=True)
        for name, value in {**row, "images_per_s": images_per_s or 0.0}.items():
            if name != "step":
                self.board.add_scalar(f"train/{name}", value, row["step"])
        for k, (memory, count) in enumerate(zip(memories, usage), 1):
            name = f"memory_{k}" if len(memories) > 1 else "memory"
            self.board.add_scalar(f"{name}/item_cosine", memory.redundancy(), row["step"])
            self.board.add_histogram(f"{name}/queries_of_an_item", count / count.sum(), row["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.board.close()


def ignore_signals(_worker: int) -> None:
    """For data workers: leave SIGINT and SIGTERM to the main process, which ends them when it is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@atexit.register
def end_workers() -> None:
    """Kill data workers that an exception left alive: they ignore SIGTERM, and Python would wait for them for ever."""
    if workers := multiprocessing.active_children():
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)               # PyTorch's would raise
        for worker in workers:
            worker.kill()
            worker.join()
        signal.signal(signal.SIGCHLD, handler)
