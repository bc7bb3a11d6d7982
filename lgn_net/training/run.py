"""A run's folder: its log and its lock."""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import torch
from torch.utils.tensorboard import SummaryWriter

from lgn_net.errors import UserError
from lgn_net.files import write_atomic
from lgn_net.model.memory import PrototypeMemory


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
