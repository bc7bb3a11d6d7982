"""The signals of an evaluation as they come, in a file, so that one that was killed goes on where it was."""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgn_net.data.videos import Video
from lgn_net.errors import UserError
from lgn_net.files import replacing
from lgn_net.training.checkpoint import load_file

SECONDS = 5.0        # between two times of writing, or twenty times as long as that takes


class Part:
    """A file with the rows of signals so far, and the `tensors` that scoring changes. `key` is from `key_of`."""

    def __init__(self, path: Path, key: str, tensors: Sequence[Tensor] = ()):
        self.path, self.key, self.tensors = path, key, [*tensors]
        self.rows: list[tuple] = []
        self.saved_at, self.pause = time.monotonic(), SECONDS

    def resume(self, tensors: Sequence[Tensor]) -> list[tuple]:
        """Return the rows that are there; give all tensors, also `tensors`, the values that they had behind these."""
        self.tensors += tensors
        try:
            state: Any = load_file(self.path) if self.path.is_file() else {"key": self.key, "rows": []}
            if state["key"] != self.key:
                raise UserError("it had other knobs, weights, frames or versions")
        except UserError as error:
            warnings.warn(f"{self.path.parent} holds an evaluation that was broken off, and {error}; starting afresh")
            return []
        if state["rows"]:
            print(f"going on with the evaluation that was broken off in {self.path.parent}")
            for tensor, value in zip(self.tensors, state["tensors"], strict=True):
                tensor.copy_(value)
        self.rows = state["rows"]
        return [*self.rows]

    def add(self, rows: Iterable[tuple]) -> None:
        """Take rows of signals; write all of them now and then."""
        self.rows += map(tuple, rows)
        if time.monotonic() - self.saved_at >= self.pause:
            self.save()

    def save(self) -> None:
        """Write the rows, and the tensors as they are behind the last one."""
        started = time.monotonic()
        with replacing(self.path) as file:
            torch.save({"key": self.key, "rows": self.rows, "tensors": self.tensors}, file)
        self.saved_at = time.monotonic()
        self.pause = max(SECONDS, 20 * (self.saved_at - started))


def key_of(facts: object, state: dict[str, Tensor], videos: Sequence[Video]) -> str:
    """Make a key of what scores depend on: `facts` (for JSON), weights, and first and last frames by size and time."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, value in state.items():
        digest.update(name.encode() + value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for video in videos:
        stats = [os.stat(video.frames[k]) for k in (0, -1)]
        digest.update(repr((video.name, len(video.frames), [(s.st_size, s.st_mtime_ns) for s in stats])).encode())
    return digest.hexdigest()


def remaining(ranges: Sequence[tuple[int, range]], done: tuple[int, int], batch: int, window: int) \
        -> list[tuple[int, range]]:
    """Leave out the frames that windows after `done`, video and frame, do not need; batches stay what they were."""
    before = sum(len(frames) for v, frames in ranges if v < done[0]) + done[1] + 1
    skipped = max(0, before // batch - -(-(window - 1) // batch)) * batch
    left = []
    for v, frames in ranges:
        if len(frames) > skipped:
            left.append((v, frames[skipped:]))
        skipped = max(0, skipped - len(frames))
    return left
