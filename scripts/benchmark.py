"""Measure speed on this machine, beside the plain arithmetic in the same run. Weights are random: they change no speed.

    python scripts/benchmark.py evaluate --config configs/ped2.yaml [--dataset_path DATA] [--json FILE]
    python scripts/benchmark.py train    --config configs/ped2.yaml [--dataset_path DATA]
    python scripts/benchmark.py gamma    --config configs/ped2.yaml [--dataset_path DATA]
    python scripts/benchmark.py data     --config configs/ped2.yaml --dataset_path DATA

evaluate  frames per second of the evaluation in each precision, what they consist of, and how far the scores differ
train     images per second of training steps, in the same manner
gamma     ten gammas in one sweep, against one evaluation
data      windows per second of the training loader: decoded with 0 and 2 workers, and from packed frames

The plain way computes what the authors' code does: float32, every window anew, BatchNorm apart from the convolutions,
contiguous layout, states of zeros convolved; in training also Adam parameter by parameter. The ways take turns. Every
figure is the median of --repeats rounds after one to warm up; a ratio compares two ways in one round. "reached" is the
part of a large convolution's speed. Without --dataset_path the frames are noise.
"""

import contextlib
import importlib
import itertools
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import Namespace

from lgn_net.benchmark import (
    PRECISIONS,
    Work,
    difference,
    draw_video,
    evaluation,
    flops,
    interleave,
    machine,
    profile_parts,
    random_model,
    training,
)
from lgn_net.cli import command_parser, parse_command
from lgn_net.config import Config, with_knobs
from lgn_net.data.cache import pack_frames
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.data.windows import Windows, epoch_batches, loader
from lgn_net.device import conv_rate, pick_device
from lgn_net.errors import UserError
from lgn_net.files import to_json, write_atomic
from lgn_net.inference.loop import score_videos
from lgn_net.inference.sweep import sweep_gamma
from lgn_net.report.tables import markdown
from lgn_net.terminal import run_command

SPLITS = {"evaluate": "testing", "train": "training", "gamma": "testing", "data": "training"}
resource: Any = None                                      # Windows has no such module
with contextlib.suppress(ImportError):
    resource = importlib.import_module("resource")
SWITCHES = ("compile", "checkpoint_activations")          # of the training


def main(argv: list[str]) -> None:
    """Run the benchmark that the first word names."""
    parser = command_parser(__doc__, f"benchmark.py {{{','.join(SPLITS)}}} --config FILE", needs_data=False)
    parser.add_argument("what", choices=SPLITS, help="What to measure.")
    parser.add_argument("--repeats", type=int, default=3, help="Rounds, after one to warm up.")
    parser.add_argument("--frames", type=int, default=8, help="evaluate, gamma: frames in a round.")
    parser.add_argument("--steps", type=int, default=2, help="train: steps in a round.")
    parser.add_argument("--batches", type=int, default=20, help="data: batches in a round.")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS,
                        help="evaluate: in place of score.precision; default: all that differ here.")
    parser.add_argument("--modes", nargs="+", help="train: in place of train.precision; precisions, with switches "
                                                   f"joined to them by + ({', '.join(SWITCHES)}).")
    parser.add_argument("--json", help="Also write the figures to this file.")
    config, args = parse_command(parser, argv)
    device = pick_device(args.device)
    about = machine(device)
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    with tempfile.TemporaryDirectory() as folder:
        frames = (config.train.batch_size if args.what == "train" else args.frames) + config.model.window - 1
        if args.dataset_path:
            videos = index_videos(find_split(args.dataset_path, config.data.dataset, SPLITS[args.what]))
        else:
            videos = [draw_video(Path(folder), config, frames)]
        longest = max(videos, key=lambda video: len(video.frames))
        measure = {"evaluate": evaluate, "train": train, "gamma": gamma, "data": data}[args.what]
        found = measure(config, args, device, videos if args.what == "data" else [
            longest._replace(frames=longest.frames[:frames])])
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else \
        1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if resource else math.nan
    print(f"\npeak memory, with what all ways hold: {peak / 1e6:,.0f} MB")
    if args.json:
        write_atomic(Path(args.json), to_json({
            "benchmark": args.what, "dataset": config.data.dataset if args.dataset_path else "noise",
            "repeats": args.repeats, "machine": about, **found, "peak_mb": peak / 1e6}))


def evaluate(config: Config, args: Namespace, device: torch.device, videos: list[Video]) -> dict:
    """Measure the evaluation, plainly and in each precision."""
    model, (video,) = random_model(config, videos[0], device), videos
    config = with_knobs(config, {"score.gamma": spread_gammas(model, video, config, device)[5]})
    in_precision = {way: with_knobs(config, {"score.precision": way}) for way in PRECISIONS}
    works = {"plain": evaluation(model, video, in_precision["float32"], device, plain=True)}
    works |= {way: evaluation(model, video, in_precision[way], device) for way in args.precisions or differing(device)}
    found, scores = compare("frame", works, args.repeats, len(video.frames) - config.model.window + 1, device)
    agreement = {way: difference(one, scores["plain"]) for way, one in scores.items()}
    print("\nlargest differences from the plain scores", *(f"{way}: {d}" for way, d in agreement.items()), sep="\n")
    return found | {"updates": sum(s.memory_updated for s in scores["plain"]), "agreement": agreement}


def train(config: Config, args: Namespace, device: torch.device, videos: list[Video]) -> dict:
    """Measure training steps, plainly and in each mode."""
    works = {"plain": training(in_mode(config, "float32"), videos[0], device, args.steps, plain=True)}
    for mode in args.modes or [*differing(device), "bfloat16+checkpoint_activations"]:
        works[mode] = training(in_mode(config, mode), videos[0], device, args.steps)
    return compare("image", works, args.repeats, args.steps * config.train.batch_size, device)[0]


def gamma(config: Config, args: Namespace, device: torch.device, videos: list[Video]) -> dict:
    """Measure the evaluation of the same frames under one gamma, and under ten that part the memory's ways."""
    model = random_model(config, videos[0], device)
    gammas = spread_gammas(model, videos[0], config, device)
    one = with_knobs(config, {"score.gamma": gammas[5]})
    calls: dict[str, Callable[[], object]] = {
        "one gamma": partial(score_videos, model, videos, one, device),
        "ten gammas": partial(sweep_gamma, model, videos, config, gammas, device)}
    seconds, scores = interleave(calls, args.repeats)
    return {"ways": show_ways("frame", seconds, len(scores["one gamma"]))}


def data(config: Config, args: Namespace, device: torch.device, videos: list[Video]) -> dict:
    """Measure the loader of the training windows, in random order; they stay on the CPU."""
    format_ = (config.data.channels, config.data.image_size)
    with tempfile.TemporaryDirectory() as folder:
        windows, packed = (Windows(videos, config.model.window, *format_, packed)
                           for packed in (None, pack_frames(videos, *format_, folder)))
        batches = epoch_batches(len(windows), config.train.batch_size, True, config.seed, 0)[:args.batches]

        def load(source: Windows, workers: int) -> int:
            return sum(len(clips) for clips in loader(source, batches, workers, torch.device("cpu")))

        seconds, counts = interleave({"decoded": partial(load, windows, 0), "packed": partial(load, packed, 0),
                                      "decoded, 2 workers": partial(load, windows, 2)}, args.repeats)
    return {"ways": show_ways("window", seconds, counts["packed"])}


def differing(device: torch.device) -> list[str]:
    """Return the precisions that differ on a device."""
    return [precision for precision in PRECISIONS if precision != "tf32" or device.type == "cuda"]


def in_mode(config: Config, mode: str) -> Config:
    """Return the configuration in a mode of training: a precision, and switches joined to it by "+"."""
    precision, *on = mode.split("+")
    if precision not in PRECISIONS or not set(on) <= set(SWITCHES):
        raise UserError(f"--modes {mode}: give one of {', '.join(PRECISIONS)}, such as bfloat16+{SWITCHES[0]}")
    return with_knobs(config, {"train.precision": precision, **{f"train.{name}": name in on for name in SWITCHES}})


def spread_gammas(model: torch.nn.Module, video: Video, config: Config, device: torch.device) -> list[float]:
    """Spread ten gammas over the regular scores when no frame updates the memory, and when every frame does."""
    extremes = sweep_gamma(model, [video], config, [0.0, 2.0], device).values()
    return np.quantile([s.regular_score for signals in extremes for s in signals], np.linspace(0.05, 0.95, 10)).tolist()


def compare(unit: str, works: Mapping[str, Work], rounds: int, count: int, device: torch.device) -> tuple[dict, dict]:
    """Measure networks at work, `count` units in a round: the figures, also printed, and what each call returned."""
    calls = {way: call for way, (_, call) in works.items()}
    seconds, results = interleave(calls, rounds)
    gflop = {way: flops(call) / count / 1e9 for way, call in calls.items()}
    rates = {way: conv_rate(device, "float32" if way == "plain" else way.partition("+")[0]) / 1e9 for way in works}
    found = {"ways": show_ways(unit, seconds, count, gflop, rates),
             "parts_s": {way: profile_parts(work, device) for way, work in works.items()}}
    rows = [[name, *(f"{1e3 * parts.get(name, 0) / count:,.2f} {100 * parts.get(name, 0) / sum(parts.values()):5.1f} %"
                     for parts in found["parts_s"].values())]
            for name in dict.fromkeys(itertools.chain(*found["parts_s"].values()))]
    print(f"\n{markdown([f'ms of a {unit}', *works], rows)}")
    return found, results


def show_ways(unit: str, seconds: Mapping[str, list[float]], count: int, gflop: Mapping[str, float] | None = None,
              rates: Mapping[str, float] | None = None) -> dict[str, dict]:
    """Print the figures of each way and return them, from its seconds in each round; ratios compare with the first way.

    `gflop` is that of a unit; `rates` are the GFLOP/s of a large convolution in each way's precision.
    """
    table, first = {}, next(iter(seconds.values()))
    for way, times in seconds.items():
        ratios, each = [a / b for a, b in zip(first, times)], statistics.median(times) / count
        table[way] = {f"{unit}s/s": 1 / each, "s": each, "ratio": statistics.median(ratios),
                      "ratio min": min(ratios), "ratio max": max(ratios)}
        if gflop and rates:
            table[way] |= {"GFLOP": gflop[way], "device GFLOP/s": rates[way], "reached": gflop[way] / rates[way] / each}
    rows = [[way, *(f"{x:.3g}" if x < 100 else f"{x:,.0f}" for x in row.values())] for way, row in table.items()]
    print(f"\n{markdown(['way', *table[way]], rows)}")
    return table


if __name__ == "__main__":
    run_command(main)
