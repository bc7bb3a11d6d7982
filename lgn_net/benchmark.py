"""Measure speed on this machine, beside the plain arithmetic in the same run. Weights are random: they change no speed.

    python scripts/benchmark.py evaluate --config configs/ped2.yaml [--dataset_path DATA] [--json FILE]
    python scripts/benchmark.py train    --config configs/ped2.yaml [--dataset_path DATA]
    python scripts/benchmark.py gamma    --config configs/ped2.yaml [--dataset_path DATA]
    python scripts/benchmark.py data     --config configs/ped2.yaml --dataset_path DATA

evaluate  frames per second of the evaluation in each precision, what they consist of, and how far the scores differ
train     images per second of training steps, in the same manner, with train.compile and the like as configured
gamma     ten gammas in one sweep, against one evaluation
data      windows per second of the training loader: decoded with 0 and 2 workers, and from packed frames

The plain way computes what the authors' code does: float32, every window anew, BatchNorm apart from the convolutions,
contiguous layout, states of zeros convolved; in training also Adam parameter by parameter. The ways take turns. Every
figure is the median of --repeats rounds after one to warm up; a ratio compares two ways in one round, by wall time and
by this process's CPU time, which other work on the machine disturbs less. Without --dataset_path the frames are noise.
"""

import copy
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jsonargparse import Namespace
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.benchmark import timer
from torch.utils.flop_counter import FlopCounterMode

from lgn_net.cli import command_parser, parse_command
from lgn_net.config import Config, with_knobs
from lgn_net.data.cache import pack_frames
from lgn_net.data.clips import stream_frames, to_float
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.data.windows import Windows, epoch_batches, loader
from lgn_net.device import pick_device, provenance, seed_everything, set_kernels
from lgn_net.files import to_json, write_atomic
from lgn_net.inference.loop import FrameSignals, copy_items, predict, restore_items, score_videos
from lgn_net.inference.stream import encode_windows, for_inference, stream_windows
from lgn_net.inference.sweep import sweep_gamma
from lgn_net.model.build import build_model
from lgn_net.report.tables import markdown
from lgn_net.training.step import prepare, shares_of, train_step

PRECISIONS = ("float32", "tf32", "bfloat16")
SPLITS = {"evaluate": "testing", "train": "training", "gamma": "testing", "data": "training"}
# The parts of a network by the callables that compute them; those that a network lacks are passed over.
PARTS = {"local_branch.encoder": "E_loc", "local_branch.cells.0.conv_x": "cells", "local_branch.products": "cells",
         "local_branch.recur": "cells", "local_branch.deconv": "local deconvolution", "prototype_encoder": "E_glo",
         "encoder": "E_glo", "read": "memory", "memory.update_": "memory",
         **{f"memories.{k}.update_": "memory" for k in range(3)}, "decode": "decoder"}
Work = tuple[Any, Callable[[], Any]]     # a network, None where its parts are not asked for; a call that makes it work


def main(argv: list[str]) -> None:
    """Run the benchmark that the first word names."""
    # The command line, and the machine.
    parser = command_parser(__doc__, f"benchmark.py {{{','.join(SPLITS)}}} --config FILE", needs_data=False)
    parser.add_argument("what", choices=SPLITS, help="What to measure.")
    parser.add_argument("--repeats", type=int, default=3, help="Rounds, after one to warm up.")
    parser.add_argument("--frames", type=int, default=8, help="evaluate, gamma: frames in a round.")
    parser.add_argument("--steps", type=int, default=2, help="train: steps in a round.")
    parser.add_argument("--batches", type=int, default=20, help="data: batches in a round.")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS,
                        help="evaluate, train: in place of the configuration's; default: all that differ here.")
    parser.add_argument("--json", help="Also write the figures to this file.")
    config, args = parse_command(parser, argv)
    device = pick_device(args.device)
    found: dict = {"benchmark": args.what, "dataset": config.data.dataset if args.dataset_path else "noise",
                   "repeats": args.repeats, "machine": machine(device)}
    print("\n".join(f"{key}: {value}" for key, value in found["machine"].items()))

    # Real frames, or noise; all but `data` take a piece of the longest video.
    with tempfile.TemporaryDirectory() as folder:
        frames = (config.train.batch_size if args.what == "train" else args.frames) + config.model.window - 1
        if args.dataset_path:
            videos = index_videos(find_split(args.dataset_path, config.data.dataset, SPLITS[args.what]))
        else:
            videos = [draw_video(Path(folder), config, frames)]
        if args.what != "data":
            longest = max(videos, key=lambda video: len(video.frames))
            videos = [longest._replace(frames=longest.frames[:frames])]

        # The ways beside each other, then each alone in its parts.
        unit, count, works = ways_of(config, args, device, videos, folder)
        times, results = interleave({way: call for way, (_, call) in works.items()}, args.repeats)
        found["ways"] = show_ways(unit, times, count, works)
        if args.what in ("evaluate", "train"):
            found["parts_s"] = {way: profile_parts(work, device) for way, work in works.items()}
            columns = [{name: f"{1e3 * t / count:,.2f} {100 * t / sum(parts.values()):5.1f} %"
                        for name, t in parts.items()} for parts in found["parts_s"].values()]
            names = dict.fromkeys(name for column in columns for name in column)
            rows = [[name, *(column.get(name, "-") for column in columns)] for name in names]
            print(f"\n{markdown([f'ms of a {unit}', *works], rows)}")
    if args.what == "evaluate":
        found["agreement"] = {way: difference(one, results["plain"]) for way, one in results.items()}
        found["updates"] = sum(s.memory_updated for s in results["plain"])
        found["kernels"] = {way: getattr(model, "kernels", "direct") for way, (model, _) in works.items()}
        print("\nlargest differences from the plain scores, and kernels",
              *(f"{way}: {found['agreement'][way]}, {found['kernels'][way]}" for way in works), sep="\n")
    if device.type == "cuda":
        found["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
        print(f"\npeak memory, with what all ways hold: {found['peak_mb']:,.0f} MB")
    if args.json:
        write_atomic(Path(args.json), to_json(found))


def ways_of(config: Config, args: Namespace, device: torch.device, videos: list[Video],
            folder: str) -> tuple[str, int, dict[str, Work]]:
    """Make the ways of a benchmark ready, the first of which ratios are to: what is counted, how often, and the ways.

    `folder` is for packed frames.
    """
    video, windows = videos[0], len(videos[0].frames) - config.model.window + 1
    precisions = args.precisions or [way for way in PRECISIONS if way != "tf32" or device.type == "cuda"]
    works: dict[str, Work] = {}
    if args.what == "train":
        plain = {"train.precision": "float32", "train.compile": False, "train.checkpoint_activations": False}
        works["plain"] = training(with_knobs(config, plain), video, device, args.steps, True)
        for way in precisions:
            works[way] = training(with_knobs(config, {"train.precision": way}), video, device, args.steps)
        return "image", args.steps * config.train.batch_size, works
    if args.what == "data":
        format_ = (config.data.channels, config.data.image_size)
        decoded, packed = (Windows(videos, config.model.window, *format_, packed)
                           for packed in (None, pack_frames(videos, *format_, folder)))
        batches = epoch_batches(len(decoded), config.train.batch_size, True, config.seed, 0)[:args.batches]
        for way, (source, workers) in {"decoded": (decoded, 0), "packed": (packed, 0),
                                       "decoded, 2 workers": (decoded, 2)}.items():
            works[way] = None, partial(lambda *how: [len(clips) for clips in loader(*how)], source, batches, workers,
                                       torch.device("cpu"))
        return "window", sum(map(len, batches)), works

    # Ten gammas spread over the regular scores when no frame updates the memory, and when every frame does.
    model = random_model(config, video, device)
    extremes = [s.regular_score for signals in sweep_gamma(model, videos, config, [0.0, 2.0], device).values()
                for s in signals]
    gammas = np.quantile(extremes, np.linspace(0.05, 0.95, 10)).tolist()
    config = with_knobs(config, {"score.gamma": gammas[5]})
    if args.what == "gamma":
        works["one gamma"] = None, lambda: [*score_videos(model, videos, config, device)]
        works["ten gammas"] = None, partial(sweep_gamma, model, videos, config, gammas, device)
    else:
        in_precision = {way: with_knobs(config, {"score.precision": way}) for way in PRECISIONS}
        works["plain"] = evaluation(model, video, in_precision["float32"], device, plain=True)
        for way in precisions:
            works[way] = evaluation(model, video, in_precision[way], device)
    return "frame", windows, works


def interleave(ways: Mapping[str, Callable[[], object]], rounds: int) -> tuple[dict[str, list[tuple]], dict]:
    """Time the ways in turn, so that drift of the machine hits them alike; a first round warms up.

    Returns wall and process CPU time in seconds of each way, round by round, and what its last call returned.
    """
    results, times = {}, dict[str, list[tuple]]({way: [] for way in ways})
    for way, call in [*ways.items()] * (rounds + 1):
        wall, cpu = timer(), time.process_time()                              # `timer` waits for CUDA
        results[way] = call()
        times[way].append((timer() - wall, time.process_time() - cpu))
    return {way: each[1:] for way, each in times.items()}, results


def show_ways(unit: str, times: dict[str, list[tuple]], count: int, works: Mapping[str, Work]) -> dict[str, dict]:
    """Print the figures of each way, of `count` units in a round, and return them; ratios are to the first way."""
    table, first = {}, next(iter(times.values()))
    for way, rounds in times.items():
        wall, cpu = (statistics.median(column) / count for column in zip(*rounds))
        ratios, by_cpu = ([a[k] / max(b[k], 1e-9) for a, b in zip(first, rounds)] for k in (0, 1))
        table[way] = {f"{unit}s/s": 1 / wall, "s": wall, "CPU s": cpu, "ratio": statistics.median(ratios),
                      "ratio min": min(ratios), "ratio max": max(ratios), "CPU ratio": statistics.median(by_cpu)}
        if works[way][0] is not None:
            with FlopCounterMode(display=False) as counter:                   # a multiply-add is two
                works[way][1]()
            table[way]["GFLOP"] = counter.get_total_flops() / count / 1e9
    rows = [[way, *(f"{x:.3g}" if x < 100 else f"{x:,.0f}" for x in row.values())] for way, row in table.items()]
    print(f"\n{markdown(['way', *table[way]], rows)}")
    return table


def machine(device: torch.device) -> dict:
    """Describe the machine: versions, processor with the flags that arithmetic depends on, device, cores, load."""
    info = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)", info.read_text() if info.is_file() else "", re.MULTILINE)
    known = [flag for flag in (flags[1].split() if flags else ()) if re.match("avx|fma|amx|f16c|sse4", flag)]
    return provenance(device) | {"flags": " ".join(known), "cores": os.cpu_count(),
                                 "load": [round(load, 2) for load in os.getloadavg()]}


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


def plain_model(model: Any) -> Any:
    """Copy a model so that it computes as the authors' code does.

    The layout is contiguous, E_loc takes frame by frame, nothing of a frame is kept for the next window, and states of
    zeros are convolved as well.
    """
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
        if plain:                                                             # each window in a batch of its own
            frames = [*enumerate(stream_frames(video.frames, config.data.channels, config.data.image_size))]
            batches = ([(0, *frame) for frame in frames[t:t + T]] for t in range(len(frames) - T + 1))
            windows = encode_windows(ready, batches, config, device)
        else:
            windows = stream_windows(ready, [video], [(0, range(len(video.frames)))], config, device)
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


def difference(signals: list[FrameSignals], truth: list[FrameSignals]) -> dict:
    """Return the largest differences of two ways' signals of the same frames, and how many updates differ."""
    pairs = [*zip(signals, truth, strict=True)]
    return {"psnr_db": max(abs(a.psnr - b.psnr) for a, b in pairs),
            "distance": max((abs(x - y) for a, b in pairs for x, y in zip(a.distance, b.distance)), default=0.0),
            "updates": sum(a.memory_updated != b.memory_updated for a, b in pairs)}


def profile_parts(work: Work, device: torch.device) -> dict[str, float]:
    """Measure the seconds of a network's parts in a call by PyTorch's profiler; on CUDA, of their kernels.

    Time outside all parts is called "other": in a training also that of losses and backward pass.
    """
    # Let the callables of the parts appear in the profile.
    (model, call), cuda = work, device.type == "cuda"
    for path, part in PARTS.items():
        *owners, name = path.split(".")
        try:
            owner = attrgetter(".".join(owners))(model) if owners else model
            target = getattr(owner, name)
        except AttributeError:
            continue
        if isinstance(target, nn.Module):
            owner, name, target = target, "forward", target.forward
        setattr(owner, name, record_function(part)(target))

    # The kernels of CUDA's backward pass are started by a thread, outside of the whole.
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda], acc_events=True) as profiler, \
            record_function("whole"):
        call()
    events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]
    seconds = {"optimizer" if event.key.startswith("Optimizer.step") else event.key:
               (event.device_time_total if cuda else event.cpu_time_total) / 1e6 for event in events}
    whole = sum(event.self_device_time_total for event in events) / 1e6 if cuda else seconds["whole"]
    parts = {part: seconds[part] for part in dict.fromkeys([*PARTS.values(), "optimizer"]) if part in seconds}
    return parts | {"other": whole - sum(parts.values())}
