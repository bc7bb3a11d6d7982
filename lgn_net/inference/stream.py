"""Videos -> encoded windows: each frame is decoded once, and what depends on it alone is computed once."""

import copy
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lgn_net.config import Config
from lgn_net.data.clips import stream_frames, to_float
from lgn_net.data.videos import Video
from lgn_net.device import autocast
from lgn_net.model.prototype_branch import PrototypeEncoder


class Encoded(NamedTuple):
    """Windows, and all of their prediction that does not depend on the memory."""

    windows: list[tuple[int, int]]     # the video, and the index in it of the frame to predict
    queries: list[Tensor]              # this and the next: see `LGNNet.encode`
    context: dict[str, Tensor]
    targets: Tensor                    # the frames to predict, (B, C, size, size) in [-1, 1]


def for_inference(model: nn.Module, config: Config) -> nn.Module:
    """A copy whose BatchNorms are part of the convolutions before them, and these in the precision they are used in."""
    model = copy.deepcopy(model).eval()
    for sequence in model.modules():
        if isinstance(sequence, nn.Sequential):
            for k, (layer, norm) in enumerate(itertools.pairwise(sequence)):
                if isinstance(norm, nn.BatchNorm2d):
                    sequence[k] = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose2d))
                    sequence[k + 1] = nn.Identity()
    if config.score.precision == "bfloat16":
        full = [layer for box in model.modules() if isinstance(box, PrototypeEncoder) for layer in box.in_float32]
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer not in full:
                layer.bfloat16()                          # autocast would do it again at every call
    return model


class WindowEncoder:
    """Frames in, windows out: every frame that has n frames of its video before it completes one."""

    def __init__(self, model: nn.Module, config: Config, device: torch.device):
        self.model, self.config, self.device = model, config, device
        self.recent: dict[int, deque] = {}                # of each video, its last frames and their gates

    def __call__(self, frames: Sequence[tuple[int, int]], pixels: Sequence[np.ndarray]) -> Encoded | None:
        """Encode the windows that end with the next frames; None if there are none.

        Args:
            frames: the video, and the index in it, of each frame. A video's frames come in order, some in every call
                until it ends.
            pixels: uint8 (C, size, size) of each.
        """
        n, T, local = self.config.model.input_frames, self.config.model.window, self.model.local_branch
        images = to_float(torch.from_numpy(np.stack(pixels)).to(self.device))
        with autocast(self.device, self.config.score.precision):
            gates = local.frame_gates(images) if local else images
            self.recent = {v: self.recent.get(v) or deque(maxlen=T) for v, _ in frames}
            windows, clips = [], []
            for (v, t), *frame in zip(frames, images.split(1), gates.split(1)):
                self.recent[v].append(frame)
                if len(self.recent[v]) == T:
                    windows.append((v, t))
                    clips.append(tuple(self.recent[v]))
            if not windows:
                return None
            steps = [as_batch([clip[k][0] for clip in clips]) for k in range(T)]                 # (B, C, size, size)
            by_step = [as_batch([clip[k][1] for clip in clips]) for k in range(n)] if local else None
            queries, context = self.model.encode(torch.stack(steps[:n], dim=1), by_step)
        return Encoded(windows, queries, context, steps[-1])


def windows_at_once(config: Config, device: torch.device) -> int:
    """`score.batch_size`; on a CPU fewer, where features are so large that C's allocator maps their memory anew."""
    largest = 4 * config.model.base_width * config.data.image_size ** 2       # bytes of a window's features
    return max(1, min(config.score.batch_size, 2 ** 25 // largest)) if device.type == "cpu" else config.score.batch_size


def stream_windows(model: nn.Module, videos: list[Video], chosen: list[int], config: Config, device: torch.device,
                   in_step: bool) -> Iterator[Encoded]:
    """All windows of the chosen videos, `windows_at_once`; the next frames are decoded meanwhile.

    Args:
        in_step: so many videos advance together, by a frame each; else they come one after the other.
    """
    encode = WindowEncoder(model, config, device)
    together, each = (windows_at_once(config, device), 1)[::1 if in_step else -1]
    batches = schedule({v: len(videos[v].frames) for v in chosen}, together, each)
    for frames, pixels in ahead(decode(videos, batches, config)):
        if encoded := encode(frames, pixels):
            yield encoded


def schedule(lengths: dict[int, int], together: int, each: int) -> Iterator[list[tuple[int, int]]]:
    """(video, frame) in batches: `together` videos at a time, of each its next `each` frames until it ends."""
    left = [(v, range(length)) for v, length in lengths.items()]
    while left:
        now = left[:together]
        yield [(v, t) for v, frames in now for t in frames[:each]]
        left = [(v, frames[each:]) for v, frames in now if len(frames) > each] + left[together:]


def decode(videos: list[Video], batches: Iterable[list[tuple[int, int]]], config: Config) \
        -> Iterator[tuple[list[tuple[int, int]], list[np.ndarray]]]:
    """The batches of `schedule`, each with the pixels of its frames, uint8 (C, size, size)."""
    channels, size, readers = config.data.channels, config.data.image_size, {}
    for frames in batches:
        readers = {v: readers.get(v) or stream_frames(videos[v].frames, channels, size) for v, _ in frames}
        yield frames, [next(readers[v]) for v, _ in frames]


def ahead(items: Iterator[tuple]) -> Iterator[tuple]:
    """The same items; the next one is made in a thread while one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while item := coming.result():
            coming = thread.submit(next, items, None)
            yield item


def as_batch(parts: Sequence[Tensor]) -> Tensor:
    """Batches (B_k, ...) -> one; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
