"""Read and write the score file, one line per scored frame: everything after the network starts from it.

Columns: video, frame (index in its video, from 0), any number of signals, label (1 is abnormal).
"""

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from warnings import warn

import numpy as np

from lgn_net.data.labels import match_names, read_rows
from lgn_net.data.videos import natural_key
from lgn_net.errors import UserError
from lgn_net.files import write_atomic

# How a name begins that spreadsheets take for a formula; in our files it has a ' before it.
FORMULA = re.compile(r"'*[=+\-@\t\r]")


class VideoScores(NamedTuple):
    """The scored frames of one video."""

    name: str
    frames: np.ndarray                 # (n,) int, ascending
    signals: dict[str, np.ndarray]     # (n,) float64 each: psnr, distance, regular_score, memory_updated, normality ...
    labels: np.ndarray                 # (n,) uint8


Videos = Sequence[VideoScores]


def safe(cell: Any) -> Any:
    """Put a ' before a text that spreadsheets take for a formula."""
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def distance_names(memories: int) -> list[str]:
    """Name the columns of the score file with the distances: one for one memory, numbered ones for several."""
    return ["distance"] if memories == 1 else [f"distance_{k + 1}" for k in range(memories)]


def stretches(flags: np.ndarray) -> np.ndarray:
    """Find where flags (n,) are set: first index and the one after the last of each stretch, (k, 2)."""
    return np.flatnonzero(np.diff(np.concatenate([[0], flags, [0]]).astype(int))).reshape(-1, 2)


def write_scores(path: str | Path, videos: Videos, labelled: bool = True) -> None:
    """Write a score file, floats in full precision; without the last column where `labelled` is false."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "frame", *map(safe, videos[0].signals), *["label"] * labelled])
    for video in videos:
        columns = [[int(x) if x in (0, 1) else x for x in values.tolist()] for values in video.signals.values()]
        columns += [video.labels.tolist()] if labelled else []
        name = safe(video.name)
        writer.writerows([name, *row] for row in zip(video.frames.tolist(), *columns))
    write_atomic(Path(path), text.getvalue())


def read_table(path: str | Path, required: Collection[str]) -> dict[str, np.ndarray]:
    """Read a CSV file: each named column as float64, empty cells as NaN; or as text, where it is not `required`."""
    try:
        header, lines = read_rows(path)
        if not lines:
            raise ValueError("there is no line below the first")
    except ValueError as error:
        raise UserError(f"{path} is no CSV file with a header line and as many cells in every line below it ({error}); "
                        f"it may be cut off") from None
    header, *rows = [[cell[1:] if cell[:1] == "'" and FORMULA.match(cell) else cell for cell in row]
                     for row in (header, *(cells for _, cells in lines))]
    known = {name.lower(): name for name in required}
    columns = {known.get(name.lower(), name): np.array(cells) for name, cells in zip(header, zip(*rows)) if name}
    if missing := [name for name in required if name not in columns]:
        raise UserError(f"{path} lacks the columns {', '.join(missing)} (it has: {', '.join(columns)[:200]}); "
                        f"labels can be given with --labels")
    for name in columns.keys() - {"video"}:
        try:
            numbers = np.char.replace(columns[name], ",", ".")                           # European ones
            columns[name] = np.where(numbers == "", "nan", numbers).astype(float)
        except ValueError as error:
            if name in required:
                raise UserError(f"{path}, column {name}: {error}") from None
    return columns


def known_as(path: str | Path, videos: Videos, names: Collection[str]) -> list[VideoScores]:
    """Rename videos to those of `names` that they mean, see `match_names`; none where one of them means none."""
    means = match_names([video.name for video in videos], names, path)
    return [video._replace(name=means[video.name]) for video in videos] if len(means) == len(videos) else [*videos]


def read_scores(path: str | Path, signals: Collection[str], labelled: bool = True) -> list[VideoScores]:
    """Read a score file as in `by_video`, with at least the columns of `signals`; labels are 0 where there are none."""
    columns = read_table(path, ["video", "frame", *signals, *["label"] * labelled])
    names, frames = columns.pop("video"), columns.pop("frame")
    labels = columns.pop("label", np.zeros(len(names)))
    bad = ~(np.isin(labels, (0, 1)) & (frames >= 0) & (frames < 1e9) & (frames == np.floor(frames)))
    if bad.any():
        raise UserError(f"{path}: video {names[bad][0]}, frame {frames[bad][0]}, label {labels[bad][0]}: a frame is a "
                        f"whole number from 0, a label 0 or 1")
    numeric = {name: values for name, values in columns.items() if values.dtype == float and name != "decision"}
    return by_video(path, names, frames.astype(int), numeric, labels, signals)


def by_video(path: str | Path, names: np.ndarray, frames: np.ndarray, signals: Mapping[str, np.ndarray],
             labels: np.ndarray, needed: Collection[str]) -> list[VideoScores]:
    """Sort scored frames, arrays (n,), into videos in natural order of their names; frames ascend.

    Frames without finite `needed` signals are left out with a warning. UserError where none is left, or one is twice.
    """
    good = np.all([np.abs(signals[name]) < 1e100 for name in needed], axis=0)              # can be squared and summed
    if not good.all():
        warn(f"{path}: {np.sum(~good)} of {len(good)} frames have no finite {' and '.join(needed)} (first: video "
             f"{names[~good][0]}, frame {frames[~good][0]}); left out")
    if not good.any():
        raise UserError(f"{path} holds no frame with finite {' and '.join(needed)}")
    videos = []
    for name in sorted(set(names[good].tolist()), key=natural_key):
        rows = np.flatnonzero(good & (names == name))
        rows = rows[np.argsort(frames[rows])]
        if not (steps := np.diff(frames[rows])).all():
            raise UserError(f"{path}: video {name}, frame {frames[rows][steps.argmin()]} is there twice")
        videos.append(VideoScores(name, frames[rows], {key: x[rows] for key, x in signals.items()},
                                  labels[rows].astype(np.uint8)))
    return videos
