"""The signals of an evaluation as they come, in files, so that one that was killed goes on where it was."""

import hashlib
import itertools
import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lgn_net.data.videos import Video
from lgn_net.errors import UserError
from lgn_net.files import replacing, writing
from lgn_net.training.checkpoint import load_file

SECONDS = 5.0        # between two times of writing


class Part:
    """Two files: a line per scored frame, and how many bytes of these count, with the tensors that scoring changes.

    The second file is replaced when the lines are on the disk, so that a kill at any moment leaves both in agreement.
    """

    def __init__(self, path: Path, facts: object, weights: dict[str, Tensor], videos: Sequence[Video],
                 tensors: Sequence[Tensor] = ()):
        """`path`: of the files, without ending. `facts` (for JSON), `weights`, `videos`: what the scores depend on."""
        self.lines, self.state = path.with_suffix(".jsonl"), path.with_suffix(".state")
        self.waiting: list[str] = []
        self.length, self.saved_at, self.tensors = 0, time.monotonic(), list(tensors)

        # The key: of each video the first and the last frame, by size and time.
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        for name, value in weights.items():
            digest.update(name.encode() + value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for video in videos:
            stats = [os.stat(video.frames[k]) for k in (0, -1)]
            digest.update(repr((video.name, len(video.frames), [(s.st_size, s.st_mtime_ns) for s in stats])).encode())
        self.key = digest.hexdigest()

    def resume(self, tensors: Sequence[Tensor]) -> Iterator[list]:
        """Yield the rows of signals that are there, and restore `tensors` to their values after the last of these rows.

        Nothing is yielded, and a warning says so, where the files are of an evaluation with another key or damaged.
        """
        self.tensors += tensors
        if not self.state.is_file():
            return
        try:
            state = load_file(self.state)
            if state["key"] != self.key:
                raise UserError("it had other knobs, weights, frames or versions")
        except (UserError, KeyError, TypeError) as error:
            warnings.warn(f"{self.lines.parent} holds an evaluation that was broken off, and {error}; starting afresh")
            return
        for tensor, value in zip(self.tensors, state["tensors"], strict=True):
            tensor.copy_(value)
        self.length = state["bytes"]
        print(f"going on with the evaluation that was broken off in {self.lines.parent}")
        with self.lines.open() as file:
            rows = itertools.takewhile(lambda _: file.tell() <= self.length, iter(file.readline, ""))
            yield from map(json.loads, rows)

    def add(self, rows: Sequence[tuple]) -> None:
        """Take rows of signals; write all that came since the last time when that is `SECONDS` ago."""
        self.waiting += [json.dumps(row) + "\n" for row in rows]
        if time.monotonic() - self.saved_at >= SECONDS:
            self.save()

    def save(self) -> None:
        """Write the rows that came, then the state behind the last one."""
        self.lines.parent.mkdir(parents=True, exist_ok=True)
        with writing(self.lines), self.lines.open("ab") as file:
            file.truncate(self.length)                      # lines that came after the last state
            file.write("".join(self.waiting).encode())
            file.flush()
            os.fsync(file.fileno())
            self.length = file.tell()
        with replacing(self.state) as file:
            torch.save({"key": self.key, "bytes": self.length, "tensors": self.tensors}, file)
        self.waiting, self.saved_at = [], time.monotonic()
