"""Windows over videos: decode, resize, scale. A window never spans two videos."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lgn_net.data.videos import Video
from lgn_net.errors import UserError
from lgn_net.runs import ignore_signals

if TYPE_CHECKING:
    from lgn_net.data.cache import PackedFrames

cv2.setNumThreads(0)                     # frames are small; parallelism is over windows
cv2.utils.logging.setLogLevel(0)         # what is wrong with a frame is said here


def read_frame(path: str, channels: int) -> np.ndarray:
    """Decode an image file with OpenCV: uint8 (H, W, C), blue-green-red or grey. UserError when it is damaged."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read frame {path}: {error.strerror}") from None
    flag = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    except cv2.error:                    # a header with absurd numbers
        image = None
    if image is None or is_truncated(data):
        raise UserError(f"frame {path} is damaged or truncated ({len(data)} bytes); extract it again")
    return image.reshape(*image.shape[:2], channels)


def is_truncated(data: bytes) -> bool:
    """Whether an image file that OpenCV decodes nevertheless lacks its end (OpenCV fills the rest with grey)."""
    if data[:2] == b"\xff\xd8":                            # JPEG: an end mark after the first scan, whose data hold none
        at = 2
        while data[at:at + 1] == b"\xff" and data[at + 1:at + 2] != b"\xda":
            at += 2 + int.from_bytes(data[at + 2:at + 4])
        return b"\xff\xd9" not in data[at:]
    if data[:4] == b"\x89PNG":
        return b"IEND\xaeB`\x82" not in data
    if data[:2] == b"BM":
        return len(data) < int.from_bytes(data[2:6], "little")
    return False


def read_frames(paths: tuple[str, ...], channels: int, size: int) -> np.ndarray:
    """Frames of one video, resized: uint8 (T, C, size, size).

    The uint8 frame is resized bilinearly by OpenCV, ignoring its aspect, as the authors do (docs/differences.md, 16).
    UserError when a frame is damaged or differs in size from the one before.
    """
    frames, shape = np.empty((len(paths), channels, size, size), np.uint8), None
    for t, path in enumerate(paths):
        image = read_frame(path, channels)
        if shape not in (None, image.shape):
            raise UserError(f"frame {path} is {image.shape[1]} x {image.shape[0]} pixels, the one before "
                            f"{shape[1]} x {shape[0]}; all frames of a video must have one size")
        shape = image.shape
        resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
        frames[t] = resized.reshape(size, size, channels).transpose(2, 0, 1)
    return frames


def to_float(frames: np.ndarray | Tensor) -> Tensor:
    """uint8 pixels -> float32 in [-1, 1]."""
    return torch.as_tensor(frames).float() / 127.5 - 1


def long_enough(videos: list[Video], length: int) -> list[int]:
    """Indices of the videos that hold a window of `length` frames; a warning names the others, UserError if none does."""
    keep = [v for v, video in enumerate(videos) if len(video.frames) >= length]
    for v in sorted(set(range(len(videos))) - set(keep)):
        warnings.warn(f"video {videos[v].name} has {len(videos[v].frames)} frames, fewer than the {length} of a window; "
                      f"skipped", stacklevel=2)
    if not keep:
        raise UserError(f"no video has the {length} frames of a window ({length - 1} inputs and the frame to predict)")
    return keep


class Windows(Dataset):
    """All windows of n + 1 consecutive frames, video after video: item i is a uint8 clip (n + 1, C, size, size).

    Frames are decoded for each window, or read from packed ones (`data/cache.py`) when these are given.
    """

    def __init__(self, videos: list[Video], length: int, channels: int, size: int, packed: "PackedFrames | None" = None):
        self.videos = videos
        self.index = [(v, start) for v in long_enough(videos, length)
                      for start in range(len(videos[v].frames) - length + 1)]
        self.shape = (length, channels, size, size)
        self.packed = packed

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Tensor:
        return self.__getitems__([i])[0]

    def __getitems__(self, indices: list[int]) -> Tensor:
        """A whole batch at once: uint8 (B, n + 1, C, size, size)."""
        length, channels, size, _ = self.shape
        clips = np.empty((len(indices), *self.shape), np.uint8)
        for clip, (v, start) in zip(clips, (self.index[i] for i in indices)):
            if self.packed:
                self.packed.read(v, start, out=clip)
            else:
                clip[:] = read_frames(self.videos[v].frames[start:start + length], channels, size)
        return torch.from_numpy(clips)


def epoch_batches(windows: int, batch_size: int, shuffle: bool, seed: int, epoch: int) -> list[list[int]]:
    """The batches of window indices of one epoch; the last may be smaller. A function of seed and epoch alone."""
    order = torch.arange(windows)
    if shuffle:
        order = torch.randperm(windows, generator=torch.Generator().manual_seed(seed + 1_000_003 * epoch))
    return [batch.tolist() for batch in order.split(batch_size)]


def loader(windows: Windows, batches: list[list[int]], workers: int, device: torch.device) -> DataLoader:
    """Decode the given batches in the given order: uint8 clips (B, n + 1, C, size, size) on the CPU."""
    return DataLoader(windows, batch_sampler=batches, num_workers=workers, worker_init_fn=ignore_signals,
                      collate_fn=as_it_is, pin_memory=device.type == "cuda", generator=torch.Generator())


def as_it_is(batch: Tensor) -> Tensor:
    """`Windows` gathers whole batches itself."""
    return batch
