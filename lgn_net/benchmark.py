"""Measuring speed: ways of one task in turn, the parts of a pass, its arithmetic, and how fast a device could be."""

import contextlib
import copy
import itertools
import platform
import re
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from lgn_net.config import Config
from lgn_net.data.clips import read_frames, stream_frames, to_float
from lgn_net.data.videos import Video
from lgn_net.data.windows import Windows
from lgn_net.device import autocast, seed_everything, set_kernels
from lgn_net.inference.loop import (
    FrameSignals,
    History,
    consult,
    items_of,
    judge,
    judge_prediction,
    learn,
    query_distance,
    set_items,
    update_memories,
)
from lgn_net.inference.stream import WindowEncoder, for_inference
from lgn_net.model.build import build_model
from lgn_net.training.step import Share, prepare, shares_of, train_step

STATUS = Path("/proc/self/status")        # Linux


class Measured(NamedTuple):
    """What `measure` says of one way."""

    seconds: float        # median of the repeats
    fastest: float        # of the repeats, s
    peak_mb: float        # see `peak_mb`
    result: object        # of the last call


def measure(ways: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, Measured]:
    """Time each of the ways: once to warm up, then `repeats` times, all in turn, so that drift hits them alike."""
    seconds, peaks, results = defaultdict(list), {}, {}
    for _ in range(repeats + 1):
        for way, call in ways.items():
            before = forget_peak(device)
            start = now(device)
            results[way] = call()
            seconds[way].append(now(device) - start)
            peaks[way] = peak_mb(device) - before
    return {way: Measured(statistics.median(times := seconds[way][1:]), min(times), peaks[way], results[way])
            for way in ways}


def forget_peak(device: torch.device) -> float:
    """Start anew what `peak_mb` reads, where that can be done. Returns the MB of it that are there already."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 1e6
    with contextlib.suppress(OSError):
        if STATUS.exists():
            STATUS.with_name("clear_refs").write_text("5")
    return 0.0


def peak_mb(device: torch.device) -> float:
    """Peak memory since `forget_peak`: on CUDA what was allocated, else the process's (on macOS, since it began)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if STATUS.exists():
        return int(re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def now(device: torch.device) -> float:
    """Seconds of a clock, read when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def cpu_name() -> str:
    """The processor's model, as far as the system tells."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()


class Parts:
    """Seconds of the named parts of a pass. What runs in a part inside another counts for the inner one alone."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.open: list[str] = []                         # the innermost part is the last

    def turn(self) -> None:
        """Count the time since the last turn for the innermost open part."""
        at = now(self.device)
        if self.open:
            self.seconds[self.open[-1]] += at - self.since
        self.since = at

    def begin(self, name: str) -> None:
        """Open a part."""
        self.turn()
        self.open.append(name)

    def end(self) -> None:
        """Close the innermost part."""
        self.turn()
        self.open.pop()

    def become(self, name: str) -> None:
        """Close the innermost part, where one is open, and open another."""
        self.turn()
        self.open[-1:] = [name]

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """`with parts("decode"): ...`"""
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    def watch(self, module: nn.Module, name: str) -> None:
        """Let every forward pass of a module be a part."""
        module.register_forward_pre_hook(lambda *_: self.begin(name))
        module.register_forward_hook(lambda *_: self.end())

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products in a call; a multiply-add is two."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def conv_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of the device in a convolution made for it: 256 to 256 channels, 3x3 on 8 of 64x64, channels last."""
    set_kernels(precision)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    x, weight = (torch.randn(*shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
                 for shape in ((8, 256, 64, 64), (256, 256, 3, 3)))

    @torch.inference_mode()
    def convolve(times: int = 1) -> None:
        with autocast(device, precision):
            for _ in range(times):
                F.conv2d(x, weight, padding=1)

    once = measure({"": convolve}, 1, device)[""].seconds
    times = max(1, min(int(0.1 / once), 1000))            # a tenth of a second: the clock and the launch do not count
    return times * flops(convolve) / measure({"": partial(convolve, times)}, 5, device)[""].fastest


@torch.no_grad()
def calibrate_norms(model: nn.Module, clip: Tensor) -> None:
    """Give BatchNorm the statistics of a clip (B, n, C, H, W), so that random weights make features of sound size."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    model(clip)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def authors_way(model: nn.Module) -> nn.Module:
    """A copy for inference that computes as the authors' code does, without the short cuts.

    Contiguous layout, BatchNorm apart from the convolutions, E_loc frame by frame, states of zero convolved as well.
    """
    model = copy.deepcopy(model).eval().to(memory_format=torch.contiguous_format)
    if local := model.local_branch:
        local.encode = lambda clip: [local.encoder(frame) for frame in clip.unbind(1)]
        for cell in local.cells:
            cell.step = partial(step_with_zeros, cell)
    return model


def step_with_zeros(cell: nn.Module, gates: Tensor, *states: Tensor | None) -> tuple[Tensor, ...]:
    """A recurrent cell's `step` whose missing states are tensors of zeros."""
    zero = gates.new_zeros(len(gates), cell.conv_h.in_channels, *gates.shape[2:])
    return type(cell).step(cell, gates, *(zero if state is None else state for state in states))


@torch.inference_mode()
def score_plainly(model: nn.Module, video: Video, config: Config, device: torch.device,
                  bar: tqdm | None = None) -> list[FrameSignals]:
    """One video scored as the authors' code does it: window by window, each with all its frames, numbers to the host.

    `model`: of `authors_way`; its memory is as before afterwards.
    """
    set_kernels("float32")
    at_start, T, signals = items_of(model), config.model.window, []
    updating = config.score.memory_update != "off" and bool(model.memories)
    for last in range(T - 1, len(video.frames)):
        frames = read_frames(video.frames[last + 1 - T:last + 1], config.data.channels, config.data.image_size)
        clip = to_float(frames)[None].to(device)                              # (1, T, C, size, size)
        out = model(clip[:, :config.model.input_frames])
        psnr, regular = judge_prediction(out.prediction, clip[:, -1], config.score.psnr_peak)
        distance = tuple(query_distance(q, memory).item() for q, memory in zip(out.queries, model.memories))
        below = updating and regular.item() < config.score.gamma
        if below:
            update_memories(model, out.queries)
        signals.append(FrameSignals(0, last, psnr.item(), distance, regular.item(), below))
        if bar is not None:
            bar.update()
    set_items(model, at_start)
    return signals


def no_parts(_: str) -> contextlib.AbstractContextManager:
    """In place of `Parts`: no clock is read."""
    return contextlib.nullcontext()


@torch.inference_mode()
def stream_in_parts(model: nn.Module, video: Video, config: Config, device: torch.device, batch: int,
                    part: Callable[[str], contextlib.AbstractContextManager] = no_parts) -> Iterator[list[list[float]]]:
    """The arithmetic of the streaming evaluator on one video, one part after the other, decoding too.

    Args:
        model: of `for_inference`; its memory changes.
        batch: windows encoded at once; 1 for frames as they come from a camera.

    Yields:
        PSNR, R and each D of the windows of each batch; first none, when the frames before the first prediction are in.
    """
    T, encode, seen = config.model.window, WindowEncoder(model, config, device), itertools.count()
    updating = config.score.memory_update != "off" and bool(model.memories)
    history = History(items_of(model), [config.score.gamma])
    decoded = stream_frames(video.frames, config.data.channels, config.data.image_size)
    for count in itertools.chain([T - 1] * (T > 1), itertools.repeat(batch)):
        with part("decode"):
            pixels = list(itertools.islice(decoded, count))
        if not pixels:
            return
        encoded = encode([(0, next(seen)) for _ in pixels], pixels)
        windows, rows = len(encoded.targets) if encoded else 0, []
        step = 1 if updating else max(windows, 1)
        for i in range(0, windows, step):
            q, target = [x[i:i + step] for x in encoded.queries], encoded.targets[i:i + step]
            context = {name: x[i:i + step] for name, x in encoded.context.items()}
            with part("memory"):
                set_items(model, history.items)
                consulted = consult(model, q)
            with part("scoring"):                                             # the decoder is watched
                _, numbers = judge(model, q, context, target, config, consulted)
            if updating:
                with part("memory"):
                    history = learn(model, history, q, numbers[:, 1])[0]
            with part("scoring"):
                rows += numbers.tolist()
        yield rows


WATCHED = {"local_branch": "local branch", "local_branch.encoder": "local branch",
           "local_branch.cells.0.conv_x": "local branch", "prototype_encoder": "prototype encoder",
           "encoder": "prototype encoder", "decoder": "decoder", "head": "decoder"}
FRAME = ("decode", "local branch", "prototype encoder", "memory", "decoder", "scoring", "other")
STEP = ("data", "forward", "losses, backward", "optimizer", "memory")


def time_stream(model: nn.Module, video: Video, config: Config, device: torch.device, batch: int, detailed: bool,
                bar: tqdm | None = None) -> list[dict[str, float]]:
    """Seconds per window of each full batch of `stream_in_parts`: part by part where `detailed`, else in "all"."""
    model, parts, rows = for_inference(model, config), Parts(device), []
    if detailed:
        for name, module in model.named_modules():
            if name in WATCHED:
                parts.watch(module, WATCHED[name])
    steps = stream_in_parts(model, video, config, device, batch, parts if detailed else no_parts)
    while True:
        with parts("other" if detailed else "all"):
            scored = next(steps, None)
        seconds = parts.take()
        if scored is None:
            return rows
        if len(scored) == batch or scored and not rows:   # a last, smaller one is left out
            rows.append({part: seconds[part] / len(scored) for part in (*FRAME, "all") if part in seconds})
        if bar is not None:
            bar.update(len(scored))


class TrainingLoop:
    """Training steps of one configuration from random weights.

    Args:
        plain: contiguous layout, and Adam parameter by parameter.
    """

    def __init__(self, config: Config, windows: Windows, device: torch.device, plain: bool = False):
        seed_everything(config.seed)
        self.config, self.windows, self.device = config, windows, device
        self.model = build_model(config).to(device).train()
        if plain:
            self.model.to(memory_format=torch.contiguous_format)
        self.forward = prepare(self.model, config, device, [config.train.batch_size])
        how = {"foreach": False} if plain else {"fused": True}
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.train.lr, **how)

    def run(self, batches: list[list[int]], bar: tqdm | None = None, parts: Parts | None = None) -> None:
        """A step on each of the batches of window indices, without gradients left behind."""
        set_kernels(self.config.train.precision, self.config.train.deterministic)
        for batch in batches:
            shares = shares_of(batch, self.config.train.accumulate)
            train_step(self.forward, self.model, self.optimizer, shares, self.clips(shares, parts), self.config)
            if bar is not None:
                bar.update(len(batch))
        self.optimizer.zero_grad()

    def clips(self, shares: list[Share], parts: Parts | None) -> Iterator[Tensor]:
        """The windows of each share, uint8 (B, T, C, H, W)."""
        for share in shares:
            if parts:
                parts.become("data")
            clip = self.windows.__getitems__(share.windows)
            if parts:
                parts.become("forward")
            yield clip

    def time_parts(self, batches: list[list[int]], bar: tqdm | None = None) -> list[dict[str, float]]:
        """Seconds per image of the parts of each batch's step."""
        parts, rows = Parts(self.device), []
        hooks = [self.forward.register_forward_hook(lambda *_: parts.become("losses, backward")),
                 self.optimizer.register_step_pre_hook(lambda *_: parts.become("optimizer")),
                 self.optimizer.register_step_post_hook(lambda *_: parts.become("memory"))]
        for batch in batches:
            parts.begin("optimizer")                      # gradients to zero
            self.run([batch], bar, parts)
            parts.end()
            seconds = parts.take()
            rows.append({part: seconds[part] / len(batch) for part in STEP})
        for hook in hooks:
            hook.remove()
        return rows
