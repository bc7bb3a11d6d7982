"""What can be wrong with a data set, found before hours are spent on it.

Each check is a function from what `survey` saw to findings. A problem spoils training or results; a note does not, or
not surely.
"""

import os
import re
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lgn_net.data.datasets import BENCHMARKS, canonical_name, difference_from_published, known_lengths
from lgn_net.data.survey import LOSSLESS, Frame, Split, same_picture, survey
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.errors import UserError

LONG_RUN = 25                # frames in a row that repeat the one before: a second of a stuck decoder
MANY_REPEATS = 0.2           # share of such frames in a video that was extracted at a higher rate than its own
QUALITY_STEP = 10            # points of JPEG quality between frames that look alike and frames that do not
DENSITY_RATIO = 1.5          # of bytes per pixel, where the quality is the same


class Finding(NamedTuple):
    """A sentence, and what to type or do about it. `videos` are the names of those concerned."""

    level: Literal["problem", "note"]
    check: str
    text: str
    fix: str = ""
    videos: tuple[str, ...] = ()


# Checks of one split or of both. `again` says how the data are made anew.

def published_lengths(dataset: str, split: str, names: list[str]) -> dict[str, int]:
    """Published frame counts by the names of the videos; by their order, as labels go, when no video is missing."""
    known = known_lengths(dataset, split)
    complete = len(names) == len(known) == published_videos(dataset, split)
    return dict(zip(names, known.values(), strict=True)) if complete else known


def published_videos(dataset: str, split: str) -> int:
    """Number of published videos; 0 where unknown."""
    benchmark = BENCHMARKS.get(canonical_name(dataset))
    return 0 if benchmark is None else (benchmark.train if split == "training" else benchmark.test)[0]


def check_counts(split: Split, dataset: str, known: dict[str, int], again: str) -> list[Finding]:
    """Numbers of videos and of their frames against the published ones."""
    here = {video.name: len(video.frames) for video in split.videos}
    other = {name: f"{here[name]} of {known[name]} frames" for name in known if here.get(name) not in (None, known[name])}
    missing = [name for name in known if name not in here] if len(known) == published_videos(dataset, split.name) else []
    different = difference_from_published(dataset, split.name, list(here.values()))
    if not other and not different:
        return []
    text = different or f"{split.name}: videos of other lengths than published"
    details = ([f"missing: {some(missing)}"] if 0 < len(missing) < len(known) else []) + \
        [f"{name} has {detail}" for name, detail in other.items()]
    return [Finding("problem", "counts", text + "".join(f"; {some(details)}" if details else ""), again, (*missing, *other))]


def check_damage(split: Split, again: str) -> list[Finding]:
    """Files that cannot be decoded, or lack their end."""
    damaged = {}
    for video, frames in zip(split.videos, split.frames):
        if bad := [frame for frame in frames if frame.damage]:
            damaged[video.name] = f"{file_name(bad[0].path)}, {bad[0].bytes:,} bytes{and_more(bad)}"
    return found("problem", "damage", split, "unreadable or truncated frames", damaged,
                 f"delete these files and extract them again: {again}")


def check_names(split: Split, known: dict[str, int], again: str) -> list[Finding]:
    """Names of one pattern, numbered without gaps, no number twice, and from one start in all videos."""
    odd, twice, gaps, published, starts = {}, {}, {}, {}, {}
    for video in split.videos:
        names = [file_name(path) for path in video.frames]
        patterns = [re.sub(r"\d+", "0", Path(name).stem) for name in names]
        usual = Counter(patterns).most_common(1)[0][0]
        if others := [name for name, pattern in zip(names, patterns) if pattern != usual]:
            odd[video.name] = f"{others[0]} beside {names[patterns.index(usual)]}{and_more(others)}"
        elif numbers := running_numbers(names):
            starts[video.name] = numbers[0]
            steps = np.diff(numbers)
            step = Counter(steps[steps > 0].tolist()).most_common(1)[0][0]
            same, far = np.flatnonzero(steps == 0), np.flatnonzero(steps > step)
            if len(same):
                twice[video.name] = f"{names[same[0]]} and {names[same[0] + 1]}{and_more(same)}"
            if len(far) and (step == 1 or len(far) <= len(steps) / 10 + 1):         # otherwise they are times of day
                gap = f"{names[far[0]]} is followed by {names[far[0] + 1]}{and_more(far)}"
                (published if known.get(video.name) == len(names) else gaps)[video.name] = gap
    first = Counter(starts.values()).most_common(1)[0][0] if starts else 0
    shifted = {name: f"from {start}" for name, start in starts.items() if {start, first} == {0, 1}}
    return [
        *found("problem", "names", split, "names of more than one pattern, which leaves the order of frames in doubt", odd,
               "rename the frames alike, or take out files that are none"),
        *found("problem", "names", split, "two files of one number", twice, "take one of the two out"),
        *found("problem", "names", split, "numbers are left out, so frames seem lost", gaps, again),
        *found("note", "names", split, "numbers are left out, but no frame is missing", published),
        *found("note", "names", split, f"most videos are numbered from {first}, not so", shifted),
    ]


def check_text_order(split: Split) -> list[Finding]:
    """Names that programs which sort them as text read in another order."""
    orders = {}
    for video in split.videos:
        names = [file_name(path) for path in video.frames]
        if wrong := [pair for pair in zip(sorted(names), names) if pair[0] != pair[1]]:
            orders[video.name] = "{} before {}".format(*wrong[0])
    return found("note", "names", split, "sorted as text the frames are in disorder; this project sorts by number, others "
                 "may not", orders)


def check_uniform(split: Split, again: str) -> list[Finding]:
    """Within a video, one size, one colour (grey or not) and one kind of file."""
    kinds = {"size": (size_of, "problem", again), "colour": (colour_of, "problem", again), "format": (format_of, "note", "")}
    findings = []
    for check, (kind, level, fix) in kinds.items():
        mixed = {}
        for video, frames in zip(split.videos, split.frames):
            if len(groups := group_by(frames, kind)) > 1:
                mixed[video.name] = " and ".join(f"{n:,} {value} from {file_name(first)}" for value, n, first in groups)
        findings += found(level, check, split, f"more than one {check} within a video", mixed, fix)
    return findings


def check_repeats(split: Split, again: str) -> list[Finding]:
    """Neighbours that are one picture: a few occur in still scenes, many come from a wrong rate or a stuck decoder."""
    few, many = {}, {}
    for video, frames in zip(split.videos, split.frames):
        repeats = [frame.repeats for frame in frames]
        if any(repeats):
            longest = max(len(list(run)) for repeat, run in groupby(repeats) if repeat)
            serious = longest >= LONG_RUN or sum(repeats) > max(MANY_REPEATS * len(frames), 2)
            first = file_name(frames[repeats.index(True)].path)
            (many if serious else few)[video.name] = f"{sum(repeats):,} of {len(frames):,}, up to {longest} in a row, " \
                                                     f"first {first}"
    return [
        *found("problem", "repeats", split, "many frames repeat the one before", many,
               f"extract every frame of the source once, at its own frame rate: {again}"),
        *found("note", "repeats", split, "some frames repeat the one before", few),
    ]


def check_copies(splits: list[Split]) -> list[Finding]:
    """Videos with the frames of an earlier one, be it of the other split."""
    seen, findings = {}, []
    for split in splits:
        copies = {}
        for video, frames in zip(split.videos, split.frames):
            name, other = seen.setdefault(tuple(frame.content for frame in frames), (f"{split.name} {video.name}", frames))
            if other is not frames and all(same_picture(a, b, split.full) for a, b in zip(other, frames)):
                copies[video.name] = f"those of {name}"
        findings += found("problem", "copies", split, "the same frames as in another video", copies, "take the copy out")
    return findings


def check_quality(split: Split, again: str) -> list[Finding]:
    """Frames compressed harder, or less hard, than most."""
    _, usual = usual_encoding(split)
    other = {}
    for video, frames in zip(split.videos, split.frames):
        if odd := [f.quality for f in frames if f.quality and usual and abs(f.quality - usual) >= QUALITY_STEP]:
            other[video.name] = f"{len(odd):,} of {len(frames):,} frames, quality {span(odd)}"
    return found("problem", "quality", split, f"not compressed like most frames, which have quality {usual}", other,
                 f"extract these videos in the same way as the others: {again}")


def check_splits(training: Split, testing: Split, again: str) -> list[Finding]:
    """Both splits made in one way: to a model trained on sharper frames, compression is an anomaly."""
    findings = []

    def add(level: str, check: str, text: str) -> None:
        fix = f"make both splits from their sources in one way: {again}" if level == "problem" else ""
        findings.append(Finding(level, check, f"training and testing: {text}", fix))

    for check, kind in (("size", size_of), ("colour", colour_of)):
        ours, theirs = ({kind(f) for frames in s.frames for f in frames} - {None} for s in (training, testing))
        if ours and theirs - ours:
            add("problem", check, f"testing frames are {some(sorted(theirs - ours))}, training frames {some(sorted(ours))}")
    (format_a, quality_a), (format_b, quality_b) = usual_encoding(training), usual_encoding(testing)
    encodings = f"training frames are {encoding(format_a, quality_a)}, testing frames {encoding(format_b, quality_b)}"
    a, b = density(training), density(testing)
    if quality_a and quality_b and abs(quality_a - quality_b) >= QUALITY_STEP:
        add("problem", "quality", encodings)
    elif format_a != format_b:
        add("note", "quality", encodings)
    elif a and b and max(a, b) / min(a, b) > DENSITY_RATIO:
        add("note", "quality", f"{encodings}, but they have {a:.2f} and {b:.2f} bytes per pixel: the scenes differ, or one "
                               f"split was compressed before")
    return findings


def check_labels(videos: list[Video], labels: list[np.ndarray]) -> list[Finding]:
    """Both classes in the test set; the videos of one class."""
    total, abnormal = sum(map(len, labels)), int(sum(y.sum() for y in labels))
    if abnormal in (0, total):
        return [Finding("problem", "labels", f"testing: {abnormal:,} of {total:,} frames are labelled abnormal, and an AUC "
                        f"needs both classes", "give the labels of these videos with --labels FILE")]
    single = {video.name: "abnormal" if y[0] else "normal" for video, y in zip(videos, labels) if y.min() == y.max()}
    kinds = [f"{kind} throughout: {some([name for name in single if single[name] == kind])}" for kind in
             ("abnormal", "normal") if kind in single.values()]
    return [Finding("note", "labels", f"testing: videos of one class have no AUC of their own; {'; '.join(kinds)}", "",
                    tuple(single))] if single else []


def compare_labels(a: list[np.ndarray], b: list[np.ndarray]) -> list[tuple[int, int, int, int]]:
    """Per video: frames, abnormal ones of `a` and of `b`, and frames on which they differ."""
    return [(len(x), int(x.sum()), int(y.sum()), int((x != y).sum())) for x, y in zip(a, b)]


# What the checks share.

def found(level: str, check: str, split: Split, what: str, details: dict[str, str], fix: str = "") -> list[Finding]:
    """One finding for all videos in `details`, with a word on each of the first; none when there is no video."""
    listed = some([f"{video} ({detail})" if detail else video for video, detail in details.items()])
    return [Finding(level, check, f"{split.name}: {what}: {listed}", fix, tuple(details))] if details else []


def some(items: list[str], limit: int = 6) -> str:
    """The first few, and how many more there are."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit:,} more" if len(items) > limit else "")


def and_more(items: list | np.ndarray) -> str:
    """What follows the first of several items."""
    return f" and {len(items) - 1:,} more" if len(items) > 1 else ""


def span(values: list[int]) -> str:
    """`50`, or `50 to 60`."""
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def file_name(path: str) -> str:
    """The last part of a path."""
    return os.path.basename(path)


def running_numbers(names: list[str]) -> list[int] | None:
    """The number that counts the frames of a video, by names of one pattern; None when none does, or several do."""
    columns = zip(*([int(digits) for digits in re.findall(r"\d+", Path(name).stem)] for name in names))
    changing = [column for column in columns if len(set(column)) > 1]
    return list(changing[0]) if len(changing) == 1 else None


def size_of(frame: Frame) -> str | None:
    """`360 x 240`; None for a damaged frame."""
    return None if frame.damage else "{} x {}".format(*frame.size)


def colour_of(frame: Frame) -> str | None:
    """`grey` or `colour`; None where unknown."""
    return {True: "grey", False: "colour", None: None}[frame.grey]


def format_of(frame: Frame) -> str | None:
    """`JPEG`; None for a damaged frame."""
    return frame.format or None


def encoding(format: str, quality: int | None) -> str:
    """`JPEG 95`, or `PNG`."""
    return f"{format} {quality}" if quality and format not in (*LOSSLESS, "TIFF") else format


def group_by(frames: list[Frame], kind: Callable[[Frame], str | None]) -> list[tuple[str, int, str]]:
    """The values of `kind`, the most common first, each with the number of its frames and the path of the first."""
    values = [kind(frame) for frame in frames]
    return [(value, n, frames[values.index(value)].path) for value, n in Counter(values).most_common() if value]


def usual_encoding(split: Split) -> tuple[str, int | None]:
    """Format and quality of most frames."""
    counts = Counter((f.format, f.quality) for frames in split.frames for f in frames if not f.damage)
    return counts.most_common(1)[0][0] if counts else ("", None)


def density(split: Split) -> float:
    """Bytes per pixel."""
    good = [f for frames in split.frames for f in frames if not f.damage]
    return sum(f.bytes for f in good) / max(sum(f.size[0] * f.size[1] for f in good), 1)
