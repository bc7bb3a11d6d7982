"""Make a small file of a checkpoint: half the digits, no optimizer, and how the network scores normal frames.

    python scripts/export_weights.py RUN/last.pt --dataset_path DATA --out weights/NAME.pt [--windows 256]
    python evaluate.py --checkpoint weights/NAME.pt --dataset_path DATA
    python scripts/predict_video.py --checkpoint weights/NAME.pt --video VIDEO

The file is a checkpoint like any other for evaluate.py and `train.py --init_from`. Weights and BatchNorm statistics
are rounded to float16 (about three digits), memory items stay float32. "calibration" holds mean and standard deviation
of each signal over training windows, by the rounded weights, and which share of them lies below which normality.
"""

import argparse
from pathlib import Path

import numpy as np
from torch import Tensor

from lgn_net.data.videos import find_split, index_videos
from lgn_net.device import pick_device
from lgn_net.errors import UserError
from lgn_net.files import check_writable
from lgn_net.inference.chosen import predict_again, sample_normal
from lgn_net.inference.loop import FrameSignals, to_scores
from lgn_net.model.build import build_model
from lgn_net.scores.calibration import calibrate, pooled
from lgn_net.scores.maps import as_array, error_map, smoothed
from lgn_net.scores.protocols import paper_weights
from lgn_net.terminal import progress, run_command
from lgn_net.training.checkpoint import load_checkpoint, load_weights, save_checkpoint

COMPARED = 64                                            # windows scored by the weights before and after rounding


def main(argv: list[str]) -> None:
    """Round the weights, calibrate the rounded network, and print how far the rounding moved the signals."""
    args = parse_arguments(argv)
    config, content = load_checkpoint(args.checkpoint)
    device = pick_device(args.device)
    model = build_model(config).to(device)
    load_weights(model, content["model"], args.checkpoint)
    state, kept = rounded(content["model"])
    videos = index_videos(find_split(args.dataset_path, config.data.dataset, "training"))
    windows = sum(max(len(video.frames) - config.model.window + 1, 0) for video in videos)
    count, some = min(args.windows, windows), min(COMPARED, windows)
    if not count:
        raise UserError(f"no training video in {args.dataset_path} has the {config.model.window} frames of a window")
    with progress("score training windows", 2 * some + count, "windows") as bar:
        def scores(number: int) -> list[FrameSignals]:
            return sample_normal(model, videos, config, number, device, bar)[0]

        before = to_scores(scores(some), videos)
        load_weights(model, state, args.checkpoint)
        after, normal = to_scores(scores(some), videos), scores(count)
        wanted = {(s.video, s.frame) for s in normal[::-(-count // some)]}
        peaks = [smoothed(error_map(as_array(predicted), as_array(target))).max()
                 for _, _, predicted, target in predict_again(model, videos, config, normal, wanted, device)]
    weights = paper_weights(config.score.psnr_weight, len(model.memories))
    calibration = calibrate(to_scores(normal, videos), weights, peaks)
    save_checkpoint(args.out, config, state, calibration=calibration, exported_from={
        key: content[key] for key in ("step", "provenance", "imported_from") if key in content})

    size, full = (Path(path).stat().st_size / 1e6 for path in (args.out, args.checkpoint))
    print(f"{args.out}: {size:.2f} MB ({full:.2f} MB before)")
    if kept:
        print(f"left as they were, since float16 cannot hold them: {', '.join(kept)}")
    old, new = pooled(before, weights), pooled(after, weights)
    for name, scale in calibration["signals"].items():
        moved = np.abs(new[name] - old[name]).max()
        print(f"{name:<11}{scale['mean']:.6g} +- {scale['std']:.3g} over {count} training windows; moved by the "
              f"rounding: at most {moved:.2g} (of {some} windows)")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Read the command line. UserError when the file to write exists or cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--dataset_path", required=True,
                        help="folder that holds the data set's folder, or that folder itself")
    parser.add_argument("--out", required=True, help="file to write")
    parser.add_argument("--windows", type=int, default=256, help="training windows, spread evenly (default: 256)")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, mps or cpu; auto takes the first there is")
    args = parser.parse_args(argv)
    if args.windows < 1:
        raise UserError(f"--windows {args.windows}: give 1 or more")
    if Path(args.out).exists():
        raise UserError(f"{args.out} exists already; choose another --out, or delete it")
    check_writable(Path(args.out).parent)
    return args


def rounded(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Round a state_dict to float16, without the memory items; also name the tensors left alone as too large for it."""
    halves = {name: value.half() for name, value in state.items()
              if value.is_floating_point() and name.rpartition(".")[2] != "items"}
    kept = [name for name, value in halves.items() if not value.isfinite().all()]
    return {name: halves[name] if name in halves and name not in kept else value for name, value in state.items()}, kept


if __name__ == "__main__":
    run_command(main)
