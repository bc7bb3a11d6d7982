"""What can be wrong with a data set, found before hours are spent on it.

Each check is a function from what `survey` saw to findings. A problem spoils training or results; a note does not, or
not surely.
"""

import json
import re
import shlex
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from lgn_net.data.labels import find_labels, known_source, load_labels
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.datasets import BENCHMARKS, canonical_name, difference_from_published, known_lengths, names_of
from lgn_net.errors import UserError
from lgn_net.preparation.survey import Frame, Split, same_picture, survey

LONG_RUN = 25                # frames in a row that repeat the one before: a second of a stuck decoder
MANY_REPEATS = 0.2           # share of such frames in a video that was extracted at a higher rate than its own
QUALITY_STEP = 10            # points of JPEG quality between frames that look alike and frames that do not
DENSITY_RATIO = 1.25         # of bytes per pixel: Ped2 and Avenue differ by 1.05 between their splits, and by 1.27 and
                             # 1.33 from themselves compressed with JPEG 75 before


class Finding(NamedTuple):
    """A sentence, and what to type or do about it. `where` has all videos or files concerned; the sentence, a few."""

    level: Literal["problem", "note"]
    check: str
    text: str
    fix: str = ""
    where: tuple[str, ...] = ()


class Report(NamedTuple):
    """What was seen and found. `labels`: an array per test video; None where no labels fit."""

    splits: list[Split]
    labels_file: Path | None
    labels: list[np.ndarray] | None
    label_source: str | None
    findings: list[Finding]


def examine(root: Path, dataset: str, labels_file: Path | None, label_source: str, full: bool, bar: tqdm) -> Report:
    """All checks of a data set.

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
    remake = f"delete the folders of these videos and make them again: {again}"
    findings, splits, indexed = [], [], {}
    for name in ("training", "testing"):
        try:
            folder = find_split(root, dataset, name)
            indexed[name] = (folder, index_videos(folder))
        except UserError as error:
            findings.append(Finding("problem", "split", str(error), again))
    if not indexed:
        raise UserError(findings[0].text)
    bar.total = sum(len(video.frames) for _, videos in indexed.values() for video in videos)
    for name, (folder, videos) in indexed.items():
        split, known = survey(name, folder, videos, full, bar.update), published_lengths(dataset, name, videos)
        splits.append(split)
        incomplete = check_counts(split, dataset, known, again, remake)
        findings += [*incomplete, *check_damage(split, remake), *check_names(split, known, remake),
                     *check_text_order(split), *check_uniform(split, remake), *check_repeats(split, remake),
                     *check_quality(split, remake)]
    findings += check_copies(splits)
    if len(splits) == 2:
        findings += check_splits(*splits, again)
    labels = source = None
    if "testing" in indexed:
        folder, videos = indexed["testing"]
        try:
            labels_file = labels_file or find_labels(root, dataset, folder, label_source)
            labels = load_labels(labels_file, videos)
            source = known_source(dataset, videos, labels)
            findings += check_labels(videos, labels, dataset, source)
        except UserError as error:
            findings.append(Finding("note" if incomplete else "problem", "labels", str(error)))
    return Report(splits, labels_file, labels, source, findings)


def how_to_make(root: Path, dataset: str) -> str:
    """The command that makes the data set; in full where its prepared.json tells."""
    name, out = canonical_name(dataset), root.parent if root.name in names_of(dataset) else root
    try:
        made = json.loads((out / name / "prepared.json").read_text())
        sources, form = [source["path"] for source in made["source"]], ["--format", made["format"]]
        labels = "FILE" if made.get("labels") in (None, "your own") else made["labels"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):       # made in another way
        sources, form, labels = ["ARCHIVE" if name in BENCHMARKS else "VIDEOS"], [], "FILE"
    command = ["prepare_data.py", "custom", "--source", *sources, "--labels", labels, "--name", name, *form]
    if name in BENCHMARKS:
        command = ["prepare_data.py", name, "--source", *sources, *form]
    elif name == "toy":
        command = ["make_toy_data.py"]
    return f"python scripts/{shlex.join([*command, '--out', str(out)])}"


# Checks of one split or of both. `again` is the command that makes the data set, `remake` what to do about some videos.

def published_videos(dataset: str, split: str) -> int:
    """How many videos a split has as published; 0: unknown."""
    benchmark = BENCHMARKS.get(canonical_name(dataset))
    return 0 if benchmark is None else benchmark.train[0] if split == "training" else benchmark.test[0]


def published_lengths(dataset: str, split: str, videos: list[Video]) -> dict[str, int]:
    """Published frame counts by name of the video; by the order of videos, as labels go, when none is missing."""
    known = known_lengths(dataset, split)
    in_order = published_videos(dataset, split) == len(known) == len(videos)
    return {video.name: length for video, length in zip(videos, known.values())} if in_order else known


def check_counts(split: Split, dataset: str, known: dict[str, int], again: str, remake: str) -> list[Finding]:
    """Numbers of videos and of their frames against the published ones."""
    here = {video.name: len(video.frames) for video in split.videos}
    other = {name: f"{name} has {here[name]} of {length} frames" for name, length in known.items()
             if here.get(name, length) != length}
    missing = [name for name in known if name not in here]
    if len(missing) == len(known) or len(known) < published_videos(dataset, split.name):
        missing = []                                       # the videos have other names, or not all are known
    different = difference_from_published(dataset, split.name, list(here.values()))
    if not different and not other:
        return []
    text = [different or f"{split.name}: videos of other lengths than published"]
    text += [f"missing: {some(missing)}"] if missing else []
    text += [some(list(other.values()))] if other else []
    fix = remake if other else f"add what is missing to the source, then: {again}"
    return [Finding("problem", "counts", "; ".join(text), fix, (*missing, *other))]


def check_damage(split: Split, remake: str) -> list[Finding]:
    """Files that cannot be decoded, or lack their end."""
    damaged = {f"{video.name}/{Path(frame.path).name}": f"{frame.bytes:,} bytes"
               for video, frames in zip(split.videos, split.frames) for frame in frames if frame.damaged}
    return found("problem", "damage", split, "frames that are damaged, truncated or unreadable", damaged, remake)


def check_names(split: Split, known: dict[str, int], remake: str) -> list[Finding]:
    """Names of one pattern, numbered without gaps, no number twice, and from one start in all videos."""
    odd, twice, gaps, harmless, starts = {}, {}, {}, {}, {}
    for video in split.videos:
        names = file_names(video)
        patterns = [re.sub(r"\d+", "0", Path(name).stem.lower()) for name in names]
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
                (harmless if known.get(video.name) == len(names) else gaps)[video.name] = gap
    first = Counter(starts.values()).most_common(1)[0][0] if starts else 0
    shifted = {name: f"from {start}" for name, start in starts.items() if {start, first} == {0, 1}}
    return [
        *found("problem", "names", split, "names of several patterns, which leaves the order of frames in doubt", odd,
               "rename the frames alike, or take out the files that are none"),
        *found("problem", "names", split, "two frames of one number", twice, "take one of the two out"),
        *found("problem", "names", split, "numbers are left out, so frames seem lost", gaps, remake),
        *found("note", "names", split, "numbers are left out, but no frame is missing", harmless),
        *found("note", "names", split, f"most videos are numbered from {first}, others are not", shifted),
    ]


def check_text_order(split: Split) -> list[Finding]:
    """Names that programs which sort them as text read in another order."""
    orders = {}
    for video in split.videos:
        names = file_names(video)
        if wrong := [pair for pair in zip(sorted(names), names) if pair[0] != pair[1]]:
            orders[video.name] = "{} before {}".format(*wrong[0])
    return found("note", "names", split, "frames are read by number here, but programs that sort names as text will "
                 "read them in disorder", orders)


def check_uniform(split: Split, remake: str) -> list[Finding]:
    """Within a video, one size, grey or colour but not both, and one format."""
    findings = []
    for attribute, level in (("size", "problem"), ("colour", "problem"), ("format", "note")):
        mixed = {}
        for video, frames in zip(split.videos, split.frames):
            if len(groups := group_by(frames, attribute)) > 1:
                mixed[video.name] = " and ".join(f"{n:,} {value} from {name}" for value, n, name in groups)
        findings += found(level, attribute, split, f"more than one {attribute} within a video", mixed,
                          remake if level == "problem" else "")
    return findings


def check_repeats(split: Split, remake: str) -> list[Finding]:
    """Neighbours that are one picture: a few occur in still scenes, many come from a wrong rate or a stuck decoder."""
    few, many = {}, {}
    for video, frames in zip(split.videos, split.frames):
        repeats = [frame.repeats for frame in frames]
        if any(repeats):
            count, longest = sum(repeats), max(len(list(run)) for repeat, run in groupby(repeats) if repeat)
            serious = longest >= LONG_RUN or count > max(MANY_REPEATS * len(frames), 2)
            (many if serious else few)[video.name] = (f"{count:,} of {len(frames):,}, up to {longest} in a row, first "
                                                      f"{file_names(video)[repeats.index(True)]}")
    return [
        *found("problem", "repeats", split, "many frames repeat the one before, as if they were extracted at another "
               "frame rate than the video's", many, remake),
        *found("note", "repeats", split, "some frames repeat the one before", few),
    ]


def check_copies(splits: list[Split]) -> list[Finding]:
    """Videos with the frames of an earlier one, be it of the other split."""
    seen, findings = {}, []
    for split in splits:
        copies = {}
        for video, frames in zip(split.videos, split.frames):
            earlier = seen.setdefault(tuple(frame.content for frame in frames), (split.name, video.name, frames))
            if earlier[2] is not frames and all(same_picture(a, b, split.full) for a, b in zip(earlier[2], frames)):
                copies[video.name] = "those of {} {}".format(*earlier)
        findings += found("problem", "copies", split, "videos with the frames of another", copies, "take them out")
    return findings


def check_quality(split: Split, remake: str) -> list[Finding]:
    """Videos, or parts of them, compressed harder or less hard than most frames."""
    _, usual = usual_encoding(split)
    other, varied = {}, {}
    for video, frames in zip(split.videos, split.frames):
        odd = [f.quality for f in frames if f.quality and usual and abs(f.quality - usual) >= QUALITY_STEP]
        if odd:
            by_rate = len({f.quality for f in frames}) > 4                         # an encoder that keeps to a bit rate
            (varied if by_rate else other)[video.name] = f"{len(odd):,} of {len(frames):,} frames, quality {span(odd)}"
    return [
        *found("problem", "quality", split, f"not compressed like most frames, which have quality {usual}", other,
               remake),
        *found("note", "quality", split, f"the quality of frames varies around {usual}", varied),
    ]


def check_splits(training: Split, testing: Split, again: str) -> list[Finding]:
    """Both splits made in one way: to a model trained on sharper frames, compression is an anomaly."""
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


def check_labels(videos: list[Video], labels: list[np.ndarray], dataset: str, source: str | None) -> list[Finding]:
    """Both classes in the test set; videos of one class; labels that differ from all that ship."""
    total, abnormal = sum(map(len, labels)), int(sum(y.sum() for y in labels))
    if abnormal in (0, total):
        return [Finding("problem", "labels", f"{abnormal:,} of {total:,} frames are labelled abnormal, and an AUC "
                        f"needs both classes", "give the labels of these videos with --labels FILE")]
    single = {kind: [video.name for video, y in zip(videos, labels) if (y == value).all()]
              for value, kind in ((1, "abnormal"), (0, "normal"))}
    notes = []
    text = "; ".join(f"{kind} throughout: {some(names)}" for kind, names in single.items() if names)
    if text:
        notes.append(Finding("note", "labels", f"videos of one class have no AUC of their own; {text}", "",
                             (*single["abnormal"], *single["normal"])))
    if source is None and (truths := getattr(BENCHMARKS.get(canonical_name(dataset)), "truths", None)):
        notes.append(Finding("note", "labels", f"these labels are not the published ones ({' or '.join(truths)}); "
                             f"--compare-labels FILE {next(iter(truths))} shows where they differ"))
    return notes


# What the checks share.

def found(level: str, check: str, split: Split, what: str, details: dict[str, str], fix: str = "") -> list[Finding]:
    """One finding for all videos or files in `details`, with a word on each of the first; none when it is empty."""
    listed = some([f"{name} ({detail})" for name, detail in details.items()])
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


def file_names(video: Video) -> list[str]:
    """The frames without their folder."""
    return [Path(path).name for path in video.frames]


def running_numbers(names: list[str]) -> list[int] | None:
    """The number that counts the frames of a video, by names of one pattern; None when none does, or several do."""
    columns = zip(*([int(digits) for digits in re.findall(r"\d+", Path(name).stem)] for name in names))
    changing = [column for column in columns if len(set(column)) > 1]
    return list(changing[0]) if len(changing) == 1 else None


def group_by(frames: list[Frame], attribute: str) -> list[tuple[str, int, str]]:
    """The values of an attribute, the most common first; how many frames have each, and the name of the first."""
    values = [getattr(frame, attribute) for frame in frames]
    return [(value, n, Path(frames[values.index(value)].path).name)
            for value, n in Counter(values).most_common() if value]


def usual_encoding(split: Split) -> tuple[str, int | None]:
    """Encoding and quality of the frame in the middle, from the worst quality to the best."""
    good = sorted((f for frames in split.frames for f in frames if not f.damaged), key=lambda f: f.quality or 0)
    return (good[len(good) // 2].encoding, good[len(good) // 2].quality) if good else ("", None)


def density(split: Split) -> float:
    """Bytes per pixel; 0 when no frame can be decoded."""
    good = [f for frames in split.frames for f in frames if not f.damaged]
    return sum(f.bytes for f in good) / max(sum(f.width * f.height for f in good), 1)
