"""Measure speed on this machine; every figure is a median of repeats, beside its ratio to the plain way of that run.

    python scripts/benchmark.py data  --dataset_path DATA --config configs/ped2.yaml
    python scripts/benchmark.py gamma --dataset_path DATA --config configs/ped2.yaml
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgn_net.config import load_config
from lgn_net.data.cache import pack_frames
from lgn_net.data.videos import find_split, index_videos
from lgn_net.data.windows import Windows, epoch_batches, loader
from lgn_net.files import to_json
from lgn_net.model.build import build_model
from lgn_net.runs import pick_device, provenance, seed_everything
from lgn_net.scoring.infer import score_videos, sweep_gamma
from lgn_net.terminal import run_command


def benchmark_data(args: argparse.Namespace) -> dict:
    """Windows per second of the loader in a random order: decoding with 0 and 2 workers, and from packed frames."""
    config = load_config(args.config)
    knobs, cpu = config.data, torch.device("cpu")
    videos = index_videos(find_split(args.dataset_path, knobs.dataset, "training"))
    length, frames = config.model.window, sum(len(video.frames) for video in videos)

    with tempfile.TemporaryDirectory(dir=args.cache) as folder:
        start = time.perf_counter()
        packed = pack_frames(videos, knobs.channels, knobs.image_size, folder)
        packing = time.perf_counter() - start
        ways = {"decoded": (None, 0), "decoded, 2 workers": (None, 2), "packed": (packed, 0)}
        rates = {way: [] for way in ways}
        for repeat in range(args.repeats + 1):                           # the ways in turn: drift hits all alike
            for way, (source, workers) in ways.items():
                windows = Windows(videos, length, knobs.channels, knobs.image_size, source)
                batches = epoch_batches(len(windows), config.train.batch_size, True, config.seed, repeat)
                batches = batches if source else batches[:args.batches]
                start = time.perf_counter()
                count = sum(len(clip) for clip in loader(windows, batches, workers, cpu))
                if repeat:                                               # the first one warms up
                    rates[way].append(count / (time.perf_counter() - start))
        size = packed.path.stat().st_size

    medians = {way: statistics.median(values) for way, values in rates.items()}
    return {"dataset": knobs.dataset, "image_size": knobs.image_size, "channels": knobs.channels, "frames": frames,
            "windows_per_s": medians, "ratio": {way: rate / medians["decoded"] for way, rate in medians.items()},
            "packing_s": packing, "packed_mb": size / 1e6, "versions": provenance(cpu)}


def benchmark_gamma(args: argparse.Namespace) -> dict:
    """Seconds for the first frames of a test video under one gamma, and under ten that part the memory's ways.

    The weights are random: they change no speed. The gammas are spread over the regular scores that the first pass saw.
    """
    config, device = load_config(args.config), pick_device(args.device)
    video = index_videos(find_split(args.dataset_path, config.data.dataset, "testing"))[0]
    video = video._replace(frames=video.frames[:config.model.window - 1 + args.frames])
    seed_everything(config.seed)
    model = build_model(config).to(device)
    regular = [s.regular_score for s in score_videos(model, [video], config, device)]             # warms up, too
    gammas = np.quantile(regular, np.linspace(0.05, 0.95, 10)).tolist()
    ways, seconds = {"one gamma": gammas[:1], "ten gammas": gammas}, {"one gamma": [], "ten gammas": []}
    for _ in range(args.repeats):
        for way, some in ways.items():
            start = time.perf_counter()
            signals = sweep_gamma(model, [video], config, some, device)                           # ends on the host
            seconds[way].append(time.perf_counter() - start)
    updates = [sum(s.memory_updated for s in signals[gamma]) for gamma in gammas]
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    return {"dataset": config.data.dataset, "image_size": config.data.image_size, "channels": config.data.channels,
            "frames": args.frames, "seconds": medians, "updates": updates,
            "ratio": {way: value / medians["one gamma"] for way, value in medians.items()},
            "versions": provenance(device)}


def print_data(result: dict) -> None:
    """The table of `benchmark_data`."""
    print(f"{result['dataset']}, {result['frames']} frames as {result['image_size']} x {result['image_size']} x "
          f"{result['channels']}: packed in {result['packing_s']:.1f} s to {result['packed_mb']:.0f} MB; "
          f"{result['versions']['device']}\n")
    print(f"{'loader':<22}{'windows/s':>12}{'ratio':>10}")
    for way, rate in result["windows_per_s"].items():
        print(f"{way:<22}{rate:>12.1f}{result['ratio'][way]:>10.1f}")


def print_gamma(result: dict) -> None:
    """The table of `benchmark_gamma`."""
    print(f"{result['dataset']}, {result['frames']} frames as {result['image_size']} x {result['image_size']} x "
          f"{result['channels']}, of which {', '.join(map(str, result['updates']))} updated the memory under the ten "
          f"gammas; {result['versions']['device']}\n")
    print(f"{'evaluation':<22}{'seconds':>12}{'ratio':>10}")
    for way, seconds in result["seconds"].items():
        print(f"{way:<22}{seconds:>12.2f}{result['ratio'][way]:>10.2f}")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["data", "gamma"],
                        help="data: windows per second of the training loader; gamma: ten gammas in one evaluation")
    parser.add_argument("--dataset_path", required=True, help="folder that holds the data set's folder, or that folder")
    parser.add_argument("--config", default="configs/ped2.yaml", help="data set, frame size, batch size")
    parser.add_argument("--batches", type=int, default=20, help="data: batches per repeat where frames are decoded")
    parser.add_argument("--frames", type=int, default=16, help="gamma: frames scored per repeat")
    parser.add_argument("--device", default="auto", help="gamma: cuda, cuda:1, mps or cpu")
    parser.add_argument("--repeats", type=int, default=3, help="repeats after one to warm up")
    parser.add_argument("--cache",
                        help="data: folder for the packed frames of this measurement (default: a temporary one)")
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args(argv)
    measure, show = {"data": (benchmark_data, print_data), "gamma": (benchmark_gamma, print_gamma)}[args.what]
    result = measure(args)
    show(result)
    if args.json:
        Path(args.json).write_text(to_json(result))


if __name__ == "__main__":
    run_command(main)
