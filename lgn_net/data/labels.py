"""Every published label format -> one 0/1 array per video, lengths checked. 1 is abnormal."""

import contextlib
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from lgn_net.datasets import BENCHMARKS, canonical_name, facts_of, names_of, ucsd
from lgn_net.datasets.common import mark, natural_key
from lgn_net.errors import UserError


def find_labels(root: str | Path, dataset: str, split_folder: Path, source: str = "auto") -> Path:
    """Find the label file of a data set, whose test videos are in `split_folder`. UserError when there is none.

    The source "official" or "ano_pred" are labels that ship with the project. "auto" is the first of these files in the
    data set's folder, then in `root`: `frame_labels_<dataset>.npy`, `<dataset>.mat`, `labels.csv`; else what ships.
    """
    truths = facts_of(dataset).truths
    if source in truths:
        return truths[source]
    if source != "auto":
        raise UserError(f"no {source} labels of {dataset} ship with this project (there are: "
                        f"{', '.join(truths) or 'none'}); leave --label_source at auto, or give --labels FILE")
    names = [file for name in names_of(dataset) for file in (f"frame_labels_{name}.npy", f"{name}.mat")]
    names.append("labels.csv")
    places = [folder / name for folder in (split_folder.parent.parent, Path(root)) for name in names]
    for place in (*filter(Path.is_file, places), *truths.values()):
        return place
    raise UserError(f"no labels of {dataset}: expected one of {', '.join(names)} in {split_folder.parent.parent} "
                    f"or {root}; or give --labels FILE")


def known_source(dataset: str, labels: Mapping[str, np.ndarray]) -> str | None:
    """Name the source or sources, "ano_pred, official", whose labels (T,) these are; None where they do not ship."""
    truths = {source: read_ranges(path) for source, path in facts_of(dataset).truths.items()}
    return ", ".join(source for source, truth in truths.items() if all(
        np.array_equal(truth.get(name, ()), y) for name, y in labels.items())) or None


def shipped_truths(names: Sequence[str], frames: Sequence[np.ndarray], labels: Sequence[np.ndarray],
                   dataset: str | None = None) -> dict[str, list[np.ndarray]]:
    """Find all truths of the benchmark whose labels these are, for the same frames, by the name of their source.

    Each video has a name, the indices (n,) of its frames and the labels (n,) of these. Of a data set that is not named,
    the videos must be all of the benchmark's: a few are alike by accident. Returns {} for labels that do not ship, two
    entries for Avenue, whichever of the two was given.
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
    with naming(folder):
        return {path.stem: flat_labels(path) for path in files}
    raise AssertionError


@contextlib.contextmanager
def naming(path: str | Path, wanted: str = "") -> Iterator[None]:
    """Turn any error in a file of labels into a UserError that names the file and what is wanted."""
    try:
        yield
    except Exception as error:                             # NumPy, SciPy and csv raise many kinds for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"labels {path}: {reason}{wanted}; give the labels of these videos with --labels") from None


def load_labels(path: str | Path, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read the labels of every frame of every test video, in the order of `lengths`, their frames by name.

    Known files:
        `.npy`: frame labels of all videos one after the other, 1-D or (1, N), as circulated with MNAD and LGN-Net;
        `.mat`: ano_pred's cell array `gt`, per video a 2 x k matrix of first and last abnormal frame, from 1;
        `.m`: UCSD's `gt_frame` ranges, likewise from 1;
        `.json`: as in `datasets/ranges/`, `{"frames": [lengths], "abnormal": [[[first, last], ...], ...]}`, from 0;
        with `"videos": [names]` it may hold more videos than these;
        `.csv`: lines `video,start,end`, both ends included and counted from 0, or `video,frame,label`. Videos by
        the name of their folder. Videos without a line are normal.

    Returns:
        Name of each video -> uint8 (T,) of 0 and 1.

    Raises:
        UserError: no such file, another format, or other lengths than the videos'.
    """
    path = Path(path)
    readers = {".npy": read_npy, ".mat": read_mat, ".json": read_json, ".csv": read_csv,
               ".m": lambda path, lengths: from_ranges(lengths, ucsd.read_ranges(path))}
    if path.suffix.lower() not in readers:
        raise UserError(f"labels {path}: unknown format '{path.suffix}'; known: {', '.join(readers)}")
    names = list(lengths)
    wanted = f"; there are {len(names)} videos of {sum(lengths.values())} frames"
    with naming(path, wanted + (f", {names[0]} to {names[-1]}" if names else "")):
        return readers[path.suffix.lower()](path, lengths)
    raise AssertionError


def read_npy(path: Path, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read frame labels of all videos one after the other."""
    flat, ends = flat_labels(path), np.cumsum(list(lengths.values()))
    if len(flat) != sum(lengths.values()):
        raise ValueError(f"it holds {len(flat)} labels")
    return dict(zip(lengths, np.split(flat, ends[:-1])))


def flat_labels(path: Path) -> np.ndarray:
    """Read a NumPy file of 0 and 1, in one row or column: uint8 (N,)."""
    flat = np.load(path, allow_pickle=False)
    if flat.size != max(flat.shape, default=0) or not np.isin(flat, (0, 1)).all():
        raise ValueError(f"shape {flat.shape}, values {np.unique(flat)[:5]}; expected 0 and 1 of shape (N,) or (1, N)")
    return flat.astype(np.uint8).ravel()


def read_mat(path: Path, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read ano_pred's ranges."""
    cells = scipy.io.loadmat(path)["gt"].ravel()
    return from_ranges(lengths, [cell.reshape(2, -1).T - np.array((1, 1)) for cell in cells])


def read_json(path: Path, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read ranges of a whole test set, with the lengths and perhaps the names of its videos."""
    known = read_ranges(path)
    names = list(lengths) if set(lengths) <= set(known) else list(known)
    if [len(known[name]) for name in names] != list(lengths.values()):
        raise ValueError(f"it is of {len(known)} videos with {[len(array) for array in known.values()]} frames")
    return {video: known[name] for video, name in zip(lengths, names)}


def read_ranges(path: Path) -> dict[str, np.ndarray]:
    """Read a labels file as in `datasets/ranges/`: name of each video, or its number from 0 -> uint8 (T,)."""
    content = json.loads(path.read_text())
    names = content.get("videos") or map(str, range(len(content["frames"])))
    return from_ranges(dict(zip(names, content["frames"], strict=True)), content["abnormal"])


def from_ranges(lengths: Mapping[str, int], ranges: Sequence[Any]) -> dict[str, np.ndarray]:
    """Turn the (first, last) abnormal frames of each video, from 0, both included, into arrays."""
    labels = {video: np.zeros(length, np.uint8) for video, length in lengths.items()}
    if len(ranges) != len(lengths):
        raise ValueError(f"it holds the ranges of {len(ranges)} videos")
    for (video, array), pairs in zip(labels.items(), ranges):
        for first, last in pairs:
            if first % 1 or last % 1:
                raise ValueError(f"frames {first} to {last} of video {video} are no whole numbers")
            mark(video, array, int(first), int(last))
    return labels


def read_csv(path: Path, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read ranges or frame labels by the name of the video."""
    labels = {video: np.zeros(length, np.uint8) for video, length in lengths.items()}
    rows = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), strict=True)
    columns = rows.fieldnames or []
    if columns not in (["video", "start", "end"], ["video", "frame", "label"]):
        raise ValueError(f"first line {','.join(columns)!r}; expected video,start,end or video,frame,label")
    for row in rows:
        try:
            video, first, second = row["video"], int(row[columns[1]]), int(row[columns[2]])
            if video not in labels:
                raise ValueError(f"no video is called {video!r} (a spreadsheet drops zeros before a number)")
            if columns[2] == "end":
                mark(video, labels[video], first, second)
            elif second in (0, 1):
                mark(video, labels[video], first, first, second)
            else:
                raise ValueError(f"label {second}; expected 0 or 1")
        except (ValueError, TypeError, UserError) as error:
            raise ValueError(f"line {rows.line_num}: {error}") from None
    return labels
