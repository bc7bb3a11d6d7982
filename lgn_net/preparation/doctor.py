"""What can be wrong with a data set, found before hours are spent on it.

A problem spoils training or results; a note does not, or not surely.
"""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from lgn_net.data.labels import find_labels, known_source, load_labels
from lgn_net.data.videos import find_split, index_videos
from lgn_net.datasets import BENCHMARKS, canonical_name, difference_from_published, known_lengths, names_of, truths_of
from lgn_net.errors import UserError
from lgn_net.preparation.archives import some
from lgn_net.preparation.survey import Frame, Split, same_picture, survey

LONG_RUN = 25                # frames in a row that repeat the one before: a second of a stuck decoder
MANY_REPEATS = 0.2           # part of such frames in a video that was extracted at a higher rate than its own
QUALITY_STEP = 10            # points of JPEG quality between frames that look alike and frames that do not
DENSITY_RATIO = 1.25         # of bytes per pixel: Ped2 and Avenue differ by 1.05 between their splits, and by 1.27 and
                             # 1.33 from themselves compressed with JPEG 75 before
REMAKE = "delete the folders of these videos and make them again: {again}"

Level = Literal["problem", "note"]
# What can be wrong within a split, in the order of the report: level, check, sentence, fix.
FAULTS: dict[str, tuple[Level, str, str, str]] = {
    "damage": ("problem", "damage", "frames that are damaged, truncated or unreadable", REMAKE),
    "patterns": ("problem", "names", "names of several patterns, which leaves the order of frames in doubt",
                 "rename the frames alike, or take out the files that are none"),
    "twice": ("problem", "names", "two frames of one number", "take one of the two out"),
    "gaps": ("problem", "names", "numbers are left out, so frames seem lost", REMAKE),
    "harmless": ("note", "names", "numbers are left out, but no frame is missing", ""),
    "starts": ("note", "names", "most videos are numbered from {first}, others are not", ""),
    "order": ("note", "names", "frames are read by number here, but programs that sort names as text will read them in "
                               "disorder", ""),
    "size": ("problem", "size", "more than one size within a video", REMAKE),
    "colour": ("problem", "colour", "more than one colour within a video", REMAKE),
    "format": ("note", "format", "more than one format within a video", ""),
    "stuck": ("problem", "repeats", "many frames repeat the one before, as if they were extracted at another frame "
                                    "rate than the video's", REMAKE),
    "repeats": ("note", "repeats", "some frames repeat the one before", ""),
    "quality": ("problem", "quality", "not compressed like most frames, which have quality {usual}", REMAKE),
    "varied": ("note", "quality", "the quality of frames varies around {usual}", ""),
    "copies": ("problem", "copies", "videos with the frames of another", "take them out"),
}

class Finding(NamedTuple):
    """A sentence, and what to type or do about it. `where` has all videos or files concerned; the sentence, a few."""

    level: Level
    check: str
    text: str
    fix: str = ""
    where: tuple[str, ...] = ()


class Report(NamedTuple):
    """What was seen and found. `labels`: an array per test video by name; None where no labels fit."""

    splits: list[Split]
    labels_file: Path | None
    labels: dict[str, np.ndarray] | None
    label_source: str | None
    findings: list[Finding]


def examine(root: Path, dataset: str, labels_file: Path | None, label_source: str, full: bool, bar: tqdm) -> Report:
    """Make all checks of a data set.

    Args:
        root: the folder that holds the data set's folder, or that folder itself.
        dataset: its name.
        labels_file: None for the one that `label_source` leads to, see `labels.find_labels`.
        label_source: "auto", or whose labels, of those that ship.
        full: decode every frame.
        bar: is given the number of frames and told of those that are done.

    Raises:
        UserError: there are neither training nor testing frames.
    """
    again = how_to_make(root, dataset)
    findings: list[Finding] = []
    splits: list[Split] = []
    seen: dict[tuple, tuple[str, str, list[Frame]]] = {}
    indexed, incomplete = {}, False
    for name in ("training", "testing"):
        try:
            folder = find_split(root, dataset, name)
            indexed[name] = (folder, index_videos(folder))
        except UserError as error:
            findings.append(Finding("problem", "split", str(error), again))
    if not indexed:
        raise UserError(findings[0].text)

    # Each split by itself, then both together.
    bar.total = sum(len(video.frames) for _, videos in indexed.values() for video in videos)
    for name, (folder, videos) in indexed.items():
        split = survey(name, folder, videos, full, bar.update)
        splits.append(split)
        known = published_lengths(dataset, name, [video.name for video in videos])
        counts = check_counts(name, {video.name: len(video.frames) for video in videos}, dataset, known, again)
        incomplete = bool(counts)                          # of the last split, which labels belong to
        findings += [*counts, *check_frames(split, known, seen, again)]
    if len(splits) == 2:
        findings += check_splits(splits[0], splits[1], again)

    labels = source = None
    if "testing" in indexed:
        folder, videos = indexed["testing"]
        try:
            labels_file = labels_file or find_labels(root, dataset, folder, label_source)
            labels = load_labels(labels_file, {video.name: len(video.frames) for video in videos})
            source = known_source(dataset, labels)
            findings += check_labels(labels, dataset, source)
        except UserError as error:
            findings.append(Finding("note" if incomplete else "problem", "labels", str(error)))
    return Report(splits, labels_file, labels, source, findings)


def how_to_make(root: Path, dataset: str) -> str:
    """Write the command that makes the data set; in full where its prepared.json tells."""
    name, out = canonical_name(dataset), root.parent if root.name in names_of(dataset) else root
    sources, form, labels = ["ARCHIVE" if name in BENCHMARKS else "VIDEOS"], [], "FILE"
    if (file := out / name / "prepared.json").is_file():
        made = json.loads(file.read_text())
        sources, form = [source["path"] for source in made["source"]], ["--format", made["format"]]
        labels = "FILE" if made.get("labels") in (None, "your own") else made["labels"]
    command = ["prepare_data.py", "custom", "--source", *sources, "--labels", labels, "--name", name, *form]
    if name in BENCHMARKS:
        command = ["prepare_data.py", name, "--source", *sources, *form]
    elif name == "toy":
        command = ["make_toy_data.py"]
    return f"python scripts/{shlex.join([*command, '--out', str(out)])}"


def published_lengths(dataset: str, split: str, names: list[str]) -> dict[str, int]:
    """Return published frame counts by name; by the order of videos, as labels go, when no video is missing."""
    known = known_lengths(dataset, split)
    in_order = is_complete(dataset, split, known) and len(known) == len(names)
    return dict(zip(names, known.values())) if in_order else known


def is_complete(dataset: str, split: str, known: Mapping[str, int]) -> bool:
    """Tell whether the published lengths of all videos are known."""
    benchmark = BENCHMARKS.get(canonical_name(dataset))
    return benchmark is not None and benchmark.split(split)[0][0] == len(known)


def check_counts(split: str, here: Mapping[str, int], dataset: str, known: Mapping[str, int], again: str) \
        -> list[Finding]:
    """Compare the frames of each video that is here, and the number of videos, with the published ones."""
    other = {name: f"{name} has {here[name]} of {length} frames" for name, length in known.items()
             if here.get(name, length) != length}
    missing = [name for name in known if name not in here]
    if len(missing) == len(known) or not is_complete(dataset, split, known):
        missing = []                                       # the videos have other names, or not all are known
    different = difference_from_published(dataset, split, list(here.values()))
    if not different and not other:
        return []
    text = [different or f"{split}: videos of other lengths than published"]
    text += [f"missing: {some(missing)}"] if missing else []
    text += [some(list(other.values()))] if other else []
    fix = REMAKE.format(again=again) if other else f"add what is missing to the source, then: {again}"
    return [Finding("problem", "counts", "; ".join(text), fix, (*missing, *other))]


def check_frames(split: Split, known: Mapping[str, int], seen: dict[tuple, tuple[str, str, list[Frame]]],
                 again: str) -> list[Finding]:
    """Make all checks that look at one video after the other. `seen` remembers the videos of both splits."""
    usual = usual_encoding(split)[1]
    starts: dict[str, int] = {}
    faults: list[tuple[str, str, str]] = []                # key of FAULTS, video or file, detail
    for video, frames in zip(split.videos, split.frames):
        names = [Path(path).name for path in video.frames]
        numbers = running_numbers(names)
        starts |= {video.name: numbers[0]} if numbers else {}
        faults += [("damage", f"{video.name}/{name}", f"{frame.bytes:,} bytes")
                   for name, frame in zip(names, frames) if frame.damaged]
        found = [*name_faults(names, numbers, known.get(video.name)), *frame_faults(names, frames, usual)]
        faults += [(key, video.name, detail) for key, detail in found]
        earlier = seen.setdefault(tuple(frame.content for frame in frames), (split.name, video.name, frames))
        if earlier[2] is not frames and all(same_picture(a, b, split.full) for a, b in zip(earlier[2], frames)):
            faults.append(("copies", video.name, "those of {} {}".format(*earlier)))
    first = Counter(starts.values()).most_common(1)[0][0] if starts else 0
    faults += [("starts", name, f"from {start}") for name, start in starts.items() if {start, first} == {0, 1}]

    # One finding for all videos or files with the same fault.
    findings = []
    for key, (level, check, what, fix) in FAULTS.items():
        if details := {name: detail for fault, name, detail in faults if fault == key}:
            what = what.format(first=first, usual=usual)
            listed = some([f"{name} ({detail})" for name, detail in details.items()])
            findings.append(Finding(level, check, f"{split.name}: {what}: {listed}", fix.format(again=again),
                                    tuple(details)))
    return findings


def name_faults(names: list[str], numbers: list[int] | None, published: int | None) -> Iterator[tuple[str, str]]:
    """Check that file names have one pattern and are numbered without gaps, no number twice, in text order."""
    patterns = [pattern_of(name) for name in names]
    usual = Counter(patterns).most_common(1)[0][0]
    if others := [name for name, pattern in zip(names, patterns) if pattern != usual]:
        yield "patterns", f"{others[0]} beside {names[patterns.index(usual)]}{and_more(len(others))}"
    elif numbers:
        steps = np.diff(numbers)
        step = Counter(steps[steps > 0].tolist()).most_common(1)[0][0]
        same, far = np.flatnonzero(steps == 0), np.flatnonzero(steps > step)
        if len(same):
            yield "twice", f"{names[same[0]]} and {names[same[0] + 1]}{and_more(len(same))}"
        if len(far) and (step == 1 or len(far) <= len(steps) / 10 + 1):             # otherwise they are times of day
            yield ("harmless" if published == len(names) else "gaps",
                   f"{names[far[0]]} is followed by {names[far[0] + 1]}{and_more(len(far))}")
    if wrong := [pair for pair in zip(sorted(names), names) if pair[0] != pair[1]]:
        yield "order", "{} before {}".format(*wrong[0])


def frame_faults(names: list[str], frames: list[Frame], usual: int | None) -> Iterator[tuple[str, str]]:
    """Check that frames have one size, colour, format and quality, and do not repeat each other."""
    for attribute in ("size", "colour", "format"):
        if len(groups := group_by(frames, attribute)) > 1:
            yield attribute, " and ".join(f"{n:,} {value} from {name}" for value, n, name in groups)

    # A few repeats occur in still scenes, many come from a wrong rate or a stuck decoder.
    if count := sum(frame.repeats for frame in frames):
        longest = max(len(list(run)) for repeats, run in groupby(frame.repeats for frame in frames) if repeats)
        first = next(name for name, frame in zip(names, frames) if frame.repeats)
        yield ("stuck" if longest >= LONG_RUN or count > max(MANY_REPEATS * len(frames), 2) else "repeats",
               f"{count:,} of {len(frames):,}, up to {longest} in a row, first {first}")

    # An encoder that keeps to a bit rate uses many qualities.
    if odd := [f.quality for f in frames if f.quality and usual and abs(f.quality - usual) >= QUALITY_STEP]:
        span = f"{min(odd)}" if min(odd) == max(odd) else f"{min(odd)} to {max(odd)}"
        yield ("varied" if len({f.quality for f in frames}) > 4 else "quality",
               f"{len(odd):,} of {len(frames):,} frames, quality {span}")


def check_splits(training: Split, testing: Split, again: str) -> list[Finding]:
    """Check that both splits were made in one way: to a model trained on sharper frames, compression is an anomaly."""
    findings, fix = [], f"make both splits from their sources in one way: {again}"
    for attribute in ("size", "colour"):
        ours, theirs = ({value for frames in split.frames for value, _, _ in group_by(frames, attribute)[:1]}
                        for split in (training, testing))                          # what most frames of a video are
        if ours and theirs - ours:
            findings.append(Finding("problem", attribute, f"training frames are {some(sorted(ours))}, testing frames "
                                    f"{some(sorted(theirs))}", fix))
    (encoding_a, quality_a), (encoding_b, quality_b) = usual_encoding(training), usual_encoding(testing)
    a, b = density(training), density(testing)
    if not a or not b:                                                              # all damaged
        return findings
    text = f"training frames are {encoding_a}, testing frames {encoding_b}"
    if quality_a and quality_b and abs(quality_a - quality_b) >= QUALITY_STEP:
        findings.append(Finding("problem", "quality", text, fix))
    elif encoding_a != encoding_b:
        findings.append(Finding("note", "quality", text))
    elif not findings and max(a, b) > DENSITY_RATIO * min(a, b):
        findings.append(Finding("note", "quality", f"all frames are {encoding_a}, but training has {a:.2f} bytes per "
                                f"pixel and testing {b:.2f}: other scenes, or one split was compressed before"))
    return findings


def check_labels(labels: Mapping[str, np.ndarray], dataset: str, source: str | None) -> list[Finding]:
    """Check that both classes occur; note videos of one class, and labels that differ from all that ship."""
    total, abnormal = sum(map(len, labels.values())), int(sum(y.sum() for y in labels.values()))
    if abnormal in (0, total):
        return [Finding("problem", "labels", f"{abnormal:,} of {total:,} frames are labelled abnormal, and an AUC "
                        f"needs both classes", "give the labels of these videos with --labels FILE")]
    single = {kind: [name for name, y in labels.items() if (y == value).all()]
              for value, kind in ((1, "abnormal"), (0, "normal"))}
    notes = []
    if text := "; ".join(f"{kind} throughout: {some(names)}" for kind, names in single.items() if names):
        notes.append(Finding("note", "labels", f"videos of one class have no AUC of their own; {text}", "",
                             (*single["abnormal"], *single["normal"])))
    if source is None and (truths := truths_of(dataset)):
        notes.append(Finding("note", "labels", f"these labels are not the published ones ({' or '.join(truths)}); "
                             f"--compare-labels FILE {next(iter(truths))} shows where they differ"))
    return notes


def and_more(count: int) -> str:
    """Say how many more there are after the first of `count` items."""
    return f" and {count - 1:,} more" if count > 1 else ""


def pattern_of(name: str) -> str:
    """Replace the numbers in a file name."""
    return re.sub(r"\d+", "0", Path(name).stem.lower())


def running_numbers(names: list[str]) -> list[int] | None:
    """Find the number that counts the frames; None when none or several do, or the names have several patterns."""
    if len({pattern_of(name) for name in names}) > 1:
        return None
    columns = zip(*([int(digits) for digits in re.findall(r"\d+", Path(name).stem)] for name in names))
    changing = [column for column in columns if len(set(column)) > 1]
    return list(changing[0]) if len(changing) == 1 else None


def group_by(frames: list[Frame], attribute: str) -> list[tuple[str, int, str]]:
    """List the values of an attribute, the most common first, each with its number of frames and the first of them."""
    values = [getattr(frame, attribute) for frame in frames]
    return [(value, n, Path(frames[values.index(value)].path).name)
            for value, n in Counter(values).most_common() if value]


def usual_encoding(split: Split) -> tuple[str, int | None]:
    """Return encoding and quality of the frame in the middle, from the worst quality to the best."""
    good = sorted((f for frames in split.frames for f in frames if not f.damaged), key=lambda f: f.quality or 0)
    return (good[len(good) // 2].encoding or "", good[len(good) // 2].quality) if good else ("", None)


def density(split: Split) -> float:
    """Return bytes per pixel; 0 when no frame can be decoded."""
    good = [f for frames in split.frames for f in frames if not f.damaged]
    return sum(f.bytes for f in good) / max(sum(f.width * f.height for f in good), 1)
