"""Packed frames: a split decoded and resized once, into one file of raw uint8 from which windows are read.

The file is a plain C-ordered array (N, C, size, size). Reading takes no more memory than a batch, unlike `np.memmap`.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from lgn_net.data.clips import read_frames, stream_frames
from lgn_net.data.videos import Video
from lgn_net.distributed import rank, wait_for_all
from lgn_net.files import locked, replacing, write_atomic
from lgn_net.terminal import progress


class PackedFrames:
    """Reads frames of the packed file, from any thread.

    Each frame's CRC-32 is checked when it is first read. A damaged one is decoded again; the next run packs all anew.
    """

    def __init__(self, path: Path, videos: list[Video], channels: int, size: int, checksums: list[int]):
        self.path, self.videos, self.shape = path, videos, (channels, size, size)
        self.first = [0, *itertools.accumulate(len(video.frames) for video in videos)]             # of each video
        self.checksums, self.checked = checksums, np.zeros(len(checksums), bool)
        self.file, self.lock = path.open("rb"), threading.Lock()

    def read(self, video: int, start: int, out: np.ndarray) -> None:
        """Fill `out`, uint8 (T, C, size, size) and contiguous, with frames start, start + 1, ... of a video."""
        first = self.first[video] + start
        with self.lock:
            self.file.seek(first * math.prod(self.shape))
            whole = self.file.readinto(out.data) == out.nbytes
        for t in range(len(out)):
            if whole and (self.checked[first + t] or zlib.crc32(out[t]) == self.checksums[first + t]):
                self.checked[first + t] = True
                continue
            warnings.warn(f"packed frames {self.path} are damaged; they are decoded, and packed again in the next run")
            self.path.with_suffix(".json").unlink(missing_ok=True)
            out[t] = read_frames(self.videos[video].frames[start + t:start + t + 1], *self.shape[:2])[0]


def pack_frames(videos: list[Video], channels: int, size: int, folder: str | Path) -> PackedFrames:
    """Open the packed frames of the videos of a split, after making them where they are missing or stale.

    Its fingerprint has the names, sizes and modification times of all source files, `size`, `channels` and OpenCV's
    version. Of several processes one packs, and the others wait. UserError for a full disk or a damaged frame.
    """
    if rank():
        wait_for_all()                                       # for the first process, which shows its progress
    folder = Path(folder)
    root = os.path.commonpath([os.path.dirname(video.frames[0]) for video in videos])
    place = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:8]
    path = folder / f"{Path(root).parent.name}-{place}-{size}x{channels}.u8"
    fingerprint = hashlib.sha256(f"2 {cv2.__version__} {channels} {size}".encode())
    frames = [frame for video in videos for frame in video.frames]
    for frame in frames:
        stat = os.stat(frame)
        fingerprint.update(os.fsencode(f"{os.path.relpath(frame, root)} {stat.st_size} {stat.st_mtime_ns}\n"))
    folder.mkdir(parents=True, exist_ok=True)

    # Beside the file lie its fingerprint and its checksums.
    index = path.with_suffix(".json")
    with locked(path.with_suffix(".lock")):
        good = False
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):          # missing, or damaged
            known, *_, checksums = json.loads(index.read_text())
            good = known == fingerprint.hexdigest() and len(checksums) == len(frames) and path.exists()
        if not good:
            checksums = write_packed(path, videos, channels, size)
            write_atomic(index, json.dumps([fingerprint.hexdigest(), checksums]))
    if not rank():
        wait_for_all()
    return PackedFrames(path, videos, channels, size, checksums)


def write_packed(path: Path, videos: list[Video], channels: int, size: int) -> list[int]:
    """Decode all frames, one video per core at a time; return the CRC-32 of each. The caller holds the lock."""
    for left in path.parent.glob(f".{path.name}.*"):             # by a process that was killed
        left.unlink()
    lock, starts = threading.Lock(), [0, *itertools.accumulate(len(video.frames) for video in videos)]
    checksums = []
    with replacing(path) as file, progress(f"pack {path.name}", starts[-1], "frames") as bar, \
            ThreadPoolExecutor(os.cpu_count()) as pool:
        def pack(video: Video, first: int) -> list[int]:
            crcs = []
            for t, frame in enumerate(stream_frames(video.frames, channels, size), first):
                content = frame.tobytes()
                crcs.append(zlib.crc32(content))
                with lock:
                    file.seek(t * len(content))
                    file.write(content)
            return crcs

        for of_video in pool.map(pack, videos, starts):
            checksums += of_video
            bar.update(len(of_video))
    return checksums
