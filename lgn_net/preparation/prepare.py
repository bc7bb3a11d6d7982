"""From what publishers hand out to folders of frames that train.py and evaluate.py read.

    <out>/<dataset>/{training,testing}/frames/<video>/000.png     every frame, in order, from 0
    <out>/<dataset>/testing/masks/<video>/000.png                 0 normal, 255 abnormal, where there are masks
    <out>/<dataset>/testing/labels/<video>.npy                    uint8 (T,), 1 abnormal
    <out>/<dataset>/frame_labels_<dataset>.npy                    the same of all test videos in order
    <out>/<dataset>/prepared.json                                 from what, in which format, how many frames

The frames of a video appear when all of it is written; a video that is there is complete, and is not made again.
"""

import json
import os
import shutil
import threading
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lgn_net.data.clips import read_image, read_mask, to_8_bits
from lgn_net.data.footage import open_footage
from lgn_net.data.labels import load_labels
from lgn_net.data.videos import index_videos
from lgn_net.datasets import difference_from_published, facts_of
from lgn_net.datasets.common import SPLIT_FOLDERS, Benchmark, SourceVideo, load_array, load_mat, some
from lgn_net.errors import UserError
from lgn_net.files import locked, replacing, replacing_folder, to_json, write_atomic
from lgn_net.preparation.archives import unpack
from lgn_net.terminal import progress

# Lossless, or half the bytes at 52 dB (measured on Avenue), with colours at full resolution, unlike OpenCV's default.
ENCODING = {"png": [], "jpg": [cv2.IMWRITE_JPEG_QUALITY, 100,
                               cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]}
ONE_MAT = threading.Lock()     # a MATLAB file of masks takes some 300 MB of memory while it is read


def prepare(sources: list[Path], args: Namespace) -> dict[str, Any]:
    """Make `<out>/<name>` from archives or folders, and return the content of its prepared.json.

    `args` are those of scripts/prepare_data.py. UserError when a source is damaged or `<out>/<name>` was made from
    another one, OSError when the disk is full or another run makes it now. Complete videos stay in any case; the same
    command goes on from there.
    """
    root, archives, facts = args.out / args.name, args.out / f".{args.name}.unpacked", facts_of(args.dataset)
    # What tells one source from another: an archive's name and size, a folder's place.
    manifest: dict[str, Any] = {"dataset": args.dataset, "format": args.format, "source": [
        str(path.resolve()) if path.is_dir() else f"{path.name}, {path.stat().st_size:,} bytes" for path in sources],
        "depth_range": args.depth_range}
    args.out.mkdir(parents=True, exist_ok=True)
    with locked(args.out / f".{args.name}.lock", timeout=0):
        before = json.loads((root / "prepared.json").read_text()) if (root / "prepared.json").exists() else {}
        if root.exists() and any(before.get(key) != value for key, value in manifest.items()):
            raise UserError(f"{root} was made from {before.get('source', 'something else')} as {before.get('format')}; "
                            f"give that and --format (--depth_range, too, where it was given) again, or another --out, "
                            f"or delete {root} first")
        videos = [video._replace(depth=args.depth_range) for video in read_source(facts, sources, archives)]
        write_atomic(root / "prepared.json", to_json(manifest))
        write_videos([video for video in videos if not (root / video.split / "frames" / video.name).is_dir()], root,
                     args.format)
        shutil.rmtree(archives, ignore_errors=True)
        lengths = {split: {video.name: len(video.frames) for video in index_videos(root / split / "frames")}
                   for split in SPLIT_FOLDERS if (root / split / "frames").is_dir()}
        manifest |= {"videos": lengths, "labels": write_labels(root, args, lengths.get("testing", {}))}
        write_atomic(root / "prepared.json", to_json(manifest))
    for split in SPLIT_FOLDERS:
        if note := difference_from_published(args.dataset, split, list(lengths.get(split, {}).values())):
            warnings.warn(note)
    return manifest


def read_source(facts: Benchmark, sources: list[Path], archives: Path) -> list[SourceVideo]:
    """Unpack what is no folder, below `archives`, and list the videos. UserError when there are none, or two of a name.

    An archive stays unpacked until all videos are written.
    """
    folders = [source if source.is_dir() else archives / source.name for source in sources]
    for source, folder in zip(sources, folders):
        if not folder.exists():
            unpack(source, folder, facts.files)
    videos = list(facts.find(folders))
    double = [name for name, number in Counter(video[:2] for video in videos).items() if number > 1]
    if double or not videos:
        raise UserError(f"{len(videos)} videos in {', '.join(map(str, sources))}, of one name: {double}; expected "
                        f"files like {' and '.join(facts.files)}")
    return videos


def write_videos(videos: list[SourceVideo], root: Path, image_format: str) -> None:
    """Write the videos, on all cores.

    A video that fails does not keep the others from being written. One UserError is raised at the end.
    """
    failures, stop = [], threading.Event()
    # Decoders release Python's lock while they work.
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress(f"prepare {root.name}", len(videos), "videos") as bar:
        try:
            futures = {pool.submit(write_video, video, root / video.split, image_format, stop): video
                       for video in videos}
            for future in as_completed(futures):
                try:
                    future.result()
                except UserError as error:
                    failures.append(f"{futures[future].split}/{futures[future].name}: {error}")
                bar.update()
        finally:                                         # a full disk, or the user pressed Ctrl-C
            stop.set()
            pool.shutdown(cancel_futures=True)
    if failures:
        raise UserError(f"{'; '.join(failures)}; all other videos are complete and stay, so mend that and run the same "
                        f"command again")


def write_video(video: SourceVideo, home: Path, image_format: str, stop: threading.Event) -> None:
    """Write frames, masks and labels of a video into the split's folder `home`; the frames appear last, all at once.

    Give up when `stop` is set. UserError for a damaged frame, or a video that stops early or has another number of
    masks or labels.
    """
    count, digits = 0, 3
    with replacing_folder(home / "frames" / video.name) as part:
        for suffix, data, expected in encoded_frames(video, image_format):
            digits = max(3, len(str(expected - 1)))
            (part / f"{count:0{digits}d}{suffix}").write_bytes(data)
            count += 1
            if stop.is_set():
                raise KeyboardInterrupt

        # Masks, and labels, or else which masks have a pixel set.
        labels = video.labels
        if video.masks:
            with replacing_folder(home / "masks" / video.name) as folder:
                pixels = []
                for t, mask in enumerate(read_masks(video.masks)):
                    (folder / f"{t:0{digits}d}.png").write_bytes(encode(np.uint8(255) * mask, "png"))
                    pixels.append(mask.any())
                if len(pixels) != count:
                    raise UserError(f"{len(pixels)} masks, {count} frames; the masks are of another video")
            labels = np.array(pixels, np.uint8) if labels is None else labels
            if labels.any() and not any(pixels):
                warnings.warn(f"{video.split}/{video.name}: {labels.sum()} frames are abnormal by their labels, and no "
                              f"mask has a pixel")
        if labels is not None:
            if len(labels) != count:
                raise UserError(f"{len(labels)} labels, {count} frames; the labels are of another video")
            save_array(home / "labels" / f"{video.name}.npy", labels)


def encoded_frames(video: SourceVideo, image_format: str) -> Iterator[tuple[str, bytes, int]]:
    """Yield suffix and content of every frame's file, and how many there will be by the header (0: unknown).

    UserError for a damaged frame or a video that stops early.
    """
    suffix, count = f".{image_format}", 0
    if isinstance(video.frames, Path):
        if video.depth:
            raise UserError("it is a video file, and --depth_range is for images; leave it out")
        with open_footage(video.frames) as footage:
            expected = footage.length or 0
            for frame in footage.frames:
                yield suffix, encode(frame.picture, image_format), expected
                count += 1
        if not footage.whole:
            raise UserError(f"{video.frames} stops early, decoded {count} of {expected} frames; get it again")
        return
    file = suffix, b""
    for t, path in enumerate(video.frames):
        try:
            image, is_kept = read_image(path, any_depth=bool(video.depth)), False
            if video.depth:
                image = to_8_bits(image, *video.depth)
            else:                                          # nothing is gained from a JPEG in another format
                is_kept = path.suffix.lower() in (".jpg", ".jpeg", suffix)
            file = (path.suffix.lower(), path.read_bytes()) if is_kept else (suffix, encode(image, image_format))
        except UserError:
            if t != video.damaged:
                raise
            warnings.warn(f"{path} is damaged in the published archive; the frame before it is repeated")
        yield *file, len(video.frames)


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


def write_labels(root: Path, args: Namespace, lengths: dict[str, int]) -> str | None:
    """Write the labels of the test videos, (T) by name; return whose they are, None when there are none.

    The user's file comes first, then the labels that ship, then those that came with the source.
    """
    if not lengths:
        return None
    own = {name: root / "testing" / "labels" / f"{name}.npy" for name in lengths}
    truths = facts_of(args.dataset).truths
    source = args.label_source if args.label_source != "auto" else next(iter(truths), "official")
    try:
        labels = load_labels(args.labels or truths[source], lengths)
    except (UserError, KeyError) as error:                 # not the published videos, or no labels of them
        if args.labels or args.label_source == "ano_pred":
            raise
        if lost := [name for name, path in own.items() if not path.exists()]:
            warnings.warn(f"no labels for testing {some(lost)}; evaluate.py will need --labels FILE")
            return None
        if source == "ano_pred":
            warnings.warn(f"{error}; the source's own labels are used")
        labels, source = {name: np.load(path) for name, path in own.items()}, "official"
    for name, array in labels.items():
        save_array(own[name], array)
    save_array(root / f"frame_labels_{args.name}.npy", np.concatenate(list(labels.values())))
    return str(args.labels or ("your own" if args.dataset == "custom" else source))


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a NumPy file completely or not at all."""
    with replacing(path) as file:
        np.save(file, array)
