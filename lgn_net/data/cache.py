"""Packed frames: a split decoded and resized once, into one file of raw uint8 from which windows are read.

The file is a plain C-ordered array (N, C, size, size) that `np.memmap` can open. Here it is read with `preadv`,
straight into the batch, so that the resident memory stays that of a batch however large the data set is.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from lgn_net.data.clips import read_frames
from lgn_net.data.videos import Video
from lgn_net.errors import UserError
from lgn_net.files import locked, replacing, to_json, write_atomic
from lgn_net.terminal import progress

CHUNK = 64          # frames that a thread decodes at once while packing


class PackedFrames:
    """Reads frames of the packed file. Safe to use from several threads and processes."""

    def __init__(self, path: Path, videos: list[Video], channels: int, size: int):
        self.path = path
        self.first = np.cumsum([0, *(len(video.frames) for video in videos)])     # of each video in the file
        self.shape = (channels, size, size)
        self.file = path.open("rb", buffering=0)

    def read(self, video: int, start: int, out: np.ndarray) -> None:
        """Fill `out`, uint8 (T, C, size, size) and contiguous, with frames start, start + 1, ... of a video."""
        offset = (int(self.first[video]) + start) * int(np.prod(self.shape))
        if os.preadv(self.file.fileno(), [out.reshape(-1).data], offset) != out.nbytes:
            raise UserError(f"packed frames {self.path} are cut short; delete the file, it will be made again")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "file": None}                # for data workers that are spawned, not forked

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= {**state, "file": state["path"].open("rb", buffering=0)}


def pack_frames(videos: list[Video], channels: int, size: int, folder: str | Path) -> PackedFrames:
    """Open the packed frames of these videos, after making them where they are missing or stale.

    A packed file is known by its fingerprint: the names, sizes and modification times of all source files, `size`,
    `channels` and OpenCV's version. Several processes may call this at once: one packs, the others wait for it. The
    file appears under its name only when it is complete.

    Args:
        videos: of one split.
        channels: of the frames, 1 or 3.
        size: height and width of the frames in pixels.
        folder: where packed files live; made if missing.

    Raises:
        UserError: too little free disk (with both numbers), or a damaged source frame.
    """
    folder, total = Path(folder), sum(len(video.frames) for video in videos)
    root = os.path.commonpath([os.path.dirname(video.frames[0]) for video in videos])
    place = hashlib.sha256(os.path.abspath(root).encode(errors="surrogateescape")).hexdigest()[:8]
    path = folder / f"{Path(root).parent.name}-{place}-{size}x{channels}.u8"
    print_ = fingerprint(videos, root, channels, size)
    with hint(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if not is_current(path, print_, videos, channels, size):
                write_packed(path, videos, channels, size)
                stat = path.stat()
                index = {"fingerprint": print_, "written": [stat.st_size, stat.st_mtime_ns], "frames": total,
                         "channels": channels, "size": size, "source": root,
                         "videos": {video.name: len(video.frames) for video in videos}}
                write_atomic(path.with_suffix(".json"), to_json(index))
    return PackedFrames(path, videos, channels, size)


@contextlib.contextmanager
def hint(folder: Path) -> Iterator[None]:
    """Raise what the disk of the packed files objects to as a UserError that says how to do without them."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot pack frames into {folder}: {error.strerror}; choose another place with "
                        f"--data.cache DIR, or decode while training with --data.cache null") from None


def fingerprint(videos: list[Video], root: str, channels: int, size: int) -> str:
    """Return the sha256 of what decides the packed file's content."""
    digest = hashlib.sha256(f"1 {cv2.__version__} {channels} {size}".encode())
    for video in videos:
        for frame in video.frames:
            stat = os.stat(frame)
            digest.update(f"{os.path.relpath(frame, root)} {stat.st_size} {stat.st_mtime_ns}\n"
                          .encode(errors="surrogateescape"))
    return digest.hexdigest()


def is_current(path: Path, print_: str, videos: list[Video], channels: int, size: int) -> bool:
    """Tell whether the packed file has this fingerprint, its size and time, and the right pixels in a few frames."""
    try:
        index, stat = json.loads(path.with_suffix(".json").read_text()), path.stat()
    except (OSError, ValueError):
        return False
    if index.get("fingerprint") != print_ or [stat.st_size, stat.st_mtime_ns] != index.get("written"):
        return False
    packed, one = PackedFrames(path, videos, channels, size), np.empty((1, channels, size, size), np.uint8)
    for v in np.linspace(0, len(videos) - 1, 8).astype(int):
        t = len(videos[v].frames) // 2
        packed.read(v, t, one)
        if not np.array_equal(one, read_frames(videos[v].frames[t:t + 1], channels, size)):
            return False
    return True


def write_packed(path: Path, videos: list[Video], channels: int, size: int) -> None:
    """Decode all frames, on all cores. The caller holds the lock."""
    total = sum(len(video.frames) for video in videos)
    needed, free = total * channels * size * size, shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(f"packing {total} frames needs {needed / 1e9:.1f} GB, {path.parent} has {free / 1e9:.1f} GB "
                        f"free; choose another place with --data.cache DIR, or decode while training with "
                        f"--data.cache null")
    for left in path.parent.glob(f".{path.name}.*"):             # by a process that was killed
        left.unlink()
    with replacing(path) as file, hint(path.parent), ThreadPoolExecutor(os.cpu_count()) as pool, \
            progress(f"pack {path.name}", total, "frames") as bar:
        def pack(chunk: tuple[int, tuple[str, ...]]) -> int:
            first, names = chunk
            data = read_frames(names, channels, size).tobytes()
            if os.pwrite(file.fileno(), data, first * channels * size * size) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return len(names[:CHUNK])

        for done in pool.map(pack, chunks(videos)):
            bar.update(done)


def chunks(videos: list[Video]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield (position in the packed file, paths) of at most CHUNK + 1 frames of one video.

    Chunks overlap by a frame, so that every pair of neighbours is compared in size.
    """
    first = 0
    for video in videos:
        for start in range(0, len(video.frames), CHUNK):
            yield first + start, video.frames[start:start + CHUNK + 1]
        first += len(video.frames)
