"""Measure speed: evaluation and training, as they are and as plainly as the authors' code computes, and their parts."""

import copy
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.benchmark import timer
from torch.utils.flop_counter import FlopCounterMode

from lgn_net.config import Config
from lgn_net.data.clips import stream_frames, to_float
from lgn_net.data.videos import Video
from lgn_net.data.windows import Windows
from lgn_net.device import provenance, seed_everything, set_kernels
from lgn_net.inference import stream
from lgn_net.inference.loop import FrameSignals, copy_items, predict, restore_items
from lgn_net.model.build import build_model
from lgn_net.training.step import prepare, shares_of, train_step

PRECISIONS = ("float32", "tf32", "bfloat16")
# The parts of a network by the callables that compute them; those that a network lacks are passed over.
PARTS = {"local_branch.encoder": "E_loc", "local_branch.cells.0.conv_x": "cells", "local_branch.recur": "cells",
         "local_branch.deconv": "local deconvolution", "prototype_encoder": "E_glo", "encoder": "E_glo",
         "read": "memory", "memory.update_": "memory", **{f"memories.{k}.update_": "memory" for k in range(3)},
         "decode": "decoder"}
Work = tuple[Any, Callable[[], list]]           # a network, and a call that makes it work


def interleave(ways: Mapping[str, Callable[[], object]], rounds: int) -> tuple[dict[str, list[float]], dict]:
    """Time the ways in turn, so that drift of the machine hits them alike; a first round warms up.

    Returns the seconds of each way, round by round, and what its last call returned.
    """
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    results = {}
    for way, call in [*ways.items()] * (rounds + 1):
        start = timer()                                                       # waits for CUDA
        results[way] = call()
        seconds[way].append(timer() - start)
    return {way: times[1:] for way, times in seconds.items()}, results


def machine(device: torch.device) -> dict:
    """Describe the machine: versions, processor, device, cores, load."""
    return provenance(device) | {"cores": os.cpu_count(), "load": [round(load, 2) for load in os.getloadavg()]}


def flops(call: Callable[[], object]) -> int:
    """Count the floating-point operations of convolutions and matrix products in a call; a multiply-add is two."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def draw_video(folder: Path, config: Config, frames: int) -> Video:
    """Draw a video of noise whose contrast changes from frame to frame, so that the regular scores differ."""
    random, shape = np.random.default_rng(0), (config.data.image_size, config.data.image_size, config.data.channels)
    paths = tuple(str(folder / f"{t:03d}.bmp") for t in range(frames))
    for path in paths:
        cv2.imwrite(path, (random.uniform(0.2, 1) * random.integers(0, 256, shape)).astype(np.uint8))
    return Video("noise", paths)


def first_windows(video: Video, config: Config, count: int) -> Tensor:
    """Read the first windows of a video, uint8 (count, T, C, size, size), over again where it has fewer."""
    windows = Windows([video], config.model.window, config.data.channels, config.data.image_size)
    return windows.__getitems__([k % len(windows) for k in range(count)])


@torch.no_grad()
def random_model(config: Config, video: Video, device: torch.device) -> Any:
    """Build a network of random weights whose BatchNorms have the statistics of a window, as after a training."""
    seed_everything(config.seed)
    model = build_model(config).to(device).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None                                            # the mean over all calls
    model(to_float(first_windows(video, config, 1)[:, :config.model.input_frames]).to(device))
    return model.eval()


def difference(signals: list[FrameSignals], truth: list[FrameSignals]) -> dict:
    """Return the largest differences of two ways' signals of the same frames, and how many updates differ."""
    pairs = [*zip(signals, truth, strict=True)]
    return {"psnr_db": max(abs(a.psnr - b.psnr) for a, b in pairs),
            "distance": max((abs(x - y) for a, b in pairs for x, y in zip(a.distance, b.distance)), default=0.0),
            "updates": sum(a.memory_updated != b.memory_updated for a, b in pairs)}


def plain_model(model: Any) -> Any:
    """Copy a model so that it computes as the authors' code does.

    The layout is contiguous, E_loc takes frame by frame, and states of zeros are convolved as well.
    """
    def step_with_zeros(cell: Any, gates: Tensor, *states: Tensor | None) -> tuple[Tensor, ...]:
        zero = gates.new_zeros(len(gates), cell.conv_h.in_channels, *gates.shape[2:])
        return type(cell).step(cell, gates, *(zero if state is None else state for state in states))

    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    if local := getattr(model, "local_branch", None):
        local.encode = lambda clip: [local.encoder(frame) for frame in clip.unbind(1)]
        for cell in local.cells:
            cell.step = partial(step_with_zeros, cell)
    return model


def encode_anew(model: Any, video: Video, config: Config, device: torch.device) -> Iterator[stream.Windows]:
    """Encode window by window, each with all its frames: as `stream_windows`, but nothing is computed once for many."""
    recent: deque[Tensor] = deque(maxlen=config.model.window)
    for t, pixels in enumerate(stream_frames(video.frames, config.data.channels, config.data.image_size)):
        recent.append(to_float(torch.from_numpy(pixels[None]).to(device)))
        if len(recent) == config.model.window:
            clip = torch.stack([*recent], dim=1)                              # (1, T, C, size, size)
            queries, context = model.encode(clip[:, :config.model.input_frames])
            yield stream.Windows([(0, t)], queries, context, clip[:, -1], {})


def evaluation(model: Any, video: Video, config: Config, device: torch.device, plain: bool = False) -> Work:
    """Make the evaluation of a video ready, as `score_videos` does it or plainly; the call returns its signals."""
    ready = plain_model(model) if plain else stream.for_inference(model, config)
    items = copy_items(ready)

    @torch.inference_mode()
    def score() -> list[FrameSignals]:
        set_kernels(config.score.precision)
        restore_items(ready, items)
        windows = encode_anew(ready, video, config, device) if plain else \
            stream.stream_windows(ready, [video], [(0, range(len(video.frames)))], config, device)
        return [signals for scored in predict(ready, windows, config) for signals in scored.signals]

    return ready, score


def training(config: Config, video: Video, device: torch.device, steps: int, plain: bool = False) -> Work:
    """Make steps on the first batch of a video ready, as train.py does them or plainly; the call returns the losses."""
    seed_everything(config.seed)
    model: Any = build_model(config).to(device).train()
    model = plain_model(model) if plain else model
    batch = first_windows(video, config, config.train.batch_size).to(device)
    forward = prepare(model, config, device)
    how: dict = {"foreach": False} if plain else {"fused": True}
    optimizer = torch.optim.Adam(model.parameters(), lr=config.train.lr, **how)

    def train() -> list[float]:
        set_kernels(config.train.precision, config.train.deterministic)
        shares, losses = shares_of([*range(len(batch))], config.train.accumulate), []
        for _ in range(steps):
            clips = (batch[share.windows] for share in shares)
            losses.append(train_step(forward, model, optimizer, shares, clips, config)[0].total)
        optimizer.zero_grad()                                                 # leave the other ways their memory
        return torch.stack(losses).tolist()

    return model, train


def profile_parts(work: Work, device: torch.device) -> dict[str, float]:
    """Measure the seconds of a network's parts in a call by PyTorch's profiler; on CUDA, of their kernels.

    Time outside all parts is called "other": in a training also that of losses and backward pass.
    """
    (model, call), cuda = work, device.type == "cuda"
    for path, part in PARTS.items():
        annotate(model, path, part)
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda], acc_events=True) as profiler, \
            record_function("whole"):
        call()
    events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]
    seconds = {"optimizer" if event.key.startswith("Optimizer.step") else event.key:
               (event.device_time_total if cuda else event.cpu_time_total) / 1e6 for event in events}
    # The kernels of CUDA's backward pass are started by a thread, outside of the whole.
    whole = sum(event.self_device_time_total for event in events) / 1e6 if cuda else seconds["whole"]
    parts = {part: seconds[part] for part in dict.fromkeys([*PARTS.values(), "optimizer"]) if part in seconds}
    return parts | {"other": whole - sum(parts.values())}


def annotate(model: Any, path: str, part: str) -> None:
    """Let a callable of the model, named by its path, appear in the profiler as a part."""
    try:
        target, (*owners, name) = attrgetter(path)(model), path.split(".")
    except AttributeError:
        return
    owner = attrgetter(".".join(owners))(model) if owners else model
    if isinstance(target, nn.Module):
        owner, name, target = target, "forward", target.forward
    setattr(owner, name, record_function(part)(target))
