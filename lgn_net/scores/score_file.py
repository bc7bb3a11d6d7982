"""Read and write the score file, one line per scored frame: everything after the network starts from it.

Columns: video, frame (index in its video, from 0), any number of signals, label (1 is abnormal).
"""

import contextlib
import csv
import io
import warnings
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lgn_net.data.videos import natural_key
from lgn_net.errors import UserError
from lgn_net.files import write_atomic


class VideoScores(NamedTuple):
    """The scored frames of one video."""

    name: str
    frames: np.ndarray                 # (n,) int, ascending
    signals: dict[str, np.ndarray]     # (n,) float64 each: psnr, distance, regular_score, memory_updated, normality ...
    labels: np.ndarray                 # (n,) uint8

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


class Table(NamedTuple):
    """A CSV file with a header line, its cells as text."""

    path: Path
    columns: dict[str, list[str]]

    def numbers(self, name: str, accept: Callable[[float], bool] = lambda x: True,
                expected: str = "a number") -> np.ndarray:
        """Read a column as float64, empty cells as NaN. UserError naming the first cell that is not as `expected`."""
        values = []
        for k, cell in enumerate(self.columns[name], 1):
            try:
                value = float(cell or "nan")
            except ValueError:
                value = None
            if value is None or not accept(value):
                raise UserError(f"{self.path}, row {k} below the header: {name} is {cell!r}; it must be {expected}")
            values.append(value)
        return np.array(values)


def read_table(path: str | Path, required: Collection[str]) -> Table:
    """Read a CSV file; blank lines and columns without a name are passed over.

    UserError when it is no such file, and when a `required` column is missing.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
        header, *rows = filter(any, rows)
        if not rows or any(len(row) != len(header) for row in rows):
            raise ValueError
    except (ValueError, csv.Error):                                     # UnicodeDecodeError is a ValueError
        raise UserError(f"{path} is no CSV file in UTF-8 with a header line and as many cells in every line below "
                        f"it; it may be cut off") from None
    if missing := [name for name in required if name not in header]:
        raise UserError(f"{path} lacks the column{'s'[:len(missing) > 1]} {', '.join(missing)} (it has: "
                        f"{', '.join(header)[:200]}); cells are separated by commas, labels can be given with "
                        f"--labels, and scores of other programs with --direction normal|abnormal")
    return Table(Path(path), {name: list(cells) for name, cells in zip(header, zip(*rows)) if name})


def read_scores(path: str | Path, signals: Collection[str], labelled: bool | None = True,
                consecutive: bool = True) -> list[VideoScores]:
    """Read a score file, its videos in natural order of their names, their frames in ascending order.

    Frames without a finite value of one of the `signals` are left out with a warning. UserError for a column missing, a
    cell that is no number, a frame twice, no finite signal.

    Args:
        path: of a CSV file, written by this project or by hand.
        signals: columns that must be there with numbers in them; the other numeric ones are read, too.
        labelled: whether the column `label` must be there; None reads it where it is there. Otherwise labels are 0.
        consecutive: whether to warn of frames that are missing in between.
    """
    table = read_table(path, ["video", "frame", *signals, *(["label"] if labelled else [])])
    names = np.array(table.columns["video"])
    frames = table.numbers("frame", lambda x: x >= 0 and x % 1 == 0, "a whole number, 0 or more").astype(int)
    has_labels = labelled or (labelled is None and "label" in table.columns)
    labels = (table.numbers("label", (0, 1).__contains__, "0 or 1") if has_labels else 0 * frames).astype(np.uint8)

    # Columns that are asked for must be numbers, others may be remarks.
    values = {name: table.numbers(name) for name in signals}
    for name in (name for name in table.columns if name not in ("video", "frame", "label", *signals)):
        with contextlib.suppress(UserError):
            values[name] = table.numbers(name)
    good = np.all([usable(values[name]) for name in signals], axis=0)
    if not good.all():
        warnings.warn(f"{path}: {np.sum(~good)} of {len(good)} frames have no finite {' and '.join(signals)} (first: "
                      f"video {names[~good][0]}, frame {frames[~good][0]}); left out")
    if not good.any():
        raise UserError(f"{path} holds no frame with finite {' and '.join(signals)}")

    # Lines of one video, in the order of their frames.
    videos = []
    for name in sorted(set(names[good].tolist()), key=natural_key):
        rows = np.flatnonzero(good & (names == name))
        rows = rows[np.argsort(frames[rows], kind="stable")]
        steps = np.diff(frames[rows])
        if not steps.all():
            raise UserError(f"{path}: video {name}, frame {frames[rows][steps.argmin()]} stands there twice")
        if consecutive and (missing := int((steps - 1).sum())):
            warnings.warn(f"{path}: {missing} frames between the first and the last of video {name} are missing; "
                          f"their neighbours are taken as consecutive")
        videos.append(VideoScores(name, frames[rows], {key: x[rows] for key, x in values.items()}, labels[rows]))
    return videos


def usable(values: np.ndarray) -> np.ndarray:
    """Find values that are finite, and far enough from the largest float to be squared and summed."""
    return np.abs(values) < 1e100
