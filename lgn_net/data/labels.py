"""Every published label format -> one 0/1 array per video, lengths checked. 1 is abnormal."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from lgn_net.datasets import BENCHMARKS, canonical_name, names_of, truths_of
from lgn_net.datasets.common import mark, natural_key
from lgn_net.datasets.ucsd import read_ranges as read_ucsd_ranges
from lgn_net.errors import UserError

GIVE = "give the labels of these videos with --labels"


def find_labels(root: str | Path, dataset: str, split_folder: Path, source: str = "auto") -> Path:
    """Find the label file of a data set.

    Args:
        root: the folder that holds the data set's folder, or that folder itself.
        dataset: its name.
        split_folder: the folder of its test videos.
        source: "official" or "ano_pred": the labels of that source that ship with the project. "auto": beside the
            frames, in the folder above, or shipped (for Avenue ano_pred, which the published numbers used). Looked for,
            in this order, in the data set's folder and in `root`: `frame_labels_<dataset>.npy`, `<dataset>.mat`,
            `labels.csv`.

    Raises:
        UserError: there is none; the sentence names what was looked for.
    """
    truths = truths_of(dataset)
    if source in truths:
        return truths[source]
    if source != "auto":
        raise UserError(f"no {source} labels of {dataset} ship with this project (there are: "
                        f"{', '.join(truths) or 'none'}); leave --label_source at auto, or give --labels FILE")
    names = [file for name in names_of(dataset) for file in (f"frame_labels_{name}.npy", f"{name}.mat")]
    names.append("labels.csv")
    for folder in (split_folder.parent.parent, Path(root)):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    if truths:
        return next(iter(truths.values()))
    raise UserError(f"no labels of {dataset}: expected one of {', '.join(names)} in {split_folder.parent.parent} "
                    f"or {root}; or give --labels FILE")


def known_source(dataset: str, labels: Mapping[str, np.ndarray]) -> str | None:
    """Name the source whose labels these are, wherever they were read from.

    Args:
        dataset: its name.
        labels: name of each video -> (T,).

    Returns:
        "official" or "ano_pred"; both, "official, ano_pred", where they agree on all of the videos; None for labels
        that do not ship.
    """
    truths = {source: read_ranges(path) for source, path in truths_of(dataset).items()}
    return ", ".join(source for source, truth in truths.items() if all(
        np.array_equal(truth.get(name, ()), y) for name, y in labels.items())) or None


def shipped_truths(names: Sequence[str], frames: Sequence[np.ndarray], labels: Sequence[np.ndarray],
                   dataset: str | None = None) -> dict[str, list[np.ndarray]]:
    """Find all truths of the benchmark whose labels these are, for the same frames, by the name of their source.

    Of a data set that is not named, the videos must be all of the benchmark's: a few are alike by accident.

    Args:
        names: of each video.
        frames: of each video the indices (n,) of its frames.
        labels: of each video the labels (n,) of these frames.
        dataset: its name; None where it is not known.

    Returns:
        {} for labels that do not ship. For Avenue two entries, whichever of the two was given.
    """
    for name, benchmark in BENCHMARKS.items():
        if name != canonical_name(dataset) if dataset else set(names) != set(benchmark.test_lengths):
            continue
        known = {source: read_ranges(path) for source, path in benchmark.truths.items()}
        truths = {source: [truth[name][t] for name, t in zip(names, frames)] for source, truth in known.items()
                  if all(name in truth and t[-1] < len(truth[name]) for name, t in zip(names, frames))}
        if any(all(map(np.array_equal, truth, labels)) for truth in truths.values()):
            return truths
    return {}


def load_label_folder(folder: str | Path) -> dict[str, np.ndarray]:
    """Read a folder with `<video>.npy` of 0 and 1 per video, as ShanghaiTech's test_frame_mask: name -> uint8 (T,)."""
    files = sorted(Path(folder).glob("*.npy"), key=lambda path: natural_key(path.name))
    if not files:
        raise UserError(f"labels {folder}: the folder holds no <video>.npy")
    return {path.stem: flat_labels(path) for path in files}


def load_labels(path: str | Path, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read the labels of every frame of every test video.

    Args:
        path: by its suffix
            `.npy`: frame labels of all videos one after the other, 1-D or (1, N), as circulated with MNAD and LGN-Net;
            `.mat`: ano_pred's cell array `gt`, per video a 2 x k matrix of first and last abnormal frame, from 1;
            `.m`: UCSD's `gt_frame` ranges, likewise from 1;
            `.json`: as in `datasets/ranges/`, `{"frames": [lengths], "abnormal": [[[first, last], ...], ...]}`, from 0;
            with `"videos": [names]` it may hold more videos than these;
            `.csv`: lines `video,start,end`, both ends included and counted from 0, or `video,frame,label`. Videos by
            the name of their folder. Videos without a line are normal.
        lengths: frames of all test videos by name, in order, the skipped ones too.

    Returns:
        Name of each video -> uint8 (T,) of 0 and 1, in the order of `lengths`.

    Raises:
        UserError: no such file, another format, or other lengths than the videos'; both numbers are named.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"labels {path}: no such file")
    readers = {".npy": read_npy, ".mat": read_mat, ".json": read_json, ".csv": read_csv,
               ".m": lambda path, lengths: from_ranges(path, lengths, read_ucsd_ranges(path))}
    if path.suffix.lower() not in readers:
        raise UserError(f"labels {path}: unknown format '{path.suffix}'; known: {', '.join(readers)}")
    return readers[path.suffix.lower()](path, lengths)


def read_npy(path: Path, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read frame labels of all videos one after the other."""
    flat, ends = flat_labels(path), np.cumsum(list(lengths.values()))
    if len(flat) != sum(lengths.values()):
        raise UserError(f"labels {path}: {len(flat)} labels, but {in_words(lengths)} with {sum(lengths.values())} "
                        f"frames; {GIVE}")
    return dict(zip(lengths, np.split(flat, ends[:-1])))


def flat_labels(path: Path) -> np.ndarray:
    """Read a NumPy file of 0 and 1, in one row or column: uint8 (N,)."""
    try:
        flat = np.load(path, allow_pickle=False)
        if flat.size != max(flat.shape, default=0) or not np.isin(flat, (0, 1)).all():
            raise ValueError(f"shape {flat.shape}, values {np.unique(flat)[:5]}")
        return flat.astype(np.uint8).ravel()
    except Exception as error:                             # NumPy raises many kinds for a damaged file
        raise UserError(f"labels {path}: no NumPy array of 0 (normal) and 1 (abnormal) of shape (N,) or (1, N) for N "
                        f"frames of all videos ({one_line(error)})") from None


def read_mat(path: Path, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read ano_pred's ranges."""
    try:
        cells = scipy.io.loadmat(path)["gt"].ravel()
        if cells.dtype != object:
            raise TypeError(f"gt holds {cells.dtype}")
        ranges = [cell.reshape(2, -1).T - np.array((1, 1)) for cell in cells]
    except Exception as error:                             # SciPy, too
        raise UserError(f"labels {path}: no MATLAB file with a cell array `gt` of 2 x k matrices ({one_line(error)})") \
            from None
    return from_ranges(path, lengths, ranges)


def read_json(path: Path, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read ranges of a whole test set, with the lengths and perhaps the names of its videos."""
    known = read_ranges(path)
    names = list(lengths) if set(lengths) <= set(known) else list(known)
    if len(names) != len(lengths):
        raise UserError(f"labels {path}: {len(names)} videos, but {in_words(lengths)}; {GIVE}")
    for (video, length), name in zip(lengths.items(), names):
        if length != len(known[name]):
            raise UserError(f"labels {path}: {len(known[name])} frames for video {video}, which has {length}; {GIVE}")
    return {video: known[name] for video, name in zip(lengths, names)}


def read_ranges(path: Path) -> dict[str, np.ndarray]:
    """Read a labels file as in `datasets/ranges/`.

    Returns:
        Name of each video, or its number from 0 where the file has no names -> uint8 (T,).

    Raises:
        UserError: it has another form.
    """
    try:
        content = json.loads(path.read_text())
        frames = content["frames"]
        names = content.get("videos") or map(str, range(len(frames)))
        return from_ranges(path, dict(zip(names, frames, strict=True)), content["abnormal"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"labels {path}: no JSON object with `frames` and `abnormal` ({one_line(error)})") from None


def from_ranges(path: Path, lengths: Mapping[str, int], ranges: Sequence[Any]) -> dict[str, np.ndarray]:
    """Turn the (first, last) abnormal frames of each video, from 0, both included, into arrays."""
    if len(ranges) != len(lengths):
        raise UserError(f"labels {path}: {len(ranges)} videos, but {in_words(lengths)}; {GIVE}")
    labels = {video: np.zeros(length, np.uint8) for video, length in lengths.items()}
    for (video, array), pairs in zip(labels.items(), ranges):
        try:
            numbers = np.array(pairs, float)
            if numbers.size and (numbers.ndim != 2 or numbers.shape[1] != 2 or (numbers % 1).any()):
                raise ValueError
        except (ValueError, TypeError):
            raise UserError(f"labels {path}: ranges {pairs!r} of video {video}; expected pairs of whole numbers") \
                from None
        for first, last in numbers.astype(int).reshape(-1, 2):
            mark(path, video, array, first, last)
    return labels


def read_csv(path: Path, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read ranges or frame labels by the name of the video."""
    labels = {video: np.zeros(length, np.uint8) for video, length in lengths.items()}
    try:
        rows = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
        columns, lines = tuple(rows.fieldnames or ()), [(rows.line_num, row) for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"labels {path}: no CSV in UTF-8 ({one_line(error)}); save it again as CSV UTF-8") from None
    if columns not in (("video", "start", "end"), ("video", "frame", "label")):
        raise UserError(f"labels {path}: first line {','.join(columns)!r}; "
                        f"expected video,start,end or video,frame,label")
    for number, row in lines:
        video = row["video"]
        if video not in labels:
            near = [f"; write {name}, whose zeros a spreadsheet drops" for name in labels if name.lstrip("0") == video]
            raise UserError(f"labels {path}, line {number}: video {video!r} is not among the {in_words(lengths)}"
                            f"{''.join(near[:1])}")
        try:
            first, second = int(row[columns[1]]), int(row[columns[2]])
        except (TypeError, ValueError):
            raise UserError(f"labels {path}, line {number}: {columns[1]} and {columns[2]} must be whole numbers") \
                from None
        if columns[2] == "end":
            mark(path, video, labels[video], first, second)
        elif second in (0, 1):
            mark(path, video, labels[video], first, first, second)
        else:
            raise UserError(f"labels {path}, line {number}: label {second}; expected 0 or 1")
    return labels


def in_words(lengths: Mapping[str, int]) -> str:
    """Name the videos that labels are wanted for."""
    names = list(lengths) or ["none"]
    return f"{len(lengths)} videos of frames ({names[0]} to {names[-1]})"


def one_line(error: Exception) -> str:
    """Return the message of a library's error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
