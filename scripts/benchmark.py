"""Measure speed on this machine beside the plain arithmetic, that of the authors' code in float32, in the same run.

    python scripts/benchmark.py evaluate|train|gamma|data --config FILE [--dataset_path DATA] [--json FILE]

evaluate, train: in each precision, with the network's parts; gamma: ten gammas in a sweep; data: the training loader.
Figures are medians of --repeats rounds after one to warm up, in which the ways take turns; a ratio is of two ways in
one round. Weights are random; without --dataset_path the frames are noise.
"""

from lgn_net.cli import command_parser, parse_command, show_help

PRECISIONS = ("float32", "tf32", "bfloat16")
PARSER = command_parser(__doc__, "benchmark.py {evaluate,train,gamma,data} --config FILE", needs_data=False)
PARSER.add_argument("what", choices=["evaluate", "train", "gamma", "data"], help="What to measure.")
PARSER.add_argument("--repeats", type=int, default=3, help="Rounds, after one to warm up.")
PARSER.add_argument("--frames", type=int, default=8, help="evaluate, gamma: frames in a round.")
PARSER.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32", "bfloat16"])
PARSER.add_argument("--json", help="Also write the figures to this file.")
show_help(__name__, PARSER, "data", "score")     # before slow imports

import copy
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial, reduce
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jsonargparse import Namespace
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.benchmark import timer
from torch.utils.flop_counter import FlopCounterMode

from lgn_net.config import Config, with_knobs
from lgn_net.data.cache import pack_frames
from lgn_net.data.clips import read_frames, to_float
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.data.windows import Windows, epoch_batches, loader
from lgn_net.device import pick_device, provenance, set_kernels
from lgn_net.files import to_json, write_atomic
from lgn_net.inference.loop import FrameSignals, copy_items, predict, restore_items, score_videos
from lgn_net.inference.stream import encode_windows, for_inference, stream_windows
from lgn_net.inference.sweep import sweep_gamma
from lgn_net.model.build import build_model
from lgn_net.report.tables import markdown
from lgn_net.terminal import run_command
from lgn_net.training.step import prepare, shares_of, train_step

# The parts of a network by the methods that compute them; those that a network lacks are passed over.
PARTS = {"local_branch.encoder.forward": "E_loc", "local_branch.cells.0.conv_x.forward": "cells",
         "local_branch.products": "cells", "local_branch.recur": "cells",
         "local_branch.deconv.forward": "local deconvolution", "prototype_encoder.forward": "E_glo",
         "encoder.forward": "E_glo", "read": "memory", "memory.update_": "memory",
         **{f"memories.{k}.update_": "memory" for k in range(3)}, "decode": "decoder"}
Work = tuple[Any, Callable[[], Any]]     # a network, None where its parts are not asked for; a call that makes it work


def main(argv: list[str]) -> None:
    """Run the benchmark that the first word names."""
    config, args = parse_command(PARSER, argv)
    device = pick_device(args.device)
    print("\n".join(f"{key}: {value}" for key, value in machine(device).items()))
    found: dict[str, dict[str, dict[str, float]]] = {}

    with tempfile.TemporaryDirectory() as folder:
        # Real frames, or noise.
        count = config.train.batch_size if args.what == "train" else args.frames
        length, split = count + config.model.window - 1, "training" if args.what in ("train", "data") else "testing"
        videos = index_videos(find_split(args.dataset_path, config.data.dataset, split)) if args.dataset_path else \
            [draw_video(Path(folder), config, length)]

        # The ways beside each other, then each alone in its parts.
        works = ways_of(config, args, videos, length, device, folder)
        times, results = interleave({way: call for way, (_, call) in works.items()}, args.repeats)
        count = results["packed"] if args.what == "data" else count
        found["ways"] = {way: figures(times, way, count, work) for way, work in works.items()}
        if args.what in ("evaluate", "train"):
            found["ms"] = {way: {part: 1e3 * s / count for part, s in profile_parts(work, device).items()}
                           for way, work in works.items()}
    if args.what == "evaluate":
        found["differences"] = {way: difference(one, results["plain"]) for way, one in results.items()}
        if device.type == "cuda":
            print(f"peak memory, with what all ways hold: {torch.cuda.max_memory_allocated() / 1e6:,.0f} MB")
        print("kernels:", {way: getattr(model, "kernels", "direct") for way, (model, _) in works.items()})
    for title, table in found.items():
        columns = next(iter(table.values()))
        rows = [[name, *(f"{row[c]:.4g}" if c in row else "" for c in columns)] for name, row in table.items()]
        print(f"\n{markdown([title, *columns], rows)}")
    if args.json:
        write_atomic(Path(args.json), to_json({"machine": machine(device), **found}))


def ways_of(config: Config, args: Namespace, videos: list[Video], length: int, device: torch.device,
            folder: str) -> dict[str, Work]:
    """Make the ways of a benchmark ready; ratios are to the first of them. `folder` is for packed frames."""
    if args.what == "data":
        form = config.model.window, config.data.channels, config.data.image_size
        decoded, packed = Windows(videos, *form), Windows(videos, *form, pack_frames(videos, *form[1:], folder))
        batches = epoch_batches(len(decoded), config.train.batch_size, True, config.seed, 0)[:20]

        def load(windows: Windows, workers: int) -> int:
            return sum(len(clips) for clips in loader(windows, batches, workers, torch.device("cpu")))

        return {"decoded": (None, lambda: load(decoded, 0)), "packed": (None, lambda: load(packed, 0)),
                "decoded, 2 workers": (None, lambda: load(decoded, 2))}

    # The others take a piece of the longest video.
    longest = max(videos, key=lambda video: len(video.frames))
    video = longest._replace(frames=longest.frames[:length])
    section, make = "train", partial(training, video=video, device=device)
    if args.what != "train":
        # Ten gammas spread over the regular scores; one evaluation has the middle one.
        model, frozen = random_model(config, video, device), with_knobs(config, {"score.memory_update": "frozen"})
        R = [s.regular_score for s in score_videos(model, [video], frozen, device)]
        gammas = np.quantile(R, np.linspace(0.05, 0.95, 10)).tolist()
        config = with_knobs(config, {"score.gamma": gammas[5]})
        section, make = "score", partial(evaluation, model, video=video, device=device)
    if args.what == "gamma":
        model = for_inference(model, config)
        return {"one gamma": (None, lambda: [*score_videos(model, [video], config, device)]),
                "ten gammas": (None, lambda: sweep_gamma(model, [video], config, gammas, device))}
    plain = with_knobs(config, {"train.precision": "float32", "train.compile": False, "score.precision": "float32",
                                "train.kernels": "direct", "train.checkpoint_activations": False})
    return {"plain": make(config=plain, plain=True)} | {
        way: make(config=with_knobs(config, {f"{section}.precision": way})) for way in args.precisions}


def interleave(ways: Mapping[str, Callable[[], object]], rounds: int) -> tuple[dict[str, list[tuple]], dict]:
    """Time the ways in turn: (wall, process CPU) seconds of each round but the first, and what a last call returned."""
    results, times = {}, dict[str, list[tuple]]({way: [] for way in ways})
    for way, call in [*ways.items()] * (rounds + 1):
        wall, cpu = timer(), time.process_time()                              # `timer` waits for CUDA
        results[way] = call()
        times[way].append((timer() - wall, time.process_time() - cpu))
    return {way: each[1:] for way, each in times.items()}, results


def figures(times: dict[str, list[tuple]], way: str, count: int, work: Work) -> dict[str, float]:
    """Compute the figures of a way, of `count` frames, images or windows in a round; ratios are to the first way."""
    wall, cpu = (statistics.median(column) / count for column in zip(*times[way]))
    ratios, by_cpu = ([a[k] / max(b[k], 1e-9) for a, b in zip(next(iter(times.values())), times[way])] for k in (0, 1))
    found = {"1/s": 1 / wall, "s": wall, "CPU s": cpu, "ratio": statistics.median(ratios), "ratio min": min(ratios),
             "ratio max": max(ratios), "CPU ratio": statistics.median(by_cpu)}
    if work[0] is not None:
        with FlopCounterMode(display=False) as counter:                       # a multiply-add is two
            work[1]()
        found["GFLOP"] = counter.get_total_flops() / count / 1e9
    return found


def machine(device: torch.device) -> dict:
    """Describe the machine: versions, processor with the flags that arithmetic depends on, device, cores, load."""
    info = Path("/proc/cpuinfo")
    flags = {*re.findall(r"\b(?:avx|fma|amx|f16c)\w*", info.read_text() if info.is_file() else "")}
    return provenance(device) | {"flags": " ".join(sorted(flags)), "cores": os.cpu_count(), "load": os.getloadavg()}


def draw_video(folder: Path, config: Config, frames: int) -> Video:
    """Draw a video of noise whose contrast changes from frame to frame, so that the regular scores differ."""
    random, shape = np.random.default_rng(0), (config.data.image_size, config.data.image_size, config.data.channels)
    paths = tuple(str(folder / f"{t:03d}.bmp") for t in range(frames))
    for path in paths:
        cv2.imwrite(path, (random.uniform(0.2, 1) * random.integers(0, 256, shape)).astype(np.uint8))
    return Video("noise", paths)


@torch.no_grad()
def random_model(config: Config, video: Video, device: torch.device) -> Any:
    """Build a network of random weights whose BatchNorms have the statistics of a window, as after a training."""
    torch.manual_seed(config.seed)
    model: Any = build_model(config).to(device).train()
    for module in model.modules():
        module.momentum = None                                                # of BatchNorms: the mean over all calls
    frames = read_frames(video.frames[:config.model.input_frames], config.data.channels, config.data.image_size)
    model(to_float(frames)[None].to(device))
    return model.eval()


def plain_model(model: Any) -> Any:
    """Copy a model so that it computes as the authors' code does: frame by frame, and with states of zeros."""
    def step_with_zeros(cell: Any, gates: Tensor, *states: Tensor | None) -> tuple[Tensor, ...]:
        zero = gates.new_zeros(len(gates), cell.conv_h.in_channels, *gates.shape[2:])
        return type(cell).step(cell, gates, *(zero if state is None else state for state in states))

    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    model.frame_gates = lambda frames: None
    if local := getattr(model, "local_branch", None):
        local.encode = lambda clip: [local.encoder(frame) for frame in clip.unbind(1)]
        for cell in local.cells:
            cell.step = partial(step_with_zeros, cell)
    return model


def evaluation(model: Any, video: Video, config: Config, device: torch.device, plain: bool = False) -> Work:
    """Make the evaluation of a video ready, as `score_videos` does it or plainly; the call returns its signals."""
    ready = plain_model(model) if plain else for_inference(model, config)
    items, T = copy_items(ready), config.model.window

    @torch.inference_mode()
    def score() -> list[FrameSignals]:
        set_kernels(config.score.precision)
        restore_items(ready, items)
        windows = stream_windows(ready, [video], [(0, range(len(video.frames)))], config, device)
        if plain:                                                             # each window in a batch of its own
            frames = read_frames(video.frames, config.data.channels, config.data.image_size)
            batches = ([(0, t, frames[t]) for t in range(first, first + T)] for first in range(len(frames) - T + 1))
            windows = encode_windows(ready, batches, config, device)
        return [signals for scored in predict(ready, windows, config) for signals in scored.signals]

    return ready, score


def training(config: Config, video: Video, device: torch.device, steps: int = 1, plain: bool = False) -> Work:
    """Make steps on the first batch of a video ready, as in train.py or plainly; the call returns the losses."""
    torch.manual_seed(config.seed)
    model: Any = build_model(config).to(device).train()
    model = plain_model(model) if plain else model
    windows = Windows([video], config.model.window, config.data.channels, config.data.image_size)
    batch = windows.clips([k % len(windows) for k in range(config.train.batch_size)]).to(device)
    forward = prepare(model, config, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.train.lr, foreach=False, fused=not plain)

    def train() -> list[float]:
        set_kernels(config.train.precision, config.train.deterministic)
        shares, losses = shares_of([*range(len(batch))], config.train.accumulate), []
        for _ in range(steps):
            clips = (batch[share.windows] for share in shares)
            losses.append(train_step(forward, model, optimizer, shares, clips, config)[0].total)
        return torch.stack(losses).tolist()

    return model, train


def difference(signals: list[FrameSignals], truth: list[FrameSignals]) -> dict:
    """Return the largest differences of two ways' signals of the same frames, and how many updates differ."""
    pairs = [*zip(signals, truth, strict=True)]
    return {"psnr_db": max(abs(a.psnr - b.psnr) for a, b in pairs),
            "distance": max((abs(x - y) for a, b in pairs for x, y in zip(a.distance, b.distance)), default=0.0),
            "updates": sum(a.memory_updated != b.memory_updated for a, b in pairs)}


def profile_parts(work: Work, device: torch.device) -> dict[str, float]:
    """Measure seconds of a network's parts in a call, on CUDA of their kernels; "other" has a backward pass, too."""
    (model, call), cuda = work, device.type == "cuda"
    for path, part in PARTS.items():
        *owners, method = path.split(".")
        owner = reduce(lambda module, name: getattr(module, name, None), owners, model)
        if hasattr(owner, method):
            setattr(owner, method, record_function(part)(getattr(owner, method)))
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]
    with profile(activities=activities, acc_events=True) as profiler, record_function("whole"):
        call()
    events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]
    seconds = {"optimizer" if event.key.startswith("Optimizer.step") else event.key:
               (event.device_time_total if cuda else event.cpu_time_total) / 1e6 for event in events}
    # The kernels of CUDA's backward pass are started by a thread, outside of the whole.
    whole = sum(event.self_device_time_total for event in events) / 1e6 if cuda else seconds["whole"]
    parts = {part: seconds[part] for part in (*PARTS.values(), "optimizer") if part in seconds}
    return parts | {"other": whole - sum(parts.values())}


if __name__ == "__main__":
    run_command(main)
