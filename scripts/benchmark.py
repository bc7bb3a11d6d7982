"""Measure speed on this machine; every figure is a median of repeats, beside its ratio to the plain way of that run.

    python scripts/benchmark.py evaluate --dataset_path DATA --config configs/ped2.yaml
    python scripts/benchmark.py train    --dataset_path DATA --config configs/ped2.yaml
    python scripts/benchmark.py data     --dataset_path DATA --config configs/ped2.yaml
    python scripts/benchmark.py gamma    --dataset_path DATA --config configs/ped2.yaml

evaluate  frames per second of the evaluation, against the authors' way on the same frames, whose scores are compared;
          the parts of a frame, the latency of a live one, and how near all comes to what the device can do
train     images per second of training steps, in the same manner
data      windows per second of the training loader: decoded with 0 and 2 workers, and from packed frames
gamma     seconds of one gamma, and of ten in one evaluation

The weights are random: they change no speed.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import torch
from jsonargparse import Namespace
from torch import nn
from tqdm import tqdm

from lgn_net.benchmark import (
    Measured,
    TrainingLoop,
    authors_way,
    calibrate_norms,
    conv_rate,
    cpu_name,
    flops,
    measure,
    score_plainly,
    time_stream,
)
from lgn_net.cli import command_parser, parse_command
from lgn_net.config import Config, ScoreConfig, TrainConfig
from lgn_net.data.cache import PackedFrames, pack_frames
from lgn_net.data.clips import read_frames, to_float
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.data.windows import Windows, belong_on, epoch_batches, loader
from lgn_net.device import pick_device, provenance, seed_everything, set_kernels
from lgn_net.errors import UserError
from lgn_net.files import to_json, write_atomic
from lgn_net.inference.loop import FrameSignals, score_videos, sweep_gamma
from lgn_net.inference.stream import windows_at_once
from lgn_net.model.build import build_model
from lgn_net.report.speed import print_data, print_evaluate, print_gamma, print_train
from lgn_net.terminal import progress, run_command

PLAIN = "plain"
EVERY_FRAME = 2.0                                         # a gamma above any regular score
SWITCHES = ("compile", "checkpoint_activations")          # of the training
VARIED = {"evaluate": ("score.precision", "score.gamma"), "gamma": ("score.gamma",),
          "train": ("train.precision", *(f"train.{switch}" for switch in SWITCHES))}


def main(argv: list[str]) -> None:
    benchmarks = {"evaluate": (benchmark_evaluate, print_evaluate), "train": (benchmark_train, print_train),
                  "data": (benchmark_data, print_data), "gamma": (benchmark_gamma, print_gamma)}
    if argv[:1] in (["-h"], ["--help"]):
        return print(__doc__)
    if not argv or argv[0] not in benchmarks:
        raise UserError(f"benchmark what? {' '.join(argv[:1]) or 'nothing'} was given; the first word is "
                        f"{', '.join(list(benchmarks)[:-1])} or {list(benchmarks)[-1]}")
    parser = command_parser(__doc__, f"benchmark.py {argv[0]} --dataset_path DATA --config FILE")
    parser.add_argument("--repeats", type=int, default=3, help="Repeats, after one to warm up.")
    parser.add_argument("--json", help="Also write the figures to this file.")
    if argv[0] in ("evaluate", "gamma"):
        parser.add_argument("--frames", type=int, default=24, help="Test frames scored per repeat, of one video.")
    if argv[0] == "evaluate":
        parser.add_argument("--precisions", nargs="+", help="Of the streaming evaluation; default: all.")
    if argv[0] == "train":
        parser.add_argument("--steps", type=int, default=2, help="Training steps per repeat.")
        parser.add_argument("--modes", nargs="+", help="Precisions, with switches joined to them by + "
                                                       f"({', '.join(SWITCHES)}); default: what is of use here.")
    if argv[0] == "data":
        parser.add_argument("--batches", type=int, default=20, help="Batches per repeat where frames are decoded.")
        parser.add_argument("--cache", help="Folder for the packed frames of this measurement (default: a temporary "
                                            "one).")
    config, args = parse_command(parser, argv[1:])
    if varied := [word for word in argv if word.partition("=")[0].removeprefix("--") in VARIED.get(argv[0], ())]:
        by = {"evaluate": "; see --precisions", "train": "; see --modes"}.get(argv[0], "")
        raise UserError(f"{varied[0]}: benchmark.py {argv[0]} sets this itself{by}")
    for name in ("repeats", "frames", "batches", "steps"):
        if args.get(name, 1) < 1:
            raise UserError(f"--{name} {args[name]}: give 1 or more")
    measure_all, show = benchmarks[argv[0]]
    device = pick_device(args.device)
    seed_everything(config.seed)
    result = {"benchmark": argv[0], "dataset": config.data.dataset, "image_size": config.data.image_size,
              "channels": config.data.channels, "repeats": args.repeats, **measure_all(config, args, device),
              "cpu": cpu_name(), "threads": torch.get_num_threads(), "versions": provenance(device)}
    show(result)
    if args.json:
        write_atomic(Path(args.json), to_json(result))


def benchmark_evaluate(config: Config, args: Namespace, device: torch.device) -> dict:
    """Frames per second of the authors' way and of the streaming evaluator in each precision, and what they consist of.

    gamma is such that about half of the frames update the memory.
    """
    precisions = list(dict.fromkeys(args.precisions or precisions_of(ScoreConfig, device)))
    if unknown := [p for p in precisions if p not in precisions_of(ScoreConfig)]:
        raise UserError(f"--precisions {' '.join(unknown)}: choose from {', '.join(precisions_of(ScoreConfig))}")
    video, frames, batch = first_frames(config, args), args.frames, windows_at_once(config, device)
    model = random_model(config, video, device)
    plain = authors_way(model)
    passes = 2 + (args.repeats + 1) * (1 + len(precisions)) + len(precisions) * (args.repeats + 2)
    with progress("evaluate", passes * frames, "frames") as bar:
        gamma = halving_gamma(model, video, config, device, bar)
        settings = {f"streaming, {p}": scoring(config, gamma=gamma, precision=p) for p in precisions}
        ways = {PLAIN: partial(score_plainly, plain, video, scoring(config, gamma=gamma), device, bar)}
        ways |= {way: partial(score_streaming, model, video, setting, device, bar) for way, setting in settings.items()}
        measured = measure(ways, args.repeats, device)

        one = video._replace(frames=video.frames[:config.model.window])
        gflop = {PLAIN: flops(partial(score_plainly, plain, one, scoring(config, gamma=EVERY_FRAME), device)) / 1e9}
        rates, parts, latency = {PLAIN: conv_rate(device, "float32")}, {}, {}
        for way, setting in settings.items():
            set_kernels(setting.score.precision)
            timed = partial(time_stream, model, video, setting, device, bar=bar)
            gflop[way] = flops(partial(timed, batch, detailed=False)) / frames / 1e9          # warms up, too
            parts[way] = shares([row for _ in range(args.repeats) for row in timed(batch, detailed=True)])
            live = [1e3 * row["all"] for row in timed(1, detailed=False)][min(1, frames - 1):]      # the first warms up
            latency[way] = {"frames": len(live), "p50_ms": np.quantile(live, 0.5).item(),
                            "p95_ms": np.quantile(live, 0.95).item()}
            rates[way] = conv_rate(device, setting.score.precision)
    truth = measured[PLAIN].result
    return {"video": video.name, "frames": frames, "batch_size": batch, "gamma": gamma,
            "updates": sum(s.memory_updated for s in truth),
            "ways": {way: figures("frame", measured, way, frames, gflop[way], rates[way], held_mb(model, 1, device))
                     for way in ways},
            "agreement": {way: difference(measured[way].result, truth) for way in settings},
            "parts": parts, "latency": latency}


def benchmark_train(config: Config, args: Namespace, device: torch.device) -> dict:
    """Images per second of the training step: plainly in float32, and in each of the modes."""
    B, T = config.train.batch_size, config.model.window
    modes = args.modes or [*precisions_of(TrainConfig, device), "bfloat16+checkpoint_activations",
                           *["bfloat16+compile"] * (device.type == "cuda")]
    settings = {mode: training(config, mode) for mode in dict.fromkeys(modes)}
    videos = first_windows(config, args, args.steps * B)
    with tempfile.TemporaryDirectory() as folder:
        format_ = (config.data.channels, config.data.image_size)
        windows = Windows(videos, T, *format_, pack_frames(videos, *format_, folder) if config.data.cache else None)
        if belong_on(device, config.data.on_device, videos, *format_):
            windows.load_onto(device)
        batches = epoch_batches(len(windows), B, config.data.shuffle, config.seed, 0)
        loops = {PLAIN: TrainingLoop(training(config, "float32"), windows, device, plain=True)}
        loops |= {mode: TrainingLoop(setting, windows, device) for mode, setting in settings.items()}
        with progress("train", (args.repeats + 2) * len(loops) * len(windows), "images") as bar:
            measured = measure({way: partial(loop.run, batches, bar) for way, loop in loops.items()}, args.repeats,
                               device)
            gflop = flops(partial(loops[PLAIN].run, batches[:1])) / B / 1e9
            parts = {way: shares(loop.time_parts(batches, bar)) for way, loop in loops.items()}
    rates = {way: conv_rate(device, loop.config.train.precision) for way, loop in loops.items()}
    return {"batch_size": B, "steps": args.steps,
            "ways": {way: figures("image", measured, way, len(windows), gflop, rates[way],
                                  held_mb(loop.model, 3, device)) for way, loop in loops.items()},  # Adam has two more
            "parts": parts}


def benchmark_data(config: Config, args: Namespace, device: torch.device) -> dict:
    """Windows per second of the loader in a random order: decoding with 0 and 2 workers, and from packed frames."""
    knobs, cpu, epochs = config.data, torch.device("cpu"), itertools.count()
    videos = index_videos(find_split(args.dataset_path, knobs.dataset, "training"))
    format_ = (knobs.channels, knobs.image_size)

    def read(packed: PackedFrames | None, workers: int) -> int:
        windows = Windows(videos, config.model.window, *format_, packed)
        batches = epoch_batches(len(windows), config.train.batch_size, True, config.seed, next(epochs))
        count = 0
        for clip in loader(windows, batches if packed else batches[:args.batches], workers, cpu):
            count += len(clip)
            bar.update(len(clip))
        return count

    with tempfile.TemporaryDirectory(dir=args.cache) as folder:
        start = time.perf_counter()
        packed = pack_frames(videos, *format_, folder)
        packing = time.perf_counter() - start
        ways = {"decoded": (None, 0), "decoded, 2 workers": (None, 2), "packed": (packed, 0)}
        some, all_ = args.batches * config.train.batch_size, len(Windows(videos, config.model.window, *format_))
        with progress("data", (args.repeats + 1) * (2 * min(some, all_) + all_), "windows") as bar:
            measured = measure({way: partial(read, *how) for way, how in ways.items()}, args.repeats, cpu)
        size = packed.path.stat().st_size
    rates = {way: m.result / m.seconds for way, m in measured.items()}
    return {"frames": sum(len(video.frames) for video in videos), "windows_per_s": rates,
            "ratio": {way: rate / rates["decoded"] for way, rate in rates.items()},
            "packing_s": packing, "packed_mb": size / 1e6}


def benchmark_gamma(config: Config, args: Namespace, device: torch.device) -> dict:
    """Seconds for the first frames of a test video under one gamma, and under ten that part the memory's ways.

    The one lies in the middle of the ten.
    """
    video = first_frames(config, args)
    model = random_model(config, video, device)
    with progress("gamma", args.frames * (1 + 2 * (args.repeats + 1)), "frames") as bar:
        gammas = spread_gammas(model, video, config, device, bar)
        ways = {"one gamma": gammas[5:6], "ten gammas": gammas}
        measured = measure({way: partial(sweep_gamma, model, [video], config, some, device, bar)
                            for way, some in ways.items()}, args.repeats, device)
    seconds = {way: m.seconds for way, m in measured.items()}
    return {"video": video.name, "frames": args.frames, "seconds": seconds,
            "updates": [sum(s.memory_updated for s in measured["ten gammas"].result[gamma]) for gamma in gammas],
            "ratio": {way: value / seconds["one gamma"] for way, value in seconds.items()}}


def random_model(config: Config, video: Video, device: torch.device) -> nn.Module:
    """A network with random weights, whose BatchNorm knows a window of the video."""
    model = build_model(config).to(device)
    frames = read_frames(video.frames[:config.model.input_frames], config.data.channels, config.data.image_size)
    calibrate_norms(model, to_float(frames)[None].to(device))
    return model


def scoring(config: Config, **knobs: object) -> Config:
    """The configuration with other knobs of `score`."""
    return replace(config, score=replace(config.score, **knobs))


def spread_gammas(model: nn.Module, video: Video, config: Config, device: torch.device, bar: tqdm) -> list[float]:
    """Ten gammas, spread over the regular scores when no frame updates the memory and when every frame does."""
    extremes = sweep_gamma(model, [video], config, [0.0, EVERY_FRAME], device, bar).values()
    return np.quantile([s.regular_score for signals in extremes for s in signals], np.linspace(0.05, 0.95, 10)).tolist()


def halving_gamma(model: nn.Module, video: Video, config: Config, device: torch.device, bar: tqdm) -> float:
    """The gamma under which the number of frames that update the memory is nearest to half of them."""
    signals = sweep_gamma(model, [video], config, spread_gammas(model, video, config, device, bar), device, bar)
    return min(signals, key=lambda gamma: abs(2 * sum(s.memory_updated for s in signals[gamma]) - len(signals[gamma])))


def score_streaming(model: nn.Module, video: Video, config: Config, device: torch.device,
                    bar: tqdm) -> list[FrameSignals]:
    """The evaluator on one video."""
    set_kernels(config.score.precision)
    return score_videos(model, [video], config, device, bar)


def first_frames(config: Config, args: Namespace) -> Video:
    """The beginning of the longest test video: `--frames` frames to predict and what they need before them."""
    videos = index_videos(find_split(args.dataset_path, config.data.dataset, "testing"))
    video, before = max(videos, key=lambda v: len(v.frames)), config.model.window - 1
    if len(video.frames) < before + args.frames:
        raise UserError(f"--frames {args.frames}: the longest test video, {video.name}, has {len(video.frames)} frames "
                        f"in all; give at most {len(video.frames) - before}")
    return video._replace(frames=video.frames[:before + args.frames])


def first_windows(config: Config, args: Namespace, count: int) -> list[Video]:
    """The beginning of the training videos, so much of them as holds `count` windows."""
    videos, before, wanted = [], config.model.window - 1, count
    for video in index_videos(find_split(args.dataset_path, config.data.dataset, "training")):
        if wanted and len(video.frames) > before:
            videos.append(video._replace(frames=video.frames[:before + wanted]))
            wanted -= len(videos[-1].frames) - before
    if wanted:
        raise UserError(f"--steps {args.steps} of {config.train.batch_size} windows need {count}, the training videos "
                        f"hold {count - wanted}")
    return videos


def training(config: Config, mode: str) -> Config:
    """The configuration in a mode: a precision, and switches of `train` joined to it by "+"."""
    precision, *on = mode.split("+")
    if precision not in precisions_of(TrainConfig) or not set(on) <= set(SWITCHES):
        raise UserError(f"--modes {mode}: give a precision ({', '.join(precisions_of(TrainConfig))}), and behind it "
                        f"what is switched on ({', '.join(SWITCHES)}), as in bfloat16+{SWITCHES[0]}")
    switches = {switch: switch in on for switch in SWITCHES}
    return replace(config, train=replace(config.train, precision=precision, **switches))


def precisions_of(section: type, device: torch.device | None = None) -> list[str]:
    """The precisions that a section of the configuration knows; with a device, those that differ there."""
    known = get_args(get_type_hints(section)["precision"])
    return [p for p in known if p != "tf32" or device is None or device.type == "cuda"]


def held_mb(model: nn.Module, copies: int, device: torch.device) -> float:
    """MB of the weights, times `copies`, where the peak that `measure` gives leaves them out."""
    return copies * sum(x.nbytes for x in model.state_dict().values()) / 1e6 if device.type == "cuda" else 0.0


def figures(unit: str, measured: Mapping[str, Measured], way: str, count: int, gflop: float, rate: float,
            held: float) -> dict:
    """What is said of a way: its speed, and how near that is to the arithmetic alone at the device's best.

    Args:
        unit: what is counted, "frame" or "image".
        count: of them in a repeat.
        gflop: for one.
        rate: FLOP/s of the device.
        held: MB that were allocated before.
    """
    seconds = measured[way].seconds / count
    floor = gflop * 1e9 / rate
    return {f"{unit}s_per_s": 1 / seconds, f"s_per_{unit}": seconds, "ratio": measured[PLAIN].seconds / count / seconds,
            "peak_mb": measured[way].peak_mb + held, f"gflop_per_{unit}": gflop, "device_gflop_per_s": rate / 1e9,
            f"floor_s_per_{unit}": floor, "reached": floor / seconds}


def shares(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Seconds of each part, row by row -> the medians in ms, and their shares."""
    medians = {part: 1e3 * statistics.median(row[part] for row in rows) for part in rows[0]}
    total = sum(medians.values())
    return {part: {"ms": value, "share": value / total} for part, value in medians.items()}


def difference(signals: Sequence[FrameSignals], truth: Sequence[FrameSignals]) -> dict:
    """How far two ways' signals of the same frames are apart."""
    pairs = list(zip(signals, truth, strict=True))
    return {"max_psnr_db": max(abs(a.psnr - b.psnr) for a, b in pairs),
            "max_distance": max((abs(x - y) for a, b in pairs for x, y in zip(a.distance, b.distance)), default=0.0),
            "updates_differ": sum(a.memory_updated != b.memory_updated for a, b in pairs)}


if __name__ == "__main__":
    run_command(main)
