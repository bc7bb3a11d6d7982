"""The score file, one line per scored frame: everything after the network starts from it.

Columns: video, frame (index in its video, from 0), any number of signals, label (1 is abnormal).
"""

import contextlib
import csv
import io
import warnings
from collections.abc import Collection, Iterable, Sequence
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


def stretches(flags: np.ndarray) -> np.ndarray:
    """Where flags (n,) are set: first index and the one after the last of each stretch, (k, 2)."""
    return np.flatnonzero(np.diff(np.concatenate([[0], flags, [0]]).astype(int))).reshape(-1, 2)


def write_scores(path: str | Path, videos: Iterable[VideoScores], labelled: bool = True) -> None:
    """Write a score file, floats in full precision; without the last column where `labelled` is false."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for v, video in enumerate(videos):
        if v == 0:
            writer.writerow(["video", "frame", *video.signals, *(["label"] if labelled else [])])
        columns = [plain(x) for x in video.signals.values()] + ([video.labels.tolist()] if labelled else [])
        writer.writerows([video.name, *row] for row in zip(video.frames.tolist(), *columns))
    write_atomic(Path(path), text.getvalue())


def plain(values: np.ndarray) -> list:
    """Python numbers; whole ones (memory_updated) as such."""
    return [int(x) if x in (0, 1) else x for x in values.tolist()]


def read_scores(path: str | Path, signals: Collection[str], labelled: bool = True, consecutive: bool = True) \
        -> list[VideoScores]:
    """Read a score file, its videos in natural order of their names.

    What can be mended is mended with a warning: lines out of order are sorted, lines that repeat one are dropped, and
    so are frames without a finite value of one of the `signals` that are asked for.

    Args:
        signals: columns that must be there with numbers in them; the other numeric ones are read, too.
        labelled: whether the column `label` must be there; otherwise labels are 0.
        consecutive: whether to warn of frames that are missing in between.

    Raises:
        UserError: no such file or no CSV; a column missing; a cell that is no number; a frame twice with different
            numbers; no line.
    """
    text = read_table(path, ["video", "frame", *signals, *(["label"] if labelled else [])],
                      hint="; labels can be given with --labels, and scores of other programs with --direction "
                           "normal|abnormal")
    names, frames = text.columns["video"], text.frames()
    labels = text.labels() if labelled else np.zeros_like(frames)
    table = {name: text.numbers(name) for name in signals}
    for name in text.columns:
        if name not in ("video", "frame", "label", *signals):
            with contextlib.suppress(UserError):               # a column of remarks
                table[name] = text.numbers(name)

    good = np.all([usable(table[name]) for name in signals], axis=0)
    if not good.all():
        k = np.flatnonzero(~good)[0]
        warnings.warn(f"{path}: {np.sum(~good)} of {len(good)} frames have no finite {' and '.join(signals)} (first: "
                      f"line {text.lines[k]}, video {names[k]}, frame {frames[k]}); left out")
    by_name = {}
    for k in np.flatnonzero(good).tolist():
        by_name.setdefault(names[k], []).append(k)
    if not by_name:
        raise UserError(f"{path} holds no frame with finite {' and '.join(signals)}")

    videos = []
    for name in sorted(by_name, key=natural_key):
        lines = np.array(by_name[name])
        order = lines[np.argsort(frames[lines], kind="stable")]
        if not np.array_equal(order, lines):
            warnings.warn(f"{path}: the lines of video {name} were not in the order of their frames; sorted")
        again = 1 + np.flatnonzero(np.diff(frames[order]) == 0)
        for k in again:
            if any(not np.array_equal(x[order[k]], x[order[k - 1]], equal_nan=True) for x in (*table.values(), labels)):
                raise UserError(f"{path}: video {name}, frame {frames[order[k]]} stands there twice, on lines "
                                f"{text.lines[order[k - 1]]} and {text.lines[order[k]]}, with different numbers; "
                                f"remove the wrong one")
        if len(again):
            warnings.warn(f"{path}: {len(again)} lines of video {name} repeat another one; dropped")
            order = np.delete(order, again)
        if consecutive and len(order) <= frames[order[-1]] - frames[order[0]]:
            warnings.warn(f"{path}: {frames[order[-1]] - frames[order[0]] + 1 - len(order)} frames between the first "
                          f"and the last of video {name} are missing; their neighbours are taken as consecutive")
        videos.append(VideoScores(name, frames[order], {key: x[order] for key, x in table.items()},
                                  labels[order].astype(np.uint8)))
    return videos


class Table(NamedTuple):
    """A CSV file with a header line, its cells as text."""

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]                   # where each row stands in the file, from 1

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64, empty cells as NaN. UserError naming the first cell that is no number."""
        try:
            return np.array([cell or "nan" for cell in self.columns[name]], dtype=float)
        except ValueError:
            raise self.refuse(name, [not is_number(cell or "nan") for cell in self.columns[name]], "a number") from None

    def frames(self) -> np.ndarray:
        """The column frame as int64. UserError naming the first cell that is no index."""
        values = self.numbers("frame")
        wrong = ~(values >= 0) | (values >= MOST_FRAMES) | (values != np.floor(values))
        if wrong.any():
            raise self.refuse("frame", wrong, f"a whole number, 0 or more and below {MOST_FRAMES:,}")
        return values.astype(int)

    def labels(self) -> np.ndarray:
        """The column label as uint8. UserError naming the first cell that is neither 0 nor 1."""
        values = self.numbers("label")
        wrong = ~np.isin(values, (0, 1))
        if wrong.any():
            raise self.refuse("label", wrong, "0 or 1")
        return values.astype(np.uint8)

    def refuse(self, name: str, wrong: Sequence[bool] | np.ndarray, expected: str) -> UserError:
        """The sentence for the first wrong cell of a column."""
        k = int(np.flatnonzero(wrong)[0])
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
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
        (_, header), *rows = [(number, row) for number, row in rows if any(row)]
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
    if not all(columns.get("video", ["-"])):
        raise table.refuse("video", [not name for name in columns["video"]], "the name of a video")
    return table


def is_number(text: str) -> bool:
    """Whether Python reads it as a float."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def usable(values: np.ndarray) -> np.ndarray:
    """Where values are finite, and far enough from the largest float to be squared and summed."""
    return np.abs(values) < 1e100
