"""Measure speed on this machine; every figure is a median of repeats, beside its ratio to the plain way in the same run.

    python scripts/benchmark.py data --dataset_path DATA --config configs/ped2.yaml
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgn_net.config import load_config
from lgn_net.data.cache import pack_frames
from lgn_net.data.videos import find_split, index_videos
from lgn_net.data.windows import Windows, epoch_batches, loader
from lgn_net.files import to_json
from lgn_net.runs import provenance
from lgn_net.terminal import run_command


def benchmark_data(args: argparse.Namespace) -> dict:
    """Windows per second of the loader in a random order: decoding with 0 and 2 workers, and from packed frames."""
    config = load_config(args.config)
    knobs, cpu = config.data, torch.device("cpu")
    videos = index_videos(find_split(args.dataset_path, knobs.dataset, "training"))
    length, frames = config.model.input_frames + 1, sum(len(video.frames) for video in videos)

    with tempfile.TemporaryDirectory(dir=args.cache) as folder:
        start = time.perf_counter()
        packed = pack_frames(videos, knobs.channels, knobs.image_size, folder)
        packing = time.perf_counter() - start
        ways = {"decoded": (None, 0), "decoded, 2 workers": (None, 2), "packed": (packed, 0)}
        rates = {way: [] for way in ways}
        for repeat in range(args.repeats + 1):                           # the ways in turn, so that drift hits all alike
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


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["data"], help="data: windows per second of the training loader")
    parser.add_argument("--dataset_path", required=True, help="folder that holds the data set's folder, or that folder")
    parser.add_argument("--config", default="configs/ped2.yaml", help="data set, frame size, batch size")
    parser.add_argument("--batches", type=int, default=20, help="batches per repeat where frames are decoded")
    parser.add_argument("--repeats", type=int, default=3, help="repeats after one to warm up")
    parser.add_argument("--cache", help="folder for the packed frames of this measurement (default: a temporary one)")
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args(argv)
    result = benchmark_data(args)
    print(f"{result['dataset']}, {result['frames']} frames as {result['image_size']} x {result['image_size']} x "
          f"{result['channels']}: packed in {result['packing_s']:.1f} s to {result['packed_mb']:.0f} MB; "
          f"{result['versions']['device']}\n")
    print(f"{'loader':<22}{'windows/s':>12}{'ratio':>10}")
    for way, rate in result["windows_per_s"].items():
        print(f"{way:<22}{rate:>12.1f}{result['ratio'][way]:>10.1f}")
    if args.json:
        Path(args.json).write_text(to_json(result))


if __name__ == "__main__":
    run_command(main)
