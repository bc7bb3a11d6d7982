"""What can be wrong with a data set, found before hours are spent on it.

A problem spoils training or results; a note does not, or not surely.
"""

import contextlib
import io
import os
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from lgn_net.data.clips import is_truncated, read_frame
from lgn_net.data.labels import find_labels, known_source, load_labels
from lgn_net.data.videos import find_split, index_videos
from lgn_net.datasets import BENCHMARKS, canonical_name, difference_from_published, facts_of, known_lengths, names_of
from lgn_net.errors import UserError
from lgn_net.preparation.archives import some
from lgn_net.terminal import progress

LOSSLESS = ("PNG", "BMP", "DIB", "PPM", "TIFF")      # as Pillow calls them; TIFF mostly
LONG_RUN = 25                # frames in a row that repeat the one before: a second of a stuck decoder
MANY_REPEATS = 0.2           # part of such frames in a video that was extracted at a higher rate than its own
QUALITY_STEP = 10            # points of JPEG quality between frames that look alike and frames that do not
REMAKE = "delete the folders of these videos and make them again: {again}"
# What can be wrong within a split, in the order of the report: level, check, sentence, what to do about it.
FAULTS = {
    "damage": ("problem", "damage", "frames that are damaged, truncated or unreadable", REMAKE),
    "patterns": ("problem", "names", "names of several patterns, which leaves the order of frames in doubt",
                 "rename the frames alike, or take out the files that are none"),
    "twice": ("problem", "names", "two frames of one number", "take one of the two out"),
    "gaps": ("problem", "names", "numbers are left out, so frames seem lost", REMAKE),
    "starts": ("note", "names", "most videos are numbered from {first}, others are not", ""),
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

    level: str                           # "problem" or "note"
    check: str
    text: str
    fix: str = ""
    where: tuple[str, ...] = ()


class Frame(NamedTuple):
    """What is known of an image file; only its name and bytes when it is damaged."""

    name: str
    bytes: int
    size: str | None = None              # "360 x 240"
    colour: str | None = None            # "grey" where blue, green and red are equal; None: not looked at, or blank
    format: str | None = None            # "JPEG", "PNG", ...
    mode: str = ""                       # how the file stores colour: "RGB", "L", ...
    quality: int | None = None           # of JPEG, 1 to 100; 100 where nothing is lost; None: unknown
    content: tuple = ()                  # differs if the pixels differ; () when damaged

    @property
    def encoding(self) -> str | None:
        """Return "JPEG 95", or "PNG"; None for a damaged frame."""
        return f"{self.format} {self.quality}" if self.quality and self.format not in LOSSLESS else self.format


Videos = dict[str, list[Frame]]          # of a split, by name


def examine(root: Path, dataset: str, labels_file: Path | None, label_source: str, full: bool) -> dict[str, Any]:
    """Make all checks of a data set; return what was seen and found, as plain lists and dictionaries.

    `labels_file` and `label_source` are as in `labels.find_labels`; with `full` every frame is decoded. UserError when
    there are neither training nor testing frames.
    """
    again = how_to_make(root, dataset)
    findings: list[Finding] = []
    indexed, splits = {}, dict[str, Videos]()
    for name in ("training", "testing"):
        try:
            folder = find_split(root, dataset, name)
            indexed[name] = folder, index_videos(folder)
        except UserError as error:
            findings.append(Finding("problem", "split", str(error), again))
    if not indexed:
        raise UserError(findings[0].text)
    total = sum(len(video.frames) for _, videos in indexed.values() for video in videos)
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress("check", total, "frames") as bar:
        for name, (_, videos) in indexed.items():
            splits[name] = {}
            for video in videos:
                frames = list(pool.map(partial(look, full=full), video.frames))
                splits[name][video.name] = frames if full else with_colour(frames, video.frames)
                bar.update(len(frames))

    # Each split by itself, then both together, then the labels.
    tables: list[dict[str, Any]] = []
    seen: dict[tuple, tuple[str, str]] = {}
    for name, split in splits.items():
        lengths = {video: len(frames) for video, frames in split.items()}
        published = known_lengths(dataset, name)
        different = check_counts(name, lengths, dataset, published, again)
        findings += [*different, *check_frames(name, split, published, seen, again)]
        tables.append({"split": name, "folder": str(indexed[name][0]), "every_frame_decoded": full, "videos": [
            {"video": video, "frames": len(frames), "published": published.get(video), "first": frames[0].name,
             "last": frames[-1].name, "sizes": counts(frame.size for frame in frames),
             "colours": counts(frame.colour for frame in frames), "formats": counts(frame.encoding for frame in frames),
             "bytes": sum(frame.bytes for frame in frames)} for video, frames in split.items()]})
    if len(splits) == 2:
        findings += check_splits(splits["training"], splits["testing"], again)
    about = None
    if "testing" in splits:
        try:
            file = labels_file or find_labels(root, dataset, indexed["testing"][0], label_source)
            labels = load_labels(file, lengths)
            source = known_source(dataset, labels)
            findings += check_labels(labels, dataset, source)
            for row in tables[-1]["videos"]:
                row["abnormal"] = int(labels[row["video"]].sum())
            about = {"file": str(file), "source": source, "frames": sum(lengths.values()),
                     "abnormal": sum(row["abnormal"] for row in tables[-1]["videos"])}
        except UserError as error:
            findings.append(Finding("note" if different else "problem", "labels", str(error)))
    return {"dataset": dataset, "ok": all(finding.level != "problem" for finding in findings), "splits": tables,
            "labels": about, "findings": [finding._asdict() for finding in findings]}


def how_to_make(root: Path, dataset: str) -> str:
    """Write the command that makes the data set."""
    name, out = canonical_name(dataset), root.parent if root.name in names_of(dataset) else root
    command = f"{name} --source ARCHIVE" if name in BENCHMARKS else \
        f"custom --source VIDEOS --labels FILE --name {shlex.quote(name)}"
    return f"python scripts/prepare_data.py {command} --out {shlex.quote(str(out))}"


def counts(values: Iterable[str | None]) -> dict[str, int]:
    """Count how often each value occurs, the most common first; None is not counted."""
    return dict(Counter(value for value in values if value).most_common())


def look(path: str, full: bool) -> Frame:
    """Read the header and the end of a file, and its pixels where `full` or where the former tell of damage."""
    data = Path(path).read_bytes() if os.path.isfile(path) else b""
    frame, is_sound = Frame(os.path.basename(path), len(data), format=Path(path).suffix[1:].upper()), False
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:    # Pillow fails in many ways
        frame = frame._replace(size=f"{image.width} x {image.height}", format=image.format, mode=image.mode,
                               quality=quality(image), content=(len(data), zlib.crc32(data)))
        is_sound = not is_truncated(data)
    if is_sound and not full:
        return frame
    try:
        pixels = read_frame(path, 3)
    except (UserError, cv2.error):
        return Frame(frame.name, len(data))
    H, W, _ = pixels.shape
    is_grey = (pixels == pixels[..., :1]).all()
    colour = None if pixels.min() == pixels.max() else "grey" if is_grey else "colour"
    return frame._replace(size=f"{W} x {H}", colour=colour, content=(H, W, zlib.crc32(pixels.data)))


def with_colour(frames: list[Frame], paths: Sequence[str]) -> list[Frame]:
    """Fill in the colour of the frames of a video: decode the first of every format and mode that is not blank."""
    colours: dict[tuple, str | None] = {}
    for i, frame in enumerate(frames):
        kind = frame.format, frame.mode
        if frame.content and colours.get(kind) is None:
            decoded = look(paths[i], full=True)
            colours[kind] = decoded.colour
            frames[i] = frame if decoded.content else decoded
    return [frame._replace(colour=colours.get((frame.format, frame.mode))) for frame in frames]


def quality(image: Image.Image) -> int | None:
    """Find the quality of a JPEG by its quantisation steps; 100 where nothing is lost, None if unknown."""
    tables = getattr(image, "quantization", None)
    if not tables:
        return 100 if image.format in LOSSLESS else None
    return int(np.abs(luma_steps() - sum(next(iter(tables.values())))).argmin()) + 1


@cache
def luma_steps() -> np.ndarray:
    """Return the sum of the 64 quantisation steps of luma that the encoder writes at quality 1 to 100: (100,)."""
    files = [io.BytesIO() for _ in range(100)]
    for q, file in enumerate(files, start=1):
        Image.new("L", (8, 8)).save(file, "JPEG", quality=q)
    return np.array([sum(Image.open(file).quantization[0]) for file in files])     # type: ignore[attr-defined]


def check_counts(split: str, here: dict[str, int], dataset: str, known: dict[str, int], again: str) -> list[Finding]:
    """Compare the frames of each video that is here, and the number of videos, with the published ones."""
    different = difference_from_published(dataset, split, list(here.values()))
    other = {name: f"{name} has {here.get(name, 0)} of {length} frames" for name, length in known.items()
             if here.get(name, 0) != length}
    if not set(known) & set(here):                         # the videos have other names
        other = {}
    if not different and not other:
        return []
    text = different or f"{split}: videos of other lengths than published"
    text += f"; {some(list(other.values()))}" if other else ""
    return [Finding("problem", "counts", text, REMAKE.format(again=again), tuple(other))]


def check_frames(split: str, videos: Videos, known: Mapping[str, int], seen: dict[tuple, tuple[str, str]],
                 again: str) -> list[Finding]:
    """Make all checks that look at one video after the other. `seen` remembers the videos of both splits."""
    usual = usual_frame(videos).quality
    starts: dict[str, int] = {}
    faults: dict[str, dict[str, str]] = {key: {} for key in FAULTS}      # video or file -> detail
    for video, frames in videos.items():
        numbers = running_numbers(frames)
        starts |= {video: numbers[0]} if numbers else {}
        faults["damage"] |= {f"{video}/{f.name}": f"{f.bytes:,} bytes" for f in frames if not f.content}
        for key, detail in (*name_faults(frames, numbers, known.get(video)), *frame_faults(frames, usual)):
            faults[key][video] = detail
        content = tuple(frame.content for frame in frames)
        if seen.setdefault(content, (split, video)) != (split, video) and all(content):
            faults["copies"][video] = "those of {} {}".format(*seen[content])
    first = Counter(starts.values()).most_common(1)[0][0] if starts else 0
    faults["starts"] = {video: f"from {start}" for video, start in starts.items() if {start, first} == {0, 1}}
    return [Finding(level, check, f"{split}: {what.format(first=first, usual=usual)}: "
                    f"{some([f'{name} ({detail})' for name, detail in faults[key].items()])}",
                    fix.format(again=again), tuple(faults[key]))
            for key, (level, check, what, fix) in FAULTS.items() if faults[key]]


def name_faults(frames: list[Frame], numbers: list[int] | None, published: int | None) -> Iterator[tuple[str, str]]:
    """Check that file names have one pattern and are numbered without gaps, no number twice."""
    names = [frame.name for frame in frames]
    patterns = [re.sub(r"\d+", "0", Path(name).stem.lower()) for name in names]
    usual = Counter(patterns).most_common(1)[0][0]
    if others := [name for name, pattern in zip(names, patterns) if pattern != usual]:
        yield "patterns", f"{others[0]} beside {names[patterns.index(usual)]}, {len(others)} in all"
    elif numbers:
        steps = np.diff(numbers)
        step = Counter(steps[steps > 0].tolist()).most_common(1)[0][0]
        same, far = np.flatnonzero(steps == 0), np.flatnonzero(steps > step)
        if len(same):
            yield "twice", f"{names[same[0]]} and {names[same[0] + 1]}, {len(same)} in all"
        is_times_of_day = step > 1 and len(far) > len(steps) / 10 + 1
        if len(far) and published != len(names) and not is_times_of_day:
            yield "gaps", f"{names[far[0]]} is followed by {names[far[0] + 1]}, {len(far)} in all"


def frame_faults(frames: list[Frame], usual: int | None) -> Iterator[tuple[str, str]]:
    """Check that frames have one size, colour, format and quality, and do not repeat each other."""
    for attribute in ("size", "colour", "format"):
        values = [getattr(frame, attribute) for frame in frames]
        if len(groups := counts(values)) > 1:
            yield attribute, " and ".join(f"{n:,} {value} from {frames[values.index(value)].name}"
                                          for value, n in groups.items())

    # A few repeats occur in still scenes, many come from a wrong rate or a stuck decoder.
    repeats = [bool(after.content) and before.content == after.content for before, after in zip(frames, frames[1:])]
    if n := sum(repeats):
        longest = max(len(list(run)) for repeated, run in groupby(repeats) if repeated)
        yield ("stuck" if longest >= LONG_RUN or n > max(MANY_REPEATS * len(frames), 2) else "repeats",
               f"{n:,} of {len(frames):,}, up to {longest} in a row, first {frames[repeats.index(True) + 1].name}")

    # An encoder that keeps to a bit rate uses many qualities.
    if odd := [f.quality for f in frames if f.quality and usual and abs(f.quality - usual) >= QUALITY_STEP]:
        span = f"{min(odd)}" if min(odd) == max(odd) else f"{min(odd)} to {max(odd)}"
        yield ("varied" if len({f.quality for f in frames}) > 4 else "quality",
               f"{len(odd):,} of {len(frames):,} frames, quality {span}")


def check_splits(training: Videos, testing: Videos, again: str) -> list[Finding]:
    """Check that both splits were made in one way: to a model trained on sharper frames, compression is an anomaly."""
    findings, fix = [], f"make both splits from their sources in one way: {again}"
    for attribute in ("size", "colour"):
        ours, theirs = ({value for frames in videos.values() for value in
                         list(counts(getattr(frame, attribute) for frame in frames))[:1]}         # of most frames
                        for videos in (training, testing))
        if ours and theirs - ours:
            findings.append(Finding("problem", attribute, f"training frames are {some(sorted(ours))}, testing frames "
                                    f"{some(sorted(theirs))}", fix))
    a, b = usual_frame(training), usual_frame(testing)
    text = f"training frames are {a.encoding}, testing frames {b.encoding}"
    if a.quality and b.quality and abs(a.quality - b.quality) >= QUALITY_STEP:
        findings.append(Finding("problem", "quality", text, fix))
    elif a.content and b.content and a.encoding != b.encoding:
        findings.append(Finding("note", "quality", text))
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
    if source is None and (truths := facts_of(dataset).truths):
        notes.append(Finding("note", "labels", f"these labels are not the published ones ({' or '.join(truths)}); "
                             f"--compare-labels FILE {next(iter(truths))} shows where they differ"))
    return notes


def running_numbers(frames: list[Frame]) -> list[int] | None:
    """Find the number that counts the frames; None when none or several do."""
    columns = zip(*([int(digits) for digits in re.findall(r"\d+", Path(frame.name).stem)] for frame in frames))
    changing = [column for column in columns if len(set(column)) > 1]
    return list(changing[0]) if len(changing) == 1 else None


def usual_frame(videos: Videos) -> Frame:
    """Return the frame in the middle, from the worst quality to the best; one without content when all are damaged."""
    good = sorted((f for frames in videos.values() for f in frames if f.content), key=lambda f: f.quality or 0)
    return good[len(good) // 2] if good else Frame("", 0)
