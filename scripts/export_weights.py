"""Make a small file of a checkpoint: half the digits, no optimizer, and how the network scores normal frames.

    python scripts/export_weights.py RUN/last.pt --dataset_path DATA --out weights/NAME.pt [--windows 256]
    python scripts/export_weights.py RUN/last.pt --half --out NAME.pt        # round only; needs no data
    python scripts/export_weights.py RUN/last.pt --parts FOLDER              # the file as it is, in parts of 15 MiB
    python scripts/export_weights.py --join FOLDER --out RUN/last.pt         # the parts, checked, back in one file

The file is a checkpoint like any other. Weights and BatchNorm statistics are rounded to float16 (about three digits),
memory items stay float32. "calibration" says how the rounded weights score training windows.
"""

import argparse
from pathlib import Path

from lgn_net.cli import Parser, show_help

PARSER = Parser(__doc__)
PARSER.add_argument("checkpoint", nargs="?", type=Path)
PARSER.add_argument("--out", type=Path, help="file to write")
way = PARSER.add_mutually_exclusive_group(required=True)
way.add_argument("--dataset_path", help="folder that holds the data set's folder, or that folder itself")
way.add_argument("--half", action="store_true", help="round to float16 only, without a calibration")
way.add_argument("--parts", type=Path, metavar="FOLDER", help="write the checkpoint in parts into this folder")
way.add_argument("--join", type=Path, metavar="FOLDER", help="join the parts in this folder to --out")
PARSER.add_argument("--windows", type=int, default=256, help="training windows, spread evenly (default: 256)")
PARSER.add_argument("--device", default="auto", help="cuda, cuda:1, mps or cpu; auto takes the first there is")
show_help(__name__, PARSER)     # before slow imports

import zlib

from torch import Tensor

from lgn_net.config import Config
from lgn_net.data.videos import find_split, index_videos
from lgn_net.device import pick_device, set_kernels, settle_precision
from lgn_net.errors import UserError
from lgn_net.files import check_writable, replacing
from lgn_net.inference.around import sample_normal, to_scores
from lgn_net.model.build import build_model
from lgn_net.scores.maps import error_map, smoothed
from lgn_net.scores.normality import calibrate
from lgn_net.scores.protocols import paper_weights
from lgn_net.terminal import progress, run_command
from lgn_net.training.checkpoint import load_checkpoint, load_file, load_weights, save_checkpoint


def main(argv: list[str]) -> None:
    """Export a checkpoint, or carry it over in parts."""
    args = PARSER.parse_args(argv)
    if (args.checkpoint is None) != bool(args.join) or (args.out is None) != bool(args.parts):
        raise UserError("give CHECKPOINT, except with --join, and --out, except with --parts")
    if args.out and args.out.exists():
        raise UserError(f"{args.out} exists already; choose another --out")
    check_writable((args.parts or args.out).parent)
    if args.join:
        join_parts(args.join, args.out)
    elif args.parts:
        load_file(args.checkpoint)                           # which looks at its checksums
        split_file(args.checkpoint, args.parts)
    else:
        config, content = load_checkpoint(args.checkpoint)
        # Round all but the memory items, and tensors with numbers too large for float16.
        state = dict(content["model"])
        for name, value in state.items():
            if value.is_floating_point() and not name.endswith("items") and value.half().isfinite().all():
                state[name] = value.half()
        more = {} if args.half else {"calibration": calibrate_network(args, config, state)}
        save_checkpoint(args.out, config, state, **more, exported_from={
            key: content[key] for key in ("step", "provenance", "imported_from") if key in content})
        print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")


def calibrate_network(args: argparse.Namespace, config: Config, state: dict) -> dict:
    """Calibrate a network on training windows."""
    def measure_peak(_video: int, _frame: int, predicted: Tensor, target: Tensor) -> dict[str, float]:
        return {"peak_error": float(smoothed(error_map(predicted, target)).max())}

    device = pick_device(args.device)
    config = settle_precision(config, "score", device)
    set_kernels(config.score.precision)
    model = build_model(config).to(device)
    load_weights(model, state, args.checkpoint)
    videos = index_videos(find_split(args.dataset_path, config.data.dataset, "training"))
    with progress("score training windows", args.windows, "windows") as bar:
        normal, _ = sample_normal(model, videos, config, args.windows, device, bar, [measure_peak])
    signals = [video.signals for video in to_scores(normal, videos)]
    return calibrate(signals, paper_weights(config.score.psnr_weight, len(model.memories)))


def split_file(path: Path, folder: Path, size: int = 15 * 2**20) -> None:
    """Write a file's parts of `size` bytes, `<name>.part<number>of<count>.<checksum>`."""
    content = path.read_bytes()
    blocks = [content[start:start + size] for start in range(0, len(content), size)]
    for k, block in enumerate(blocks):
        with replacing(folder / f"{path.name}.part{k:03d}of{len(blocks)}.{zlib.crc32(block):08x}") as file:
            file.write(block)
    print(f"{len(blocks)} parts of {path} in {folder}")


def join_parts(folder: Path, out: Path) -> None:
    """Join the parts in a folder to the file `out`. UserError, and no file, for missing or damaged ones."""
    parts = sorted(folder.glob("*.part*"))
    if not parts or not parts[0].stem.endswith(f"of{len(parts)}"):
        raise UserError(f"{folder} holds {len(parts)} parts of a file, which are not all of it")
    with replacing(out) as file:
        for part in parts:
            block = part.read_bytes()
            if part.suffix != f".{zlib.crc32(block):08x}":
                raise UserError(f"{part} is damaged: its checksum is not the one in its name; copy it once more")
            file.write(block)
    print(f"{out}: joined; every part is as it was written")


if __name__ == "__main__":
    run_command(main)
