"""Windows over videos, in batches. A window never spans two videos."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lgn_net.data.cache import PackedFrames
from lgn_net.data.clips import long_enough, read_frames
from lgn_net.data.videos import Video
from lgn_net.runs import ignore_signals


class Windows(Dataset):
    """All windows of n + 1 consecutive frames, video after video: item i is a uint8 clip (n + 1, C, size, size).

    Frames are decoded for each window, or read from packed ones (`data/cache.py`) when these are given.
    """

    def __init__(self, videos: list[Video], length: int, channels: int, size: int, packed: PackedFrames | None = None):
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
