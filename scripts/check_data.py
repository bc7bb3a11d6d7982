"""Find what is wrong with a data set before hours are spent on it.

    python scripts/check_data.py DATA --dataset ped2                # headers and ends of the files: seconds
    python scripts/check_data.py DATA --dataset ped2 --full         # and every pixel
    python scripts/check_data.py --dataset avenue --compare-labels  # the two truths of Avenue

Lists the videos, then notes, which do no harm or not surely, and problems, which spoil training or results. Ends with
OK and status 0, or with the number of problems and status 1.
"""

import argparse

from lgn_net.cli import Parser, show_help
from lgn_net.datasets import BENCHMARKS, canonical_name, difference_from_published, facts_of

PARSER = Parser(__doc__)
add = PARSER.add_argument
add("data", metavar="DATA", nargs="?", default=".",
    help="folder that holds the data set's folder, or that folder itself (default: this folder)")
add("--dataset", required=True, help=f"{', '.join(BENCHMARKS)}, toy, or your own")
add("--labels", metavar="FILE", help="label file; default: as evaluate.py finds it")
add("--full", action="store_true", help="decode every frame")
add("--json", action="store_true", help="print the same as JSON")
add("--compare-labels", action="store_true", help="only show where Avenue's two label sources differ")
show_help(__name__, PARSER)     # before slow imports

import io
import os
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lgn_net.data.clips import FEW_LEVELS, MAP_DEPTH, grey_levels, is_truncated, read_image
from lgn_net.data.labels import find_labels, load_labels, read_ranges
from lgn_net.data.videos import find_split, index_videos
from lgn_net.datasets.common import SPLIT_FOLDERS, some
from lgn_net.errors import UserError
from lgn_net.files import to_json
from lgn_net.report.tables import markdown
from lgn_net.terminal import progress, run_command


class Frame(NamedTuple):
    """What is known of an image file; only its fault when it cannot be read."""

    fault: str
    size: str = ""                       # "360 x 240 RGB"
    format: str = ""                     # "JPEG 95", with the quality; "PNG"
    content: int = -1                    # checksum of the file
    levels: int = 0                      # how many of 256 grey levels occur; 0: not decoded


def main(argv: list[str]) -> int:
    """Check a data set, or compare the labels of Avenue; print what was found, and return the exit status."""
    args = PARSER.parse_args(argv)
    content = compare() if args.compare_labels else examine(args)
    problems = content.get("problem", [])
    if args.json:
        print(to_json(content), end="")
    else:
        for key, value in content.items():
            print(f"{key}\n{table(value)}\n\n" if value and key in SPLIT_FOLDERS else
                  "".join(f"{key}: {text}\n" for text in value), end="")
        if not args.compare_labels:
            print(f"{len(problems)} problems" if problems else "OK")
    return bool(problems)


def examine(args: argparse.Namespace) -> dict[str, Any]:
    """Make all checks; return a table of each split, whose labels they are, and what was found, as sentences."""
    name = canonical_name(args.dataset)
    prepare = (f"python scripts/prepare_data.py {name if name in BENCHMARKS else f'custom --name {name}'} "
               f"--source SOURCE --out DATA")
    content: dict[str, Any] = {key: [] for key in (*SPLIT_FOLDERS, "labels", "note", "problem")}
    problems = content["problem"]
    for split in SPLIT_FOLDERS:
        try:
            folder = find_split(args.data, args.dataset, split)
            videos = index_videos(folder)
        except UserError as error:
            problems.append(str(error))
            continue

        # Each video by itself, and against the published numbers. The frame in its middle stands for the video.
        lengths = {video.name: len(video.frames) for video in videos}
        published = facts_of(args.dataset).lengths.get(split, {})
        with ThreadPoolExecutor(os.cpu_count()) as pool, progress("check", sum(lengths.values()), "frames") as bar:
            for video, paths in videos:
                frames = list(pool.map(look, paths, [args.full or t == len(paths) // 2 for t in range(len(paths))]))
                bar.update(len(paths))
                again = f"to make it again: rm -r {shlex.quote(str(folder / video))} && {prepare}"
                problems += [f"{split}/{video}: {fault}; {again}"
                             for fault in faults(paths, frames, published.get(video, len(paths)))]
                middle = frames[len(paths) // 2]
                content[split].append(
                    {"video": video, "size": middle.size, "format": middle.format, "frames": len(paths)})
        if difference := difference_from_published(args.dataset, split, list(lengths.values())):
            problems.append(f"{difference}; run {prepare}")

    # To a model trained on sharper or larger frames, compression is an anomaly.
    for key, kind in ("size", "problem"), ("format", "note"):
        trained, tested = (sorted({row[key] for row in content[split]}) for split in SPLIT_FOLDERS)
        if trained and set(tested) - set(trained):
            content[kind].append(f"testing frames are {some(tested)}, training frames {some(trained)}; make both from "
                                 f"one source: {prepare}")
    if content["testing"]:
        try:
            file = args.labels or find_labels(args.data, args.dataset, folder)
            labels = load_labels(file, lengths)
            content["labels"] = [str(file)]
            for row in content["testing"]:
                row["abnormal"] = int(labels[row["video"]].sum())
            if len(np.unique(np.concatenate(list(labels.values())))) == 1:
                problems.append("labels: all frames have the same one, and an AUC needs both; give --labels FILE")
        except UserError as error:
            problems.append(str(error))
    return content


def look(path: str, decode: bool) -> Frame:
    """Read the header and the end of an image file, and its pixels if `decode`."""
    data = Path(path).read_bytes()
    size, form, tables, levels = "", "", {}, 0
    try:
        with Image.open(io.BytesIO(data)) as image:
            size, form = f"{image.width} x {image.height} {image.mode}", str(image.format)
            tables = getattr(image, "quantization", {})
    except Exception:                                            # Pillow fails in many ways; OpenCV has the last word
        decode = True
    try:
        if decode or is_truncated(data):
            levels = grey_levels(read_image(path))
    except UserError as error:
        return Frame(str(error))
    if tables:
        scale = sum(tables[0]) / 3688                            # the 64 quantisation steps of luma at quality 50
        form += f" {100.4 - 50 * scale if scale < 1 else 50 / scale:.0f}"
    return Frame("", size, form, zlib.crc32(data), levels)


def faults(paths: tuple[str, ...], frames: list[Frame], published: int) -> Iterator[str]:
    """Yield what is wrong with a video, which was published with so many frames, as sentences."""
    if len(paths) != published:
        yield f"{len(paths)} of {published} frames"
    if unread := [frame.fault for frame in frames if frame.fault]:
        yield some(unread)

    # The number that counts the frames rises by one step. Where several numbers change, they are a time of day.
    names = [Path(path).name for path in paths]
    numbers = zip(*([int(digits) for digits in re.findall(r"\d+", Path(name).stem)] for name in names))
    counting = [column for column in numbers if len(set(column)) > 1]
    steps = np.diff(counting[0]).tolist() if len(counting) == 1 else []
    if len(set(steps)) > 1:
        usual = Counter(steps).most_common(1)[0][0]
        odd = [f"{names[t]} before {names[t + 1]}" for t, step in enumerate(steps) if step != usual]
        yield f"frames seem lost or out of order: {some(odd)}"

    # A few repeats occur in still scenes, many come from a wrong frame rate.
    sizes = Counter(frame.size for frame in frames if frame.size)
    if len(sizes) > 1:
        yield f"frames of several sizes: {some([f'{count} of {size}' for size, count in sizes.items()])}"
    same = [name for name, a, b in zip(names[1:], frames, frames[1:]) if a.content == b.content != -1]
    if len(same) > len(frames) / 5:
        yield f"{len(same)} of {len(frames)} frames repeat the one before: {some(same)}"
    if 0 < (levels := max(frame.levels for frame in frames)) < FEW_LEVELS:
        yield f"{levels} of 256 grey levels are used, as of 12 bits in 16-bit files; {MAP_DEPTH}"


def compare() -> dict[str, Any]:
    """Count by video where the two label sources of Avenue differ."""
    (a, first), (b, second) = ((source, read_ranges(path)) for source, path in BENCHMARKS["avenue"].truths.items())
    return {"testing": [{"video": name, "frames": len(x), a: int(x.sum()), b: int(second[name].sum()),
                         "different": int((x != second[name]).sum())} for name, x in first.items()]}


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out rows of equal keys as Markdown, with the sums of the numbers below."""
    words = [key for key, value in rows[0].items() if isinstance(value, str)]
    sums = {key: "" if key in words else sum(row[key] for row in rows) for key in rows[0]} | {"video": "all"}
    return markdown(list(sums), [list(map(str, row.values())) for row in [*rows, sums]], left=len(words))


if __name__ == "__main__":
    run_command(main)
