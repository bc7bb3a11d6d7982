"""Packed frames: a split decoded and resized once, into one file of raw uint8 from which windows are read.

The file is a plain C-ordered array (N, C, size, size) that `np.memmap` can open. Here it is read with `preadv`,
straight into the batch, so that the resident memory stays that of a batch however large the data set is.
"""

import errno
import hashlib
import itertools
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from lgn_net.data.clips import stream_frames
from lgn_net.data.videos import Video
from lgn_net.errors import UserError
from lgn_net.files import locked, replacing, to_json, write_atomic
from lgn_net.terminal import progress


class PackedFrames:
    """Reads frames of the packed file. Safe to use from several threads and processes."""

    def __init__(self, path: Path, videos: list[Video], channels: int, size: int):
        self.path = path
        self.first = starts(videos)
        self.shape = (channels, size, size)
        self.file = path.open("rb", buffering=0)

    def read(self, video: int, start: int, out: np.ndarray) -> None:
        """Fill `out`, uint8 (T, C, size, size) and contiguous, with frames start, start + 1, ... of a video."""
        offset = (self.first[video] + start) * math.prod(self.shape)
        if os.preadv(self.file.fileno(), [out.data], offset) != out.nbytes:
            raise UserError(f"packed frames {self.path} are cut short; delete the file, it will be made again")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "file": None}                # for data workers that are spawned, not forked

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= {**state, "file": state["path"].open("rb", buffering=0)}


def starts(videos: list[Video]) -> list[int]:
    """Return the position of each video's first frame in the packed file."""
    return [0, *itertools.accumulate(len(video.frames) for video in videos)][:-1]


def pack_frames(videos: list[Video], channels: int, size: int, folder: str | Path) -> PackedFrames:
    """Open the packed frames of the videos of a split, after making them where they are missing or stale.

    A packed file is known by its fingerprint: the names, sizes and modification times of all source files, `size`,
    `channels` and OpenCV's version. Several processes may call this at once: one packs, the others wait for it. The
    file appears under its name only when it is complete. UserError for a full disk, or a damaged source frame.
    """
    folder = Path(folder)
    root = os.path.commonpath([os.path.dirname(video.frames[0]) for video in videos])
    place = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:8]
    path = folder / f"{Path(root).parent.name}-{place}-{size}x{channels}.u8"
    fingerprint = hashlib.sha256(f"1 {cv2.__version__} {channels} {size}".encode())
    for frame in itertools.chain(*(video.frames for video in videos)):
        stat = os.stat(frame)
        fingerprint.update(os.fsencode(f"{os.path.relpath(frame, root)} {stat.st_size} {stat.st_mtime_ns}\n"))
    folder.mkdir(parents=True, exist_ok=True)
    index = path.with_suffix(".json")
    with locked(path.with_suffix(".lock")):
        if not (path.exists() and index.exists()
                and json.loads(index.read_text()) == [fingerprint.hexdigest(), *stamp(path)]):
            write_packed(path, videos, channels, size)
            write_atomic(index, to_json([fingerprint.hexdigest(), *stamp(path)]))
    return PackedFrames(path, videos, channels, size)


def stamp(path: Path) -> tuple[int, int]:
    """Return size and modification time of a file, which tell whether anything has changed it."""
    return path.stat().st_size, path.stat().st_mtime_ns


def write_packed(path: Path, videos: list[Video], channels: int, size: int) -> None:
    """Decode all frames, one video per core at a time. The caller holds the lock."""
    total, frame_bytes = sum(len(video.frames) for video in videos), channels * size * size
    for left in path.parent.glob(f".{path.name}.*"):             # by a process that was killed
        left.unlink()
    with replacing(path) as file, progress(f"pack {path.name}", total, "frames") as bar, \
            ThreadPoolExecutor(os.cpu_count()) as pool:
        def pack(video: Video, first: int) -> int:
            for t, frame in enumerate(stream_frames(video.frames, channels, size), first):
                if os.pwrite(file.fileno(), frame.tobytes(), t * frame_bytes) != frame_bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return len(video.frames)

        for done in pool.map(pack, videos, starts(videos)):
            bar.update(done)
