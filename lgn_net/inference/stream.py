"""Frames become encoded windows; each frame is decoded once, and what depends on it alone is computed once."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from lgn_net.config import Config
from lgn_net.data.clips import stream_frames, to_float
from lgn_net.data.videos import Video
from lgn_net.device import autocast
from lgn_net.inference.signals import psnr
from lgn_net.model.lgn_net import FramePredictor
from lgn_net.model.prototype_branch import PrototypeEncoder

SILENT = tqdm(disable=True)               # a progress bar that shows nothing
Frame = tuple[int, int, np.ndarray]       # index of the video, index of the frame, pixels uint8 (C, size, size)


class Encoded(NamedTuple):
    """B windows, and the part of their predictions that does not depend on the memory."""

    where: list[tuple[int, int]]          # index of the video, index of the frame to predict
    queries: list[Tensor]                 # queries and context: see `FramePredictor.encode`
    context: dict[str, Tensor]
    target: Tensor                        # the frames to predict, (B, C, size, size) in [-1, 1]
    baselines: dict[str, Tensor]          # PSNR in dB, (B,), of predictors without a parameter: see `baselines`

    def part(self, first: int, end: int | None = None) -> "Encoded":
        """Keep some of the windows."""
        return self.changed(self.where[first:end], lambda x: x[first:end])

    def repeat(self, times: int) -> "Encoded":
        """Repeat a single window."""
        return self.changed(self.where * times, lambda x: x.expand(times, *x.shape[1:]))

    def changed(self, where: list[tuple[int, int]], change: Callable[[Tensor], Tensor]) -> "Encoded":
        """Change all tensors alike."""
        context, compared = ({name: change(x) for name, x in table.items()} for table in (self.context, self.baselines))
        return Encoded(where, [change(q) for q in self.queries], context, change(self.target), compared)


def encode_windows(model: FramePredictor, batches: Iterable[Sequence[Frame]], config: Config,
                   device: torch.device) -> Iterator[Encoded]:
    """Encode every window of n + 1 consecutive frames; those that end in one batch and follow each other, at once."""
    n, T = config.model.input_frames, config.model.window
    recent: Any = None                                    # images and gates of the last frames
    follows = None                                        # video and index of the frame after them
    for batch in batches:
        for (video, _), group in itertools.groupby(enumerate(batch), lambda item: (item[1][0], item[1][1] - item[0])):
            frames = [frame for _, frame in group]
            images = to_float(torch.from_numpy(np.stack([pixels for _, _, pixels in frames])).to(device))
            with autocast(device, config.score.precision):
                gates = model.frame_gates(images)

                # Join them to the frames before, and keep those of windows to come.
                if follows == (video, frames[0][1]):
                    images = torch.cat([recent[0], images])
                    gates = None if gates is None else torch.cat([recent[1], gates])
                count = max(0, len(images) - T + 1)
                recent = images[count:], None if gates is None else gates[count:]
                follows = video, frames[-1][1] + 1
                if not count:
                    continue

                # Encode them, time step by time step.
                steps = [images[t:t + count] for t in range(T)]                              # (B, C, size, size)
                by_step = None if gates is None else [gates[t:t + count] for t in range(n)]
                queries, context = model.encode(torch.stack(steps[:n], dim=1), by_step)
            where = [(video, frame) for _, frame, _ in frames[-count:]]
            yield Encoded(where, queries, context, steps[-1], baselines(steps[:n], steps[-1]) if n < T else {})


def baselines(frames: Sequence[Tensor], target: Tensor) -> dict[str, Tensor]:
    """Compute the PSNR in dB, (B,), of copying the last frame and of linear extrapolation, clip(2 s_t - s_(t-1))."""
    found = {"psnr_copy": psnr(frames[-1], target)}
    if len(frames) > 1:
        found["psnr_linear"] = psnr((2 * frames[-1] - frames[-2]).clamp(-1, 1), target)
    return found


def stream_windows(model: FramePredictor, videos: Sequence[Video], ranges: Iterable[tuple[int, range]], config: Config,
                   device: torch.device) -> Iterator[Encoded]:
    """Encode the windows of ranges of frames of videos, given by their indices; a thread decodes the next batch."""
    def read() -> Iterator[Frame]:
        for v, frames in ranges:
            paths = videos[v].frames[frames.start:frames.stop]
            form = config.data.channels, config.data.image_size
            for t, pixels in zip(frames, stream_frames(paths, *form, config.data.workers)):
                yield v, t, pixels

    yield from encode_windows(model, ahead(batched(read(), batch_size_on(device, config))), config, device)


def batch_size_on(device: torch.device, config: Config) -> int:
    """Return `score.batch_size`; on a CPU less, where features are so large that C's allocator maps memory anew."""
    largest = 4 * config.model.base_width * config.data.image_size ** 2       # bytes of a window's features
    return max(1, min(config.score.batch_size, 2 ** 25 // largest)) if device.type == "cpu" else config.score.batch_size


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Gather items in lists of `size`; the last list may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def ahead(items: Iterator[list]) -> Iterator[list]:
    """Yield the same items; a thread makes the next one while one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while item := coming.result():
            coming = thread.submit(next, items, None)
            yield item


def for_inference(model: FramePredictor, config: Config) -> Any:
    """Copy a model, BatchNorms folded into convolutions, in `score.precision`; `kernels` says what computes it."""
    ready: Any = copy.deepcopy(model)
    if hasattr(ready, "kernels"):
        return ready
    for sequence in ready.eval().modules():
        if isinstance(sequence, nn.Sequential):
            layer: Any
            for k, (layer, norm) in enumerate(itertools.pairwise(sequence)):
                if isinstance(norm, nn.BatchNorm2d):
                    sequence[k] = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose2d))
                    sequence[k + 1] = nn.Identity()
    ready.kernels, on_cpu = "direct", next(ready.parameters()).device.type == "cpu"
    if config.score.kernels == "graph" and model.memories and not on_cpu:
        ready.decode, ready.kernels = by_graph(ready.decode), "graph"
    if config.score.kernels in ("auto", "winograd") and config.score.precision == "float32" and on_cpu:
        from lgn_net.inference.kernels import swap_in  # only this way of scoring needs it
        batch = batch_size_on(torch.device("cpu"), config)
        ready.kernels = swap_in(ready, config.score.kernels, config.data.image_size, batch)
    if config.score.precision == "bfloat16":
        for layer in ready.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.bfloat16()                          # once, where autocast would do it at every call
        # bfloat16 in the first blocks would blur D, whose range within a video is small.
        for box in [*ready.modules()]:
            if isinstance(box, PrototypeEncoder):
                box.block1, box.block2 = (InFloat32(*block).float() for block in (box.block1, box.block2))
    return ready


def by_graph(decode: Callable) -> Callable:
    """Decode single windows as one CUDA graph; to launch their kernels one by one takes longer than to run them."""
    replay = torch.compile(decode, backend="cudagraphs", dynamic=False)       # on a CPU nothing is captured
    return lambda lookups, context: (replay(lookups, context).clone() if len(lookups[0].queries) == 1 else
                                     decode(lookups, context))                # the next replay overwrites its result


class InFloat32(nn.Sequential):
    """A block that autocast leaves alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on x (B, C, H, W) in float32."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())
