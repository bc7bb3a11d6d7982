"""Read and write the score file, one line per scored frame: everything after the network starts from it.

Columns: video, frame (index in its video, from 0), any number of signals, label (1 is abnormal).
"""

import contextlib
import csv
import io
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lgn_net.data.videos import natural_key
from lgn_net.errors import UserError
from lgn_net.files import write_atomic

MOST_FRAMES = 10_000_000               # of a video: four days at 30 a second, more is a slip


class VideoScores(NamedTuple):
    """The scored frames of one video."""

    name: str
    frames: np.ndarray                 # (n,) int, ascending
    signals: dict[str, np.ndarray]     # (n,) float64 each: psnr, distance, regular_score, memory_updated, normality ...
    labels: np.ndarray                 # (n,) uint8

    @property
    def distances(self) -> list[np.ndarray]:
        """The distance D (n,) to each memory; empty where the scores are of a network without memory."""
        names = ("distance", *distance_names(len(self.signals)))
        return [self.signals[name] for name in dict.fromkeys(names) if name in self.signals]

    def pick(self, chosen: np.ndarray) -> "VideoScores":
        """Keep some of the frames: indices (m,), or bool (n,)."""
        signals = {name: x[chosen] for name, x in self.signals.items()}
        return VideoScores(self.name, self.frames[chosen], signals, self.labels[chosen])


def distance_names(memories: int) -> list[str]:
    """Name the columns of the score file with the distances: one for one memory, numbered ones for several."""
    return ["distance"] if memories == 1 else [f"distance_{k + 1}" for k in range(memories)]


def stretches(flags: np.ndarray) -> np.ndarray:
    """Find where flags (n,) are set: first index and the one after the last of each stretch, (k, 2)."""
    return np.flatnonzero(np.diff(np.concatenate([[0], flags, [0]]).astype(int))).reshape(-1, 2)


def relabel(videos: Sequence[VideoScores], truth: Mapping[str, np.ndarray], where: str) -> list[VideoScores]:
    """Give scores the labels (T,) that `truth` has for all frames of each video; `where` names their source.

    Raises UserError when the labels are of other videos or end too early.
    """
    for video in videos:
        if video.name not in truth:
            raise UserError(f"labels {where}: none for video {video.name!r}; they are of {len(truth)} videos "
                            f"({', '.join(list(truth)[:3])} ...), the scores of {len(videos)}")
        if video.frames[-1] >= len(truth[video.name]):
            raise UserError(f"labels {where}: {len(truth[video.name])} for video {video.name}, whose scores reach "
                            f"frame {video.frames[-1]} (from 0); give the labels of these videos with --labels")
    return [video._replace(labels=truth[video.name][video.frames].astype(np.uint8)) for video in videos]


def write_scores(path: str | Path, videos: Iterable[VideoScores], labelled: bool = True) -> None:
    """Write a score file, floats in full precision; without the last column where `labelled` is false."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for v, video in enumerate(videos):
        if v == 0:
            writer.writerow(["video", "frame", *video.signals, *(["label"] if labelled else [])])
        columns = [[int(x) if x in (0, 1) else x for x in values.tolist()] for values in video.signals.values()]
        columns += [video.labels.tolist()] if labelled else []
        writer.writerows([video.name, *row] for row in zip(video.frames.tolist(), *columns))
    write_atomic(Path(path), text.getvalue())


def read_scores(path: str | Path, signals: Collection[str], labelled: bool | None = True,
                consecutive: bool = True) -> list[VideoScores]:
    """Read a score file, its videos in natural order of their names, their frames in ascending order.

    Frames without a finite value of one of the `signals` are left out with a warning.

    Args:
        path: of a CSV file, written by this project or by hand.
        signals: columns that must be there with numbers in them; the other numeric ones are read, too.
        labelled: whether the column `label` must be there; None reads the column where it is there. Otherwise labels
            are 0.
        consecutive: whether to warn of frames that are missing in between.

    Raises:
        UserError: no such file or no CSV; a column missing; a cell that is no number; a frame twice; no line.
    """
    table = read_table(path, ["video", "frame", *signals, *(["label"] if labelled else [])],
                       hint="; labels can be given with --labels, and scores of other programs with --direction "
                            "normal|abnormal")
    # Columns: those that are asked for must be numbers, others may be remarks.
    names, frames = np.array(table.columns["video"]), table.frames()
    has_labels = labelled or (labelled is None and "label" in table.columns)
    labels = table.labels() if has_labels else np.zeros(len(frames), np.uint8)
    values = {name: table.numbers(name) for name in signals}
    for name in table.columns.keys() - {"video", "frame", "label", *signals}:
        with contextlib.suppress(UserError):
            values[name] = table.numbers(name)
    values = {name: values[name] for name in (*signals, *table.columns) if name in values}

    # Frames that can be scored.
    good = np.all([usable(values[name]) for name in signals], axis=0)
    if not good.all():
        k = np.flatnonzero(~good)[0]
        warnings.warn(f"{path}: {np.sum(~good)} of {len(good)} frames have no finite {' and '.join(signals)} (first: "
                      f"line {table.lines[k]}, video {names[k]}, frame {frames[k]}); left out")
    if not good.any():
        raise UserError(f"{path} holds no frame with finite {' and '.join(signals)}")

    # Lines of one video, in the order of their frames.
    videos = []
    for name in sorted(set(names[good].tolist()), key=natural_key):
        rows = np.flatnonzero(good & (names == name))
        rows = rows[np.argsort(frames[rows], kind="stable")]
        steps = np.diff(frames[rows])
        if (again := np.flatnonzero(steps == 0)).size:
            first, second = rows[again[0]:again[0] + 2]
            raise UserError(f"{path}: video {name}, frame {frames[first]} stands there twice, on lines "
                            f"{table.lines[first]} and {table.lines[second]}; remove one")
        if consecutive and (missing := int((steps - 1).sum())):
            warnings.warn(f"{path}: {missing} frames between the first and the last of video {name} are missing; "
                          f"their neighbours are taken as consecutive")
        videos.append(VideoScores(name, frames[rows], {key: x[rows] for key, x in values.items()}, labels[rows]))
    return videos


class Table(NamedTuple):
    """A CSV file with a header line, its cells as text."""

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]                   # where each row stands in the file, from 1

    def numbers(self, name: str) -> np.ndarray:
        """Read a column as float64, empty cells as NaN. UserError naming the first cell that is no number."""
        values = []
        for k, cell in enumerate(self.columns[name]):
            try:
                values.append(float(cell or "nan"))
            except ValueError:
                raise self.refuse(name, k, "a number") from None
        return np.array(values)

    def frames(self) -> np.ndarray:
        """Read the column frame as int64. UserError naming the first cell that is no index."""
        values = self.numbers("frame")
        wrong = ~(values >= 0) | (values >= MOST_FRAMES) | (values != np.floor(values))
        if wrong.any():
            raise self.refuse("frame", wrong.argmax(), f"a whole number, 0 or more and below {MOST_FRAMES:,}")
        return values.astype(int)

    def labels(self) -> np.ndarray:
        """Read the column label as uint8. UserError naming the first cell that is neither 0 nor 1."""
        values = self.numbers("label")
        if (wrong := ~np.isin(values, (0, 1))).any():
            raise self.refuse("label", wrong.argmax(), "0 or 1")
        return values.astype(np.uint8)

    def refuse(self, name: str, k: int | np.intp, expected: str) -> UserError:
        """Make the sentence for the k-th cell of a column."""
        return UserError(f"{self.path}, line {self.lines[k]}: {name} is {self.columns[name][k]!r}; it must be "
                         f"{expected}")


def read_table(path: str | Path, required: Sequence[str], hint: str = "") -> Table:
    """Read a CSV file with a header line; blank lines and columns without a name are passed over.

    UserError when a `required` column is missing, with the `hint`, and when it is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""))
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
        (_, header), *rows = [(number, row) for number, row in lines if any(row)]
    except (UnicodeDecodeError, csv.Error, ValueError):
        raise UserError(f"{path} is no CSV file in UTF-8 with a header line") from None
    if missing := [name for name in required if name not in header]:
        if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
            hint = "; write it with commas between the cells and points in the numbers"
        raise UserError(f"{path} lacks the column{'s'[:len(missing) > 1]} {', '.join(missing)} (it has: "
                        f"{', '.join(header)[:200]}){hint}")
    if again := [name for k, name in enumerate(header) if name and name in header[:k]]:
        raise UserError(f"{path} has two columns {again[0]}; remove one")
    for number, row in rows:
        if len(row) != len(header):
            raise UserError(f"{path}, line {number}: {len(row)} cells, but {len(header)} columns; the file is cut off "
                            f"or damaged")
    if not rows:
        raise UserError(f"{path} holds no frames, only the header line")
    columns = {name: list(cells) for name, cells in zip(header, zip(*(row for _, row in rows))) if name}
    table = Table(path, columns, [number for number, _ in rows])
    if "" in columns.get("video", []):
        raise table.refuse("video", columns["video"].index(""), "the name of a video")
    return table


def usable(values: np.ndarray) -> np.ndarray:
    """Find values that are finite, and far enough from the largest float to be squared and summed."""
    return np.abs(values) < 1e100
