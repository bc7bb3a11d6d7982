"""What every command shares: device, seed, log, provenance, and ending with a sentence."""

import atexit
import contextlib
import fcntl
import json
import multiprocessing
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

import cv2
import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import lgn_net
from lgn_net.errors import TrainingDiverged, UserError

ROOT = Path(__file__).resolve().parents[1]


def pick_device(name: str) -> torch.device:
    """`auto` -> cuda, mps or cpu, the first there is; otherwise the named one. UserError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else
                            "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name} is not available here ({str(error).splitlines()[0]}); leave it out, or use cpu") \
            from None
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Convolutions in bfloat16 for `precision="bfloat16"`; nothing changes for "float32"."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), NumPy and random, and ask for deterministic kernels where there is a choice."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


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
    }


def git_revision() -> str:
    """Commit of this checkout, `-dirty` when tracked files were changed; "unknown" outside git."""
    try:
        return subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"], check=True,
                              capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A new file, open for writing, that takes the place of `path` only when nothing went wrong.

    Raises UserError naming `path` when the disk is full or may not be written.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            os.unlink(temporary)
        cause = error if isinstance(error, OSError) else error.__context__       # torch.save hides the disk's error
        if isinstance(cause, OSError):
            raise UserError(f"cannot write {path}: {cause.strerror}; what was there before is unchanged") from None
        raise


def check_writable(folder: Path) -> None:
    """UserError when a folder for results cannot be made or written to: known before hours go into them."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"cannot write into {folder}: {nearest} is not a folder that may be written; choose another one")


@contextlib.contextmanager
def only_one(run: Path) -> Iterator[None]:
    """Keep a second process out of a run folder, and clear away what a killed one left unfinished."""
    run.mkdir(parents=True, exist_ok=True)
    with open(run / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)            # released when the process ends, however it ends
        except BlockingIOError:
            raise UserError(f"another process is training in {run}; wait for it, or choose another --exp_dir") from None
        for leftover in run.glob(".*.pt.*"):
            leftover.unlink()
        yield


def write_atomic(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def to_json(content: object) -> str:
    """Indented JSON; NaN is not allowed in."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def progress(title: str, total: int, unit: str, initial: int = 0) -> tqdm:
    """A bar with rate and time left on stderr; a line every half minute where stderr is no terminal."""
    form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
    return tqdm(total=total, initial=initial, desc=title, unit=f" {unit}", bar_format=form, dynamic_ncols=True,
                smoothing=0.05,
                mininterval=0.2 if sys.stderr.isatty() else 30)


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

    def write(self, row: dict, images_per_s: float | None) -> None:
        """Log the numbers of one step; the speed goes to TensorBoard only, so that equal runs have equal logs."""
        print(json.dumps(row), file=self.file, flush=True)
        for name, value in {**row, "images_per_s": images_per_s or 0.0}.items():
            if name != "step":
                self.board.add_scalar(f"train/{name}", value, row["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.board.close()


class StopOnSignal:
    """Turns the first SIGINT or SIGTERM into a flag to look at between steps; the second one ends the process."""

    def __init__(self):
        self.received: int | None = None

    def __enter__(self) -> Self:
        self.previous = {s: signal.signal(s, self.receive) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def receive(self, signum: int, _frame: object) -> None:
        """Remember the signal and give the next one back its usual meaning."""
        self.received = signum
        signal.signal(signum, self.previous[signum])

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)


def ignore_signals(_worker: int) -> None:
    """For data workers: leave SIGINT and SIGTERM to the main process, which ends them when it is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as one line `warning: ...` on stderr, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: tqdm.write(f"warning: {message}", file=sys.stderr)
        yield


@atexit.register
def end_workers() -> None:
    """Kill data workers that an exception left alive: they ignore SIGTERM, and Python would wait for them for ever."""
    if workers := multiprocessing.active_children():
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)               # PyTorch's would raise
        for worker in workers:
            worker.kill()
            worker.join()
        signal.signal(signal.SIGCHLD, handler)


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Call `main(argv)` and exit: UserError, full disks and the like in one sentence with 2, divergence with 1."""
    try:
        with plain_warnings():
            status = main(sys.argv[1:])
    except TrainingDiverged as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except (UserError, OSError) as error:
        # A data worker's error arrives as the text of its traceback; the sentence is its last line.
        sentence = (str(error).strip() or repr(error)).splitlines()[-1].rpartition("UserError: ")[2]
        print(f"error: {sentence}", file=sys.stderr)
        status = 2
    except torch.OutOfMemoryError as error:
        print(f"error: the device's memory is full ({str(error).splitlines()[0]}); try a smaller --train.batch_size, "
              f"--score.batch_size or --data.image_size", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 128 + signal.SIGINT
    sys.exit(status)
