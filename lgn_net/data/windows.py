"""Windows over videos, in batches. A window never spans two videos."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lgn_net.data.cache import PackedFrames
from lgn_net.data.clips import in_threads, long_enough, read_frames, warn_of_lost_depth
from lgn_net.data.videos import Video
from lgn_net.terminal import progress


class Windows:
    """All windows of n + 1 consecutive frames, video after video.

    Frames are decoded for each window, read from packed ones (`data/cache.py`), or gathered where `load_onto` put them.
    """

    def __init__(self, videos: list[Video], length: int, channels: int, size: int, packed: PackedFrames | None = None):
        self.videos = videos
        self.index = [(v, start) for v in long_enough(videos, length)
                      for start in range(len(videos[v].frames) - length + 1)]
        warn_of_lost_depth(videos[self.index[0][0]].frames[0])
        self.shape = (length, channels, size, size)
        self.packed = packed
        self.loaded: Tensor | None = None

    def load_onto(self, device: torch.device, choice: str) -> None:
        """Keep all frames in the device's memory, uint8 (frames, C, size, size), as `data.on_device` chooses."""
        lengths = [len(video.frames) for video in self.videos]
        if choice == "auto" and device.type == "cuda":
            needed = sum(lengths) * math.prod(self.shape[1:])
            choice = "yes" if needed <= torch.cuda.mem_get_info(device)[0] / 2 else "no"
        if choice != "yes":
            return
        loaded = torch.empty((sum(lengths), *self.shape[1:]), dtype=torch.uint8, device=device)
        with progress("load", len(loaded), "frames") as bar:
            for v, place in enumerate(loaded.split(lengths)):
                place.copy_(torch.from_numpy(self.read(v, 0, np.empty(place.shape, np.uint8))))
                bar.update(len(place))
        self.loaded, self.first = loaded, torch.tensor([0, *lengths]).cumsum(0)              # of each video

    def read(self, video: int, start: int, out: np.ndarray) -> np.ndarray:
        """Fill `out`, uint8 (T, C, size, size) and contiguous, with frames start, start + 1, ... of a video."""
        if self.packed:
            self.packed.read(video, start, out)
        else:
            out[:] = read_frames(self.videos[video].frames[start:start + len(out)], *self.shape[1:3])
        return out

    def __len__(self) -> int:
        return len(self.index)

    def clips(self, indices: list[int]) -> Tensor:
        """Gather the windows of these indices: uint8 (B, n + 1, C, size, size)."""
        where = [self.index[i] for i in indices]
        if self.loaded is not None:
            rows = torch.stack([self.first[v] + start + torch.arange(self.shape[0]) for v, start in where])
            return self.loaded[rows.to(self.loaded.device, non_blocking=True)]
        clips = np.empty((len(indices), *self.shape), np.uint8)
        for clip, (v, start) in zip(clips, where):
            self.read(v, start, clip)
        return torch.from_numpy(clips)


def epoch_batches(windows: int, batch_size: int, shuffle: bool, seed: int, epoch: int) -> list[list[int]]:
    """Divide the window indices of one epoch into batches; the last may be smaller. Only seed and epoch decide."""
    order = torch.arange(windows)
    if shuffle:
        order = torch.randperm(windows, generator=torch.Generator().manual_seed(seed + 1_000_003 * epoch))
    return [batch.tolist() for batch in order.split(batch_size)]


def loader(windows: Windows, batches: list[list[int]], workers: int, device: torch.device) -> Iterator[Tensor]:
    """Load batches in order, uint8 (B, n + 1, C, size, size); `workers` threads decode, unless frames are packed."""
    def load(batch: list[int]) -> Tensor:
        clips = windows.clips(batch)
        return clips.pin_memory() if device.type == "cuda" and windows.loaded is None else clips

    decoding = windows.packed is None and windows.loaded is None
    return in_threads(load, batches, workers if decoding else 0)
