"""Make the folders of frames that train.py and evaluate.py read, from what the publishers of a data set hand out.

    python scripts/prepare_data.py ped2 --download --out DATA
    python scripts/prepare_data.py avenue --source Avenue_Dataset.zip ground_truth_demo.zip --out DATA
    python scripts/prepare_data.py shanghaitech --source shanghaitech.tar.gz --out DATA --format jpg
    python scripts/prepare_data.py custom --source VIDEOS --labels labels.csv --out DATA --name mine

docs/data.md says where to get each data set and what comes out. An interrupted run goes on when it is started again.
"""

import argparse
import re
import shlex
from pathlib import Path

import numpy as np

from lgn_net.datasets import BENCHMARKS, canonical_name, facts_of
from lgn_net.errors import UserError
from lgn_net.files import ROOT
from lgn_net.preparation.archives import download
from lgn_net.preparation.prepare import prepare
from lgn_net.terminal import run_command


def main(argv: list[str]) -> None:
    """Prepare a data set and print what is there and what to type next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=canonical_name, choices=[*BENCHMARKS, "custom"],
                        help="which; custom: video files or folders of images of your own")
    parser.add_argument("--source", type=Path, nargs="+", default=[], metavar="PATH",
                        help="the published archives, or folders; custom: one with the folders training and testing")
    parser.add_argument("--download", nargs="?", const="", metavar="ADDRESS",
                        help="fetch the archives into --source (default: OUT/archives), also from a mirror's ADDRESS")
    parser.add_argument("--out", type=Path, required=True, help="dataset folder; <dataset>/ is made in it")
    parser.add_argument("--format", choices=("png", "jpg"), default="png",
                        help="png is lossless (default), jpg has quality 100 and half the size")
    parser.add_argument("--label_source", choices=("auto", "official", "ano_pred"), default="auto",
                        help="of Avenue: the official masks, or the re-annotation that published numbers use (auto)")
    parser.add_argument("--labels", type=Path, help="custom: label file, such as a CSV of video,start,end")
    parser.add_argument("--name", help="custom: name of the data set (default: custom)")
    parser.add_argument("--depth_range", type=float, nargs=2, metavar=("LOW", "HIGH"),
                        help="custom, images of 16 bits or floats: the pixels that become 0 and 255, as 0 4095")
    args = parser.parse_args(argv)
    benchmark = facts_of(args.dataset)
    if args.dataset != "custom" and (args.labels or args.name or args.depth_range):
        raise UserError("--labels, --name and --depth_range are for custom; a benchmark has its own")
    if args.depth_range and not args.depth_range[0] < args.depth_range[1]:
        raise UserError(f"--depth_range {args.depth_range}: give the lower pixel first, as 0 4095")
    if args.label_source not in ("auto", "official", *benchmark.truths):
        raise UserError(f"no {args.label_source} labels of {args.dataset} ship with this project; leave it at auto")
    args.name = args.name or args.dataset
    if not re.fullmatch("[A-Za-z0-9_][A-Za-z0-9._-]*", args.name):
        raise UserError(f"--name {args.name!r}: give letters, digits, '.', '_' and '-', not '.' or '-' first")
    if args.download is not None and benchmark.archives:
        folder = args.source[0] if args.source else args.out / "archives"
        sources = [download(archive, folder, args.download) for archive in benchmark.archives]
    elif args.source and args.download is None:
        # A folder of archives stands for the archives.
        names = [Path(archive.url).name for archive in benchmark.archives]
        sources = [file for path in args.source
                   for file in [path / name for name in names if (path / name).is_file()] or [path]]
    else:
        raise UserError(f"give --source ARCHIVE_OR_FOLDER, or --download where a command can fetch {args.dataset} "
                        f"({benchmark.page or 'your own'})")
    manifest = prepare(sources, args)

    # What is there, and what to type next.
    print(f"{args.out / args.name} is complete")
    for split, lengths in manifest["videos"].items():
        print(f"{split + ':':<10}{len(lengths)} videos, {sum(lengths.values())} frames")
    if manifest["labels"]:
        labels = np.load(args.out / args.name / f"frame_labels_{args.name}.npy")
        print(f"labels:   {manifest['labels']}, {labels.sum()} frames abnormal")
    config, where = f"configs/{args.dataset}.yaml", shlex.quote(str(args.out))
    knobs = config if (ROOT / config).exists() else f"configs/ped2.yaml --data.dataset {args.name}"
    print(f"check it:  python scripts/check_data.py {where} --dataset {args.name}\n"
          f"train:     python train.py --config {knobs} --dataset_path {where} --exp_dir runs/{args.name}")


if __name__ == "__main__":
    run_command(main)
