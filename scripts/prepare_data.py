"""Make the folders of frames that train.py and evaluate.py read, from what the publishers of a data set hand out.

    python scripts/prepare_data.py ped2 --download --out DATA
    python scripts/prepare_data.py avenue --source Avenue_Dataset.zip ground_truth_demo.zip --out DATA
    python scripts/prepare_data.py shanghaitech --source shanghaitech.tar.gz --out DATA --format jpg
    python scripts/prepare_data.py custom --source VIDEOS --labels labels.csv --out DATA --name mine

docs/data.md says where to get each data set and what comes out. A video appears when all of it is written, and is not
made again: an interrupted run goes on when it is started again.
"""

import argparse
from pathlib import Path

from lgn_net.cli import Parser, show_help
from lgn_net.datasets import BENCHMARKS, VIDEO_SUFFIXES, canonical_name, difference_from_published, facts_of

PARSER = Parser(__doc__)
add = PARSER.add_argument
add("dataset", type=canonical_name, choices=[*BENCHMARKS, "custom"],
    help="which; custom: video files or folders of images of your own")
add("--source", type=Path, nargs="+", default=[], metavar="PATH",
    help="the published archives, or folders; custom: one with the folders training and testing")
add("--download", nargs="?", const="", metavar="ADDRESS",
    help="fetch the archives into OUT/archives, also from a mirror's ADDRESS")
add("--out", type=Path, required=True, help="dataset folder; <dataset>/ is made in it")
add("--format", choices=("png", "jpg"), default="png", help="png: lossless; jpg: quality 100 and half the size")
add("--label_source", choices=("official", "ano_pred"),
    help="of Avenue: the official masks, or the re-annotation that published numbers use (default)")
add("--labels", type=Path, help="custom: label file, such as a CSV of video,start,end")
add("--name", help="custom: name of the data set (default: custom)")
add("--depth_range", type=float, nargs=2, metavar=("LOW", "HIGH"),
    help="custom, images of 16 bits or floats: the pixels that become 0 and 255, as 0 4095")
show_help(__name__, PARSER)     # before slow imports

import os
import re
import shlex
import shutil
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import cv2
import numpy as np

from lgn_net.data.archives import download, unpack
from lgn_net.data.clips import MAP_DEPTH, read_image, read_mask
from lgn_net.data.footage import open_footage
from lgn_net.data.labels import load_labels
from lgn_net.data.videos import index_videos
from lgn_net.datasets.common import SPLIT_FOLDERS, SourceVideo, load_array, load_mat, some
from lgn_net.errors import UserError
from lgn_net.files import ROOT, locked, read_json, replacing, replacing_folder, to_json, write_atomic
from lgn_net.terminal import progress, run_command

# Lossless, or half the bytes at 52 dB (measured on Avenue), with colours at full resolution, unlike OpenCV's default.
ENCODING = {"png": [], "jpg": [cv2.IMWRITE_JPEG_QUALITY, 100,
                               cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]}
ONE_MAT = threading.Lock()     # a MATLAB file of masks takes some 300 MB of memory while it is read


def main(argv: list[str]) -> None:
    """Prepare a data set and print what is there and what to type next."""
    # The command line, what does not go together, and the sources.
    args = PARSER.parse_args(argv)
    benchmark = facts_of(args.dataset)
    if args.dataset != "custom" and (args.labels or args.name or args.depth_range):
        raise UserError("--labels, --name and --depth_range are for custom; a benchmark has its own")
    if args.label_source not in (None, *benchmark.truths):
        raise UserError(f"no {args.label_source} labels of {args.dataset} ship with this project")
    for path in args.source:
        if args.dataset == "custom" and path.is_file() and path.suffix[1:].lower() in VIDEO_SUFFIXES.split("|"):
            raise UserError(f"{path} is a video; --source wants the folder that holds training/ and testing/")
    args.name = args.name or args.dataset
    if not re.fullmatch("[A-Za-z0-9_][A-Za-z0-9._-]*", args.name):
        raise UserError(f"--name {args.name!r}: give letters, digits, '.', '_' and '-', not '.' or '-' first")
    if args.download is not None and benchmark.archives:
        sources = [download(*archive, args.out / "archives", args.download) for archive in benchmark.archives.items()]
    elif args.source and args.download is None:
        sources = args.source
    else:
        raise UserError(f"give --source ARCHIVE_OR_FOLDER, or --download where that is possible: {benchmark.page}")
    manifest = prepare(sources, args)

    # What is there, and what to type next.
    print(f"{args.out / args.name} is complete")
    for split, lengths in manifest["videos"].items():
        print(f"{split + ':':<10}{len(lengths)} videos, {sum(lengths.values())} frames")
    print(f"labels:   {manifest['labels'] or 'none'}")
    own, where = f"configs/{args.dataset}.yaml", shlex.quote(str(args.out))
    configs = {"": own} if (ROOT / own).exists() else {
        " on a CPU": f"configs/ped2_small.yaml --data.dataset {args.name}",
        " on a GPU": f"configs/ped2.yaml --data.dataset {args.name}"}
    print(f"check it: python scripts/check_data.py {where} --dataset {args.name}")
    for place, config in configs.items():
        print(f"train{place}: python train.py --config {config} --dataset_path {where} --exp_dir runs/{args.name}")


def prepare(sources: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Make the data set from archives or folders, and return the content of its prepared.json.

    UserError when a source is damaged, holds no videos, or is another one than before. Complete videos stay.
    """
    root, archives, facts = args.out / args.name, args.out / f".{args.name}.unpacked", facts_of(args.dataset)
    # What tells one source from another: an archive's name and size, a folder's place.
    manifest: dict[str, Any] = {"dataset": args.dataset, "format": args.format, "source": [
        str(path.resolve()) if path.is_dir() else f"{path.name}, {path.stat().st_size:,} bytes" for path in sources],
        "depth_range": args.depth_range}
    args.out.mkdir(parents=True, exist_ok=True)
    with locked(args.out / f".{args.name}.lock", timeout=0):
        before = read_json(root / "prepared.json")
        if any(root.glob("[!.]*")) and any(before.get(key) != value for key, value in manifest.items()):
            raise UserError(f"{root} was made from another source, format or --depth_range (its prepared.json names "
                            f"them); give these again, or another --out, or delete {root} first")

        # Archives stay unpacked until all videos are written.
        folders = [source if source.is_dir() else archives / source.name for source in sources]
        for source, folder in zip(sources, folders):
            if not folder.exists():
                unpack(source, folder, facts.files)
        videos = list(facts.find(folders))
        if not videos:
            raise UserError(f"{', '.join(map(str, sources))}: no videos; expected files like "
                            f"{' and '.join(facts.files)}")
        names = [f"{video.split}/{video.name}" for video in videos]
        if double := {name for name in names if names.count(name) > 1}:
            raise UserError(f"two videos are called {some(sorted(double))}; rename one of them")
        write_atomic(root / "prepared.json", to_json(manifest))

        # Write the videos that are not there, the bad ones aside. Decoders release Python's lock while they work.
        bad: list[str] = []
        missing = [video for video in videos if not (root / video.split / "frames" / video.name).is_dir()]
        with ThreadPoolExecutor(os.cpu_count()) as pool, progress("prepare", len(missing), "videos") as bar:
            jobs = [pool.submit(write_video, video, root / video.split, args.format, args.depth_range)
                    for video in missing]
            try:
                for job in as_completed(jobs):
                    try:
                        job.result()
                    except UserError as error:
                        bad.append(str(error))
                    bar.update()
            finally:                                     # a full disk, or the user pressed Ctrl-C
                pool.shutdown(cancel_futures=True)
        if bad:
            raise UserError(f"{some(bad)}; all other videos are complete and stay, so mend that and run the same "
                            f"command again")
        shutil.rmtree(archives, ignore_errors=True)
        lengths = {split: {video.name: len(video.frames) for video in index_videos(root / split / "frames")}
                   for split in SPLIT_FOLDERS if (root / split / "frames").is_dir()}
        manifest |= {"videos": lengths, "labels": write_labels(root, args, lengths.get("testing", {}))}
        write_atomic(root / "prepared.json", to_json(manifest))
    for split in SPLIT_FOLDERS:
        if note := difference_from_published(args.dataset, split, list(lengths.get(split, {}).values())):
            warnings.warn(note)
    return manifest


def write_video(video: SourceVideo, home: Path, image_format: str, depth: tuple[float, float] | None = None) -> None:
    """Write frames, masks and labels of a video into the split's folder `home`; the frames appear last, all at once.

    Pixels of the range `depth` become 0 to 255. UserError for damaged frames, and other counts of masks or labels.
    """
    with replacing_folder(home / "frames" / video.name) as part:
        for count, (suffix, data, expected) in enumerate(encoded_frames(video.frames, image_format, depth), 1):
            digits = max(3, len(str(expected - 1)))
            (part / f"{count - 1:0{digits}d}{suffix}").write_bytes(data)

        # Masks, and labels, or else which masks have a pixel set.
        labels, masked, name = video.labels, [], f"{video.split}/{video.name}"
        if video.masks:
            with replacing_folder(home / "masks" / video.name) as folder:
                for t, mask in enumerate(read_masks(video.masks)):
                    (folder / f"{t:0{digits}d}.png").write_bytes(encode(np.uint8(255) * mask, "png"))
                    masked.append(mask.any())
            labels = np.array(masked, np.uint8) if labels is None else labels
            if labels.any() and not any(masked):
                warnings.warn(f"{name}: {labels.sum()} frames are abnormal by their labels, and no mask has a pixel")
        if labels is not None:
            if len(labels) != count or video.masks and len(masked) != count:
                raise UserError(f"{name}: {len(masked)} masks, {len(labels)} labels, {count} frames do not fit")
            with replacing(home / "labels" / f"{video.name}.npy") as file:
                np.save(file, labels)


def encoded_frames(frames: Path | tuple[Path, ...], image_format: str,
                   depth: tuple[float, float] | None) -> Iterator[tuple[str, bytes, int]]:
    """Yield suffix and content of every frame's file, and how many there will be by the header (0: unknown)."""
    suffix, count = f".{image_format}", 0
    if isinstance(frames, Path):
        with open_footage(frames) as footage:
            for frame in footage.frames:
                yield suffix, encode(frame.picture, image_format), footage.length or 0
                count += 1
        if not footage.whole:
            raise UserError(f"{frames} stops early, decoded {count} of {footage.length} frames; get it again")
        return
    for path in frames:
        image = read_image(path, any_depth=bool(depth))
        if depth:
            low, high = depth
            mapped = 255 * np.clip((image.astype(float) - low) / (high - low), 0, 1)
            yield suffix, encode(np.nan_to_num(mapped).round().astype(np.uint8), image_format), len(frames)
        elif path.suffix.lower() in (".jpg", ".jpeg", suffix):      # nothing is gained from another format
            yield path.suffix.lower(), path.read_bytes(), len(frames)
        elif image.dtype != np.uint8 and suffix == ".jpg":
            raise UserError(f"{path} has 16 bits, a JPEG 8; give --format png, or {MAP_DEPTH}")
        else:
            yield suffix, encode(image, image_format), len(frames)


def encode(image: np.ndarray, image_format: str) -> bytes:
    """Encode an image (H, W) or (H, W, C) as the content of a file."""
    return cv2.imencode(f".{image_format}", image, ENCODING[image_format])[1].tobytes()


def read_masks(masks: Path | tuple[Path, ...]) -> Iterator[np.ndarray]:
    """Yield the masks (H, W) of one video, bool, frame after frame."""
    if isinstance(masks, tuple):
        yield from map(read_mask, masks)
    elif masks.suffix == ".npy":
        yield from (mask > 0 for mask in load_array(masks))
    else:
        with ONE_MAT:
            yield from (cell > 0 for cell in load_mat(masks, "volLabel"))


def write_labels(root: Path, args: argparse.Namespace, lengths: dict[str, int]) -> str | None:
    """Write the labels of the test videos, (T) by name: the user's, ours, or the source's. Return whose they are."""
    own = {name: root / "testing" / "labels" / f"{name}.npy" for name in lengths}
    truths = facts_of(args.dataset).truths
    path = args.labels or truths.get(args.label_source) or next(iter(truths.values()), None)
    labels, whose = {}, "the source's own"
    try:
        if path and lengths:
            labels, whose = load_labels(path, lengths), path.stem
    except UserError as error:                                                 # these are not the published videos
        if args.labels or args.label_source == "ano_pred":
            raise
        warnings.warn(f"{error}; the source's own labels are used")
    if not labels:
        if lost := [name for name, file in own.items() if not file.exists()]:
            warnings.warn(f"no labels for testing {some(lost)}; evaluate.py will need --labels FILE")
        if lost or not lengths:
            return None
        labels = {name: np.array(load_array(file)) for name, file in own.items()}
    every = np.concatenate(list(labels.values()))
    files = {own[name]: array for name, array in labels.items()} | {root / f"frame_labels_{args.name}.npy": every}
    for path, array in files.items():
        with replacing(path) as file:
            np.save(file, array)
    return f"{whose}, {every.sum()} frames abnormal"


if __name__ == "__main__":
    run_command(main)
