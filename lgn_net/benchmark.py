"""Measure speed: the plain arithmetic, evaluation and training in small portions, clocks, and the machine."""

import copy
import itertools
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.benchmark import Timer, timer
from torch.utils.flop_counter import FlopCounterMode

from lgn_net.config import Config
from lgn_net.data.clips import stream_frames, to_float
from lgn_net.data.videos import Video
from lgn_net.data.windows import Windows
from lgn_net.device import provenance, seed_everything, set_kernels
from lgn_net.inference import stream
from lgn_net.inference.loop import FrameSignals, predict
from lgn_net.inference.stream import Frame, ahead, batch_size_on, batched, encode_windows, for_inference
from lgn_net.model.build import build_model
from lgn_net.training.step import prepare, shares_of, train_step

FLAGS = ("avx512f", "avx512_bf16", "amx_bf16", "bf16", "sve")
PRECISIONS = ("float32", "tf32", "bfloat16")
# The parts of a network by the callables that compute them; those that a network lacks are passed over.
PARTS = {"local_branch.encoder": "E_loc", "local_branch.cells.0.conv_x": "cells", "local_branch.recur": "cells",
         "local_branch.deconv": "local deconvolution", "prototype_encoder": "E_glo", "encoder": "E_glo",
         "read": "memory", "memory.update_": "memory", **{f"memories.{k}.update_": "memory" for k in range(3)},
         "decode": "decoder"}


class Timing(NamedTuple):
    """What `interleave` measured of one way, round by round."""

    seconds: list[float]          # wall time
    cpu_seconds: list[float]      # process time, of all threads
    results: list                 # of the calls, the one that warms up included


def interleave(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Time the ways in turn, so that drift of the machine hits them alike; a first round warms up."""
    timings = {way: Timing([], [], []) for way in ways}
    for k, (way, call) in itertools.product(range(rounds + 1), ways.items()):
        wall, cpu = timer(), time.process_time()                              # waits for CUDA
        timings[way].results.append(call())
        wall, cpu = timer() - wall, time.process_time() - cpu
        if k:
            timings[way].seconds.append(wall)
            timings[way].cpu_seconds.append(cpu)
    return timings


def machine(device: torch.device) -> dict:
    """Describe the machine: versions, processor, those of its flags that decide the speed of bfloat16, cores, load."""
    info = Path("/proc/cpuinfo")
    words = info.read_text().split() if info.exists() else []
    return provenance(device) | {"flags": [flag for flag in FLAGS if flag in words], "cores": os.cpu_count(),
                                 "load": [round(load, 2) for load in os.getloadavg()]}


def conv_rate(device: torch.device, precision: str) -> float:
    """Measure the FLOP/s of a large convolution: 256 to 256 channels, 3 x 3, on maps of 64 x 64, channels last."""
    set_kernels(precision, deterministic=False)
    dtype, B = torch.bfloat16 if precision == "bfloat16" else torch.float32, 32 if device.type == "cuda" else 1
    x, weight = (torch.randn(*shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
                 for shape in ((B, 256, 64, 64), (256, 256, 3, 3)))
    call = partial(F.conv2d, x, weight, padding=1)
    measured = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads()).blocked_autorange()
    return flops(call) / min(measured.times)


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
    """Read the first windows of a video: uint8 (count, T, C, size, size)."""
    windows = Windows([video], config.model.window, config.data.channels, config.data.image_size)
    return windows.__getitems__([*range(count)])


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
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    if local := getattr(model, "local_branch", None):
        local.encode = lambda clip: [local.encoder(frame) for frame in clip.unbind(1)]
        for cell in local.cells:
            cell.step = partial(step_with_zeros, cell)
    return model


def step_with_zeros(cell: Any, gates: Tensor, *states: Tensor | None) -> tuple[Tensor, ...]:
    """Do a recurrent cell's `step` with tensors of zeros for missing states."""
    zero = gates.new_zeros(len(gates), cell.conv_h.in_channels, *gates.shape[2:])
    return type(cell).step(cell, gates, *(zero if state is None else state for state in states))


def encode_anew(model: Any, frames: Iterable[Frame], config: Config, device: torch.device) -> Iterator[stream.Windows]:
    """Encode window by window, each with all its frames: as `encode_windows`, but nothing is computed once for many."""
    recent: deque[Tensor] = deque(maxlen=config.model.window)
    for video, t, pixels in frames:
        recent.append(to_float(torch.from_numpy(pixels[None]).to(device)))
        if len(recent) == config.model.window:
            clip = torch.stack([*recent], dim=1)                              # (1, T, C, size, size)
            queries, context = model.encode(clip[:, :config.model.input_frames])
            yield stream.Windows([(video, t)], queries, context, clip[:, -1], {})


class Evaluation:
    """The evaluation of a video without end, as `score_videos` does it or plainly, some frames at a time."""

    def __init__(self, model: Any, video: Video, config: Config, device: torch.device, plain: bool = False):
        pixels = stream_frames(itertools.cycle(video.frames), config.data.channels, config.data.image_size)
        self.config, frames = config, ((0, t, image) for t, image in enumerate(pixels))
        self.model = plain_model(model) if plain else for_inference(model, config)
        windows = encode_anew(self.model, frames, config, device) if plain else \
            encode_windows(self.model, ahead(batched(frames, batch_size_on(device, config))), config, device)
        self.predictions = predict(self.model, windows, config)

    @torch.inference_mode()
    def run(self, frames: int) -> list[FrameSignals]:
        """Score the next frames."""
        set_kernels(self.config.score.precision)
        signals: list[FrameSignals] = []
        while len(signals) < frames:
            signals += next(self.predictions).signals
        return signals


class Training:
    """Steps of the training on the first batch of a video, from random weights, as train.py does them or plainly."""

    def __init__(self, config: Config, video: Video, device: torch.device, plain: bool = False):
        seed_everything(config.seed)
        self.config, model = config, build_model(config).to(device).train()
        self.model = plain_model(model) if plain else model
        self.clips = first_windows(video, config, config.train.batch_size).to(device)
        self.forward = prepare(self.model, config, device, [len(self.clips)])
        how: dict = {"foreach": False} if plain else {"fused": True}
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.train.lr, **how)

    def run(self, steps: int) -> list[float]:
        """Do the next steps; return their losses."""
        set_kernels(self.config.train.precision, self.config.train.deterministic)
        shares, losses = shares_of([*range(len(self.clips))], self.config.train.accumulate), []
        for _ in range(steps):
            clips = (self.clips[share.windows] for share in shares)
            losses.append(train_step(self.forward, self.model, self.optimizer, shares, clips, self.config)[0].total)
        self.optimizer.zero_grad()                                            # leave the other ways their memory
        return torch.stack(losses).tolist()


def profile_parts(model: Any, call: Callable[[], object], device: torch.device, rest: str) -> dict[str, float]:
    """Measure the seconds of a network's parts in a call by PyTorch's profiler; on CUDA, of their kernels.

    Args:
        model: of an `Evaluation` or a `Training`; its parts stay annotated.
        call: runs it.
        device: of the model.
        rest: name for the time outside all parts.
    """
    for path, part in PARTS.items():
        annotate(model, path, part)
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]
    with profile(activities=activities, acc_events=True) as profiler, record_function(rest):
        call()
    parts: dict[str, float] = defaultdict(float)
    kernels = 0.0
    for event in profiler.events():
        if event.device_type == DeviceType.CPU:
            kernels += event.self_device_time_total / 1e6
            name = "optimizer" if event.name.startswith("Optimizer.step") else event.name
            if name in {*PARTS.values(), "optimizer", rest}:
                parts[name] += (event.device_time_total if cuda else event.cpu_time_total) / 1e6
    whole = parts.pop(rest)
    return {**parts, rest: (kernels if cuda else whole) - sum(parts.values())}     # CUDA's backward pass has a thread


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
