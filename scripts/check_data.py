"""Find what is wrong with a data set before hours are spent on it.

    python scripts/check_data.py DATA --dataset ped2

Decodes every frame, and prints notes, which do no harm or not surely, and problems, which spoil training or results.
Ends with OK and status 0, or with the number of problems and status 1.
"""

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from lgn_net.data.clips import FEW_LEVELS, MAP_DEPTH, grey_levels, read_image
from lgn_net.data.labels import find_labels, load_labels
from lgn_net.data.videos import find_split, index_videos
from lgn_net.datasets import BENCHMARKS, difference_from_published, known_lengths
from lgn_net.datasets.common import SPLIT_FOLDERS, some
from lgn_net.errors import UserError
from lgn_net.terminal import progress, run_command


class Frame(NamedTuple):
    """What is known of an image file; only its fault when it cannot be read."""

    fault: str
    size: str = ""                       # "360 x 240"
    format: str = ""                     # "JPEG 95", with the quality; "PNG"
    levels: int = 256                    # how many grey levels occur


def main(argv: list[str]) -> int:
    """Check a data set, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="folder that holds the data set's folder, or that folder itself")
    parser.add_argument("--dataset", required=True, help=f"{', '.join(BENCHMARKS)}, toy, or your own")
    parser.add_argument("--labels", metavar="FILE", help="label file; default: as evaluate.py finds it")
    args = parser.parse_args(argv)
    problems, notes, seen = [], [], {}
    for split in SPLIT_FOLDERS:
        try:
            folder = find_split(args.data, args.dataset, split)
            videos = index_videos(folder)
        except UserError as error:
            problems.append(str(error))
            continue

        # Each video by itself, and against the published numbers. The frame in its middle stands for the video.
        lengths, published = {video.name: len(video.frames) for video in videos}, known_lengths(args.dataset, split)
        middles = []
        with ThreadPoolExecutor(os.cpu_count()) as pool, progress("check", sum(lengths.values()), "frames") as bar:
            for name, paths in videos:
                frames = list(pool.map(look, paths))
                bar.update(len(paths))
                middles.append(frames[len(paths) // 2])
                problems += [f"{split}/{name}: {fault}" for fault in faults(frames)]
                if published.get(name, len(paths)) != len(paths):
                    problems.append(f"{split}/{name}: {len(paths)} of {published[name]} frames")
        problems += filter(None, [difference_from_published(args.dataset, split, list(lengths.values()))])
        seen[split] = sorted({frame.size for frame in middles}), sorted({frame.format for frame in middles})
        print(f"{split}: {len(videos)} videos, {sum(lengths.values())} frames, {', '.join(map(some, seen[split]))}")

    # To a model trained on sharper or larger frames, compression is an anomaly.
    if len(seen) == 2:
        for trained, tested, found in zip(seen["training"], seen["testing"], (problems, notes)):
            if set(tested) - set(trained):
                found.append(f"testing frames are {some(tested)}, training frames {some(trained)}; make them alike")
    if "testing" in seen:
        try:
            file = args.labels or find_labels(args.data, args.dataset, folder)
            labels = np.concatenate(list(load_labels(file, lengths).values()))
            print(f"labels: {file}, {labels.sum()} of {len(labels)} frames abnormal")
            if labels.min() == labels.max():
                problems.append("labels: all frames have the same one, and an AUC needs both")
        except UserError as error:
            problems.append(str(error))
    for text in [*(f"note: {note}" for note in notes), *(f"problem: {problem}" for problem in problems)]:
        print(text)
    print(f"{len(problems)} problems; to make videos again, delete their folders and run scripts/prepare_data.py"
          if problems else "OK")
    return bool(problems)


def look(path: str) -> Frame:
    """Decode an image file; of a JPEG, find the quality by the quantisation tables in its header, too."""
    try:
        image = read_image(path)
    except UserError as error:
        return Frame(str(error))
    with Image.open(path) as file:
        form, tables = str(file.format), getattr(file, "quantization", None)
    if tables:
        scale = sum(tables[0]) / 3688                            # the 64 quantisation steps of luma at quality 50
        form += f" {100.4 - 50 * scale if scale < 1 else 50 / scale:.0f}"
    return Frame("", f"{image.shape[1]} x {image.shape[0]}", form, grey_levels(image))


def faults(frames: list[Frame]) -> Iterator[str]:
    """Yield what is wrong with a video, as sentences."""
    if unread := [frame.fault for frame in frames if frame.fault]:
        yield some(unread)
    sizes = Counter(frame.size for frame in frames if frame.size)
    if len(sizes) > 1:
        yield f"frames of several sizes: {some([f'{count} of {size}' for size, count in sizes.items()])}"
    if (levels := max(frame.levels for frame in frames)) < FEW_LEVELS:
        yield f"{levels} of 256 grey levels are used, as of 12 bits in 16-bit files; {MAP_DEPTH}"


if __name__ == "__main__":
    run_command(main)
