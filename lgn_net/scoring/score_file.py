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

from lgn_net.errors import UserError
from lgn_net.files import write_atomic


class VideoScores(NamedTuple):
    """The scored frames of one video."""

    name: str
    frames: np.ndarray                 # (n,) int, ascending
    signals: dict[str, np.ndarray]     # (n,) float64 each: psnr, distance, regular_score, memory_updated, normality, ...
    labels: np.ndarray                 # (n,) uint8


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


def read_scores(path: str | Path, signals: Collection[str], labelled: bool = True) -> list[VideoScores]:
    """Read a score file, its videos in the order of their first line.

    What can be mended is mended with a warning: lines out of order are sorted, lines that repeat one are dropped, and so
    are frames without a finite value of one of the `signals` that are asked for.

    Args:
        signals: columns that must be there with numbers in them; the other numeric ones are read, too.
        labelled: whether the column `label` must be there; otherwise labels are 0.

    Raises:
        UserError: no such file or no CSV; a column missing; a cell that is no number; a frame twice with different
            numbers; no line.
    """
    columns = read_columns(path, ["video", "frame", *signals, *(["label"] if labelled else [])])
    names, frames = columns.pop("video"), whole_numbers(path, "frame", columns.pop("frame"), "a whole number, 0 or more")
    labels = whole_numbers(path, "label", columns.pop("label"), "0 or 1", (0, 1)) if labelled else np.zeros_like(frames)
    columns.pop("label", None)
    table = {name: numbers(path, name, columns.pop(name)) for name in signals}
    for name, cells in columns.items():
        with contextlib.suppress(UserError):                   # a column of remarks
            table[name] = numbers(path, name, cells)

    usable = np.all([np.isfinite(table[name]) for name in signals], axis=0)
    if not usable.all():
        k = np.flatnonzero(~usable)[0]
        warnings.warn(f"{path}: {np.sum(~usable)} of {len(usable)} frames have no finite "
                      f"{' and '.join(signals)} (first: video {names[k]}, frame {frames[k]}); left out")
    by_name = {}
    for k in np.flatnonzero(usable).tolist():
        by_name.setdefault(names[k], []).append(k)
    if not by_name:
        raise UserError(f"{path} holds no frame with finite {' and '.join(signals)}")

    videos = []
    for name, lines in by_name.items():
        lines = np.array(lines)
        order = lines[np.argsort(frames[lines], kind="stable")]
        if not np.array_equal(order, lines):
            warnings.warn(f"{path}: the lines of video {name} were not in the order of their frames; sorted")
        again = 1 + np.flatnonzero(np.diff(frames[order]) == 0)
        for k in again:
            if any(not np.array_equal(x[order[k]], x[order[k - 1]], equal_nan=True) for x in (*table.values(), labels)):
                raise UserError(f"{path}: video {name}, frame {frames[order[k]]} stands there twice, on lines "
                                f"{order[k - 1] + 2} and {order[k] + 2}, with different numbers; remove the wrong one")
        if len(again):
            warnings.warn(f"{path}: {len(again)} lines of video {name} repeat another one; dropped")
            order = np.delete(order, again)
        if len(order) <= frames[order[-1]] - frames[order[0]]:
            warnings.warn(f"{path}: {frames[order[-1]] - frames[order[0]] + 1 - len(order)} frames between the first "
                          f"and the last of video {name} are missing; their neighbours are taken as consecutive")
        videos.append(VideoScores(name, frames[order], {key: x[order] for key, x in table.items()},
                                  labels[order].astype(np.uint8)))
    return videos


def read_columns(path: str | Path, required: Sequence[str]) -> dict[str, list[str]]:
    """A CSV file with a header, column by column, as text."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        header, *lines = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
    except (UnicodeDecodeError, csv.Error, ValueError):
        raise UserError(f"{path} is no CSV file in UTF-8 with a header line") from None
    lines = [line for line in lines if line]
    if missing := [name for name in required if name not in header]:
        raise UserError(f"{path} lacks the column{'s'[:len(missing) > 1]} {', '.join(missing)} (it has: "
                        f"{', '.join(header)}); scores of other programs are read with --direction normal|abnormal")
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise UserError(f"{path}, line {number}: {len(line)} cells, but {len(header)} columns; the file is cut off "
                            f"or damaged")
    if not lines:
        raise UserError(f"{path} holds no frames, only the header line")
    return {name: [cell.strip() for cell in cells] for name, cells in zip(header, zip(*lines))}


def numbers(path: str | Path, name: str, cells: list[str]) -> np.ndarray:
    """Cells -> float64; empty ones are NaN. UserError naming the first that is no number."""
    try:
        return np.array([cell or "nan" for cell in cells], dtype=float)
    except ValueError:
        for number, cell in enumerate(cells, 2):
            try:
                float(cell or "nan")
            except ValueError:
                raise UserError(f"{path}, line {number}: {name} is {cell!r}, no number") from None
        raise


def whole_numbers(path: str | Path, name: str, cells: list[str], expected: str, known: Collection[int] = ()) -> np.ndarray:
    """Cells -> int64, 0 or more or one of the `known`. UserError naming the first that is not."""
    values = numbers(path, name, cells)
    wrong = ~np.isin(values, known) if known else (values % 1 != 0) | (values < 0)
    if wrong.any():
        k = np.flatnonzero(wrong)[0]
        raise UserError(f"{path}, line {k + 2}: {name} is {cells[k]!r}; it must be {expected}")
    return values.astype(int)
