"""Find what is wrong with a data set before hours are spent on it.

    python scripts/check_data.py DATA --dataset ped2                # headers and ends of the files: seconds
    python scripts/check_data.py DATA --dataset ped2 --full         # and every pixel
    python scripts/check_data.py --dataset avenue --compare-labels  # the two truths of Avenue
    python scripts/check_data.py DATA --dataset mine --compare-labels A.csv B.npy

Lists the videos, then notes, which do no harm or not surely, and problems, which spoil training or results. Ends with
OK and status 0, or with the number of problems and status 1.
"""

import argparse
import io
import os
import re
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
from lgn_net.datasets import BENCHMARKS, difference_from_published, facts_of, known_lengths
from lgn_net.datasets.common import SPLIT_FOLDERS, some
from lgn_net.errors import UserError
from lgn_net.files import to_json
from lgn_net.report.tables import markdown
from lgn_net.terminal import progress, run_command

LUMA_STEPS = 3688            # sum of JPEG's 64 quantisation steps of luma at quality 50


class Frame(NamedTuple):
    """What is known of an image file; only its name, bytes and fault when it cannot be read."""

    name: str
    bytes: int
    fault: str = ""
    size: str = ""                       # "360 x 240"
    format: str = ""                     # "JPEG 95", with the quality; "PNG"
    content: int | None = None           # checksum of the file
    levels: int | None = None            # how many of the 256 grey levels occur; None: not decoded


def main(argv: list[str]) -> int:
    """Check a data set, or compare two label files. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", metavar="DATA", nargs="?", default=".",
        help="folder that holds the data set's folder, or that folder itself (default: this folder)")
    add("--dataset", required=True, help=f"{', '.join(BENCHMARKS)}, toy, or your own")
    add("--labels", metavar="FILE", help="label file; default: as evaluate.py finds it")
    add("--full", action="store_true", help="decode every frame")
    add("--json", action="store_true", help="print the same as JSON")
    add("--compare-labels", nargs="*", metavar="FILE",
        help="only show where two label files, or official and ano_pred, differ; alone: Avenue's two")
    args = parser.parse_args(argv)
    content = examine(args) if args.compare_labels is None else compare(args.data, args.dataset, args.compare_labels)
    problems = content.get("problem", [])
    if args.json:
        print(to_json(content), end="")
        return bool(problems)
    for key, value in content.items():
        if key in ("note", "problem"):
            print("".join(f"{key}: {text}\n" for text in value), end="")
        else:
            print(f"{key}: {value}" if isinstance(value, str) else f"\n{key}\n{table(value)}\n")
    if "problem" in content:
        print(f"{len(problems)} problems; to make videos again, delete their folders and run scripts/prepare_data.py"
              if problems else "OK")
    return bool(problems)


def examine(args: argparse.Namespace) -> dict[str, Any]:
    """Make all checks; return a table of each split, whose labels they are, and what was found, as sentences."""
    content: dict[str, Any] = {}
    problems, notes, lengths = [], [], {}
    for split in SPLIT_FOLDERS:
        try:
            folder = find_split(args.data, args.dataset, split)
            videos = index_videos(folder)
        except UserError as error:
            problems.append(str(error))
            continue

        # Each video by itself, and against the published numbers.
        lengths, published = {video.name: len(video.frames) for video in videos}, known_lengths(args.dataset, split)
        content[split] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool, progress("check", sum(lengths.values()), "frames") as bar:
            for name, paths in videos:
                frames = list(pool.map(look, paths, [args.full or t == len(paths) // 2 for t in range(len(paths))]))
                bar.update(len(paths))
                problems += [f"{split}/{name}: {fault}" for fault in faults(frames)]
                if published.get(name, len(paths)) != len(paths):
                    problems.append(f"{split}/{name}: {len(paths)} of {published[name]} frames")
                middle = frames[len(paths) // 2]
                content[split].append({
                    "video": name, "size": middle.size, "format": middle.format, "frames": len(paths),
                    "published": published.get(name), "MB": sum(frame.bytes for frame in frames) / 1e6})
        problems += filter(None, [difference_from_published(args.dataset, split, list(lengths.values()))])

    # To a model trained on sharper or larger frames, compression is an anomaly.
    for key, found in ("size", problems), ("format", notes):
        trained, tested = ({row[key] for row in content.get(split, [])} for split in SPLIT_FOLDERS)
        if trained and tested - trained:
            found.append(f"testing frames are {some(sorted(tested))}, training frames {some(sorted(trained))}; make "
                         f"both in one way")
    if "testing" in content:
        try:
            file = args.labels or find_labels(args.data, args.dataset, folder)
            labels = load_labels(file, lengths)
            same = [name for name, path in facts_of(args.dataset).truths.items() if all(
                np.array_equal(read_ranges(path).get(video, ()), y) for video, y in labels.items())]
            content["labels"] = f"{file} ({' and '.join(same) or 'your own'})"
            for row in content["testing"]:
                row["abnormal"] = int(labels[row["video"]].sum())
            if sum(row["abnormal"] for row in content["testing"]) in (0, sum(lengths.values())):
                problems.append("labels: all frames have the same one, and an AUC needs both")
        except UserError as error:
            problems.append(str(error))
    return content | {"note": notes, "problem": problems}


def look(path: str, decode: bool) -> Frame:
    """Read the header and the end of an image file, and its pixels if `decode`."""
    data, name = Path(path).read_bytes(), os.path.basename(path)
    size, form, steps, levels = "", "", {}, None
    try:
        with Image.open(io.BytesIO(data)) as image:
            size, form, steps = f"{image.width} x {image.height}", str(image.format), getattr(image, "quantization", {})
    except Exception:                                            # Pillow fails in many ways; OpenCV has the last word
        decode = True
    try:
        if decode or is_truncated(data):
            levels = grey_levels(read_image(path))
    except UserError as error:
        return Frame(name, len(data), str(error))
    if steps:
        scale = sum(steps[0]) / LUMA_STEPS
        form += f" {100.4 - 50 * scale if scale < 1 else 50 / scale:.0f}"
    return Frame(name, len(data), "", size, form, zlib.crc32(data), levels)


def faults(frames: list[Frame]) -> Iterator[str]:
    """Yield what is wrong with a video, as sentences."""
    if unread := [frame.fault for frame in frames if frame.fault]:
        yield some(unread)

    # The number that counts the frames rises by one step. Where several numbers change, they are a time of day.
    numbers = zip(*([int(digits) for digits in re.findall(r"\d+", Path(frame.name).stem)] for frame in frames))
    counting = [column for column in numbers if len(set(column)) > 1]
    steps = np.diff(counting[0]).tolist() if len(counting) == 1 else []
    if len(set(steps)) > 1:
        usual = Counter(steps).most_common(1)[0][0]
        odd = [f"{frames[t].name} before {frames[t + 1].name}" for t, step in enumerate(steps) if step != usual]
        yield f"frames seem lost or out of order: {some(odd)}"

    # A few repeats occur in still scenes, many come from a wrong frame rate.
    sizes = Counter(frame.size for frame in frames if frame.size)
    if len(sizes) > 1:
        yield f"frames of several sizes: {some([f'{count:,} of {size}' for size, count in sizes.items()])}"
    same = [b.name for a, b in zip(frames, frames[1:]) if a.content == b.content is not None]
    if len(same) > len(frames) / 5:
        yield f"{len(same):,} of {len(frames):,} frames repeat the one before: {some(same)}"
    if (levels := max((frame.levels for frame in frames if frame.levels), default=256)) < FEW_LEVELS:
        yield f"{levels} of 256 grey levels are used, as of 12 bits in 16-bit files; {MAP_DEPTH}"


def compare(data: str, dataset: str, sources: list[str]) -> dict[str, Any]:
    """Compare two labels: for the videos of `data`, or, those that ship, for all published videos."""
    truths = dict(sorted(facts_of(dataset).truths.items(), reverse=True))
    if len(sources or truths) != 2:
        raise UserError(f"--compare-labels takes two label files, {len(sources)} given, and {len(truths)} of {dataset} "
                        f"ship with this project; type DATA --dataset {dataset} --compare-labels FILE FILE")
    if sources:
        lengths = {video.name: len(video.frames) for video in index_videos(find_split(data, dataset, "testing"))}
        a, b = (load_labels(truths.get(source, source), lengths) for source in sources)
    else:
        a, b = map(read_ranges, truths.values())
    return {**dict(zip("AB", sources or truths)), "videos": [
        {"video": name, "frames": len(x), "abnormal in A": int(x.sum()), "abnormal in B": int(b[name].sum()),
         "only in A": int((x > b[name]).sum()), "only in B": int((x < b[name]).sum()),
         "different": int((x != b[name]).sum())} for name, x in a.items()]}


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out rows of equal keys as Markdown, with the sums of the numbers below."""
    numbers = [key for key, value in rows[0].items() if not isinstance(value, str)]
    sums = {"video": "all"} | {key: sum(row[key] or 0 for row in rows) for key in numbers}
    cells = [[f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value or ""
              for value in (row.get(key) for key in rows[0])] for row in [*rows, sums]]
    return markdown(list(rows[0]), cells, left=len(rows[0]) - len(numbers))


if __name__ == "__main__":
    run_command(main)
