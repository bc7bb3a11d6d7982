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

import itertools
import platform
import resource
import statistics
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jsonargparse import Namespace

from lgn_net.benchmark import (
    PRECISIONS,
    Evaluation,
    Timing,
    Training,
    conv_rate,
    difference,
    draw_video,
    flops,
    interleave,
    machine,
    profile_parts,
    random_model,
)
from lgn_net.cli import command_parser, parse_command
from lgn_net.config import Config, with_knobs
from lgn_net.data.cache import pack_frames
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.data.windows import Windows, epoch_batches, loader
from lgn_net.device import pick_device
from lgn_net.errors import UserError
from lgn_net.files import to_json, write_atomic
from lgn_net.inference.loop import score_videos
from lgn_net.inference.stream import batch_size_on
from lgn_net.inference.sweep import sweep_gamma
from lgn_net.report.tables import markdown
from lgn_net.terminal import run_command

SPLITS = {"evaluate": "testing", "train": "training", "gamma": "testing", "data": "training"}
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
    result = {"benchmark": args.what, "dataset": config.data.dataset if args.dataset_path else "noise",
              "network": config.model.name, "image_size": config.data.image_size, "channels": config.data.channels,
              "repeats": args.repeats, "machine": machine(device)}
    print("\n".join(f"{key}: {value}" for key, value in (result | machine(device)).items() if key != "machine"))
    with tempfile.TemporaryDirectory() as folder:
        videos = find_videos(config, args, Path(folder))
        measure = {"evaluate": evaluate, "train": train, "gamma": gamma, "data": data}[args.what]
        result |= measure(config, args, device, videos)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
    result["peak_mb"] = (torch.cuda.max_memory_allocated() if device.type == "cuda" else peak) / 1e6
    print(f"\npeak memory, with what all ways hold: {result['peak_mb']:,.0f} MB")
    if args.json:
        write_atomic(Path(args.json), to_json(result))


def find_videos(config: Config, args: Namespace, folder: Path) -> list[Video]:
    """Draw a video, or find the longest one of the data set, cut to what a round needs; for `data` find all."""
    needed = (config.train.batch_size if args.what == "train" else args.frames) + config.model.window - 1
    if not args.dataset_path:
        return [draw_video(folder, config, needed)]
    videos = index_videos(find_split(args.dataset_path, config.data.dataset, SPLITS[args.what]))
    if args.what == "data":
        return videos
    longest = max(videos, key=lambda video: len(video.frames))
    if len(longest.frames) < needed:
        raise UserError(f"the longest video, {longest.name}, has {len(longest.frames)} frames, and {needed} are "
                        f"needed; give fewer --frames, or a smaller --train.batch_size")
    return [longest._replace(frames=longest.frames[:needed])]


def evaluate(config: Config, args: Namespace, device: torch.device, videos: list[Video]) -> dict:
    """Measure the evaluation, plainly and in each precision."""
    size, model = batch_size_on(device, config), random_model(config, videos[0], device)
    count = -(-args.frames // size) * size                                    # whole batches
    config = with_knobs(config, {"score.gamma": spread_gammas(model, videos[0], config, device)[5]})
    works = {"plain": Evaluation(model, videos[0], with_knobs(config, {"score.precision": "float32"}), device, True)}
    for way in args.precisions or precisions_on(device):
        works[way] = Evaluation(model, videos[0], with_knobs(config, {"score.precision": way}), device)
    calls = {way: partial(work.run, count) for way, work in works.items()}
    timings = interleave(calls, args.repeats)

    # Compare the scores, and the speed with the device's.
    scores = {way: [*itertools.chain(*t.results)] for way, t in timings.items()}
    agreement = {way: difference(scores[way], scores["plain"]) for way in works}
    gflop = {way: flops(call) / count / 1e9 for way, call in calls.items()}
    rates = {way: conv_rate(device, work.config.score.precision) / 1e9 for way, work in works.items()}
    ways = show_ways("frame", timings, count, gflop, rates)
    print("\nlargest differences from the plain scores", *(f"{way}: {d}" for way, d in agreement.items()), sep="\n")
    parts = {way: profile_parts(works[way].model, call, device, "other") for way, call in calls.items()}
    show_parts("frame", parts, count)
    return {"frames": count, "batch_size": size, "gamma": config.score.gamma, "ways": ways, "parts_s": parts,
            "updates": sum(s.memory_updated for s in scores["plain"]), "agreement": agreement}


def train(config: Config, args: Namespace, device: torch.device, videos: list[Video]) -> dict:
    """Measure training steps, plainly and in each mode."""
    works = {"plain": Training(in_mode(config, "float32"), videos[0], device, plain=True)}
    for mode in args.modes or [*precisions_on(device), "bfloat16+checkpoint_activations"]:
        works[mode] = Training(in_mode(config, mode), videos[0], device)
    calls = {way: partial(work.run, args.steps) for way, work in works.items()}
    timings, count = interleave(calls, args.repeats), args.steps * config.train.batch_size

    gflop = dict.fromkeys(works, flops(calls["plain"]) / count / 1e9)
    rates = {way: conv_rate(device, work.config.train.precision) / 1e9 for way, work in works.items()}
    ways = show_ways("image", timings, count, gflop, rates)
    parts = {way: profile_parts(works[way].model, call, device, "losses, backward") for way, call in calls.items()
             if not works[way].config.train.compile}
    show_parts("image", parts, count)
    return {"batch_size": config.train.batch_size, "steps": args.steps, "ways": ways, "parts_s": parts}


def gamma(config: Config, args: Namespace, device: torch.device, videos: list[Video]) -> dict:
    """Measure the evaluation of the same frames under one gamma, and under ten that part the memory's ways."""
    model = random_model(config, videos[0], device)
    gammas = spread_gammas(model, videos[0], config, device)
    one = with_knobs(config, {"score.gamma": gammas[5]})
    timings = interleave({"one gamma": partial(score_videos, model, videos, one, device),
                          "ten gammas": partial(sweep_gamma, model, videos, config, gammas, device)}, args.repeats)
    updates = [sum(s.memory_updated for s in signals) for signals in timings["ten gammas"].results[0].values()]
    count = len(timings["one gamma"].results[0])
    print(f"\nof {count} frames {', '.join(map(str, updates))} update the memory under the ten gammas")
    return {"frames": count, "updates": updates, "ways": show_ways("frame", timings, count)}


def data(config: Config, args: Namespace, device: torch.device, videos: list[Video]) -> dict:
    """Measure the loader of the training windows, in random order; they stay on the CPU."""
    format_ = (config.data.channels, config.data.image_size)
    with tempfile.TemporaryDirectory() as folder:
        windows, packed = (Windows(videos, config.model.window, *format_, packed)
                           for packed in (None, pack_frames(videos, *format_, folder)))
        batches = epoch_batches(len(windows), config.train.batch_size, True, config.seed, 0)[:args.batches]

        def load(source: Windows, workers: int) -> int:
            return sum(len(clips) for clips in loader(source, batches, workers, torch.device("cpu")))

        timings = interleave({"decoded": partial(load, windows, 0), "decoded, 2 workers": partial(load, windows, 2),
                              "packed": partial(load, packed, 0)}, args.repeats)
    return {"ways": show_ways("window", timings, sum(map(len, batches)))}


def precisions_on(device: torch.device) -> list[str]:
    """Return the precisions that differ on a device."""
    return [precision for precision in PRECISIONS if precision != "tf32" or device.type == "cuda"]


def in_mode(config: Config, mode: str) -> Config:
    """Return the configuration in a mode of training: a precision, and switches joined to it by "+"."""
    precision, *on = mode.split("+")
    if precision not in PRECISIONS or not set(on) <= set(SWITCHES):
        raise UserError(f"--modes {mode}: give {', '.join(PRECISIONS)}, and behind it what is switched on "
                        f"({', '.join(SWITCHES)}), as in bfloat16+{SWITCHES[0]}")
    return with_knobs(config, {"train.precision": precision, **{f"train.{name}": name in on for name in SWITCHES}})


def spread_gammas(model: torch.nn.Module, video: Video, config: Config, device: torch.device) -> list[float]:
    """Spread ten gammas over the regular scores when no frame updates the memory, and when every frame does."""
    extremes = sweep_gamma(model, [video], config, [0.0, 2.0], device).values()
    return np.quantile([s.regular_score for signals in extremes for s in signals], np.linspace(0.05, 0.95, 10)).tolist()


def show_ways(unit: str, timings: Mapping[str, Timing], count: int, gflop: Mapping[str, float] | None = None,
              rates: Mapping[str, float] | None = None) -> dict[str, dict]:
    """Print the figures of each way and return them; ratios compare with the first way.

    Args:
        unit: what is counted.
        timings: of each way.
        count: units in a round.
        gflop: for a unit, by each way.
        rates: GFLOP/s of a large convolution in each way's precision.
    """
    table, first = {}, next(iter(timings.values()))
    for way, t in timings.items():
        ratios = [a / b for a, b in zip(first.seconds, t.seconds)]
        seconds, cpu_seconds = (statistics.median(x) / count for x in (t.seconds, t.cpu_seconds))
        table[way] = {f"{unit}s/s": 1 / seconds, "s": seconds, "CPU s": cpu_seconds, "ratio": statistics.median(ratios),
                      "ratio min": min(ratios), "ratio max": max(ratios),
                      "CPU ratio": statistics.median(a / b for a, b in zip(first.cpu_seconds, t.cpu_seconds))}
        if gflop and rates:
            table[way] |= {"GFLOP": gflop[way], "device GFLOP/s": rates[way],
                           "reached": gflop[way] / rates[way] / seconds}
    rows = [[way, *(f"{x:.3g}" if x < 100 else f"{x:,.0f}" for x in row.values())] for way, row in table.items()]
    print(f"\n{markdown(['way', *table[way]], rows)}")
    return table


def show_parts(unit: str, parts: Mapping[str, Mapping[str, float]], count: int) -> None:
    """Print the milliseconds of each part, and its part of the whole, by each way."""
    rows = [[name, *(f"{1e3 * found.get(name, 0) / count:,.2f} {100 * found.get(name, 0) / sum(found.values()):5.1f} %"
                     for found in parts.values())] for name in dict.fromkeys(itertools.chain(*parts.values()))]
    print(f"\n{markdown([f'ms of a {unit}', *parts], rows)}")


if __name__ == "__main__":
    run_command(main)
