"""Every published label format -> one 0/1 array per video, lengths checked. 1 is abnormal."""

import contextlib
import csv
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io

from lgn_net.data.videos import Video, natural_key
from lgn_net.datasets import BENCHMARKS, canonical_name, names_of
from lgn_net.errors import UserError


def find_labels(root: str | Path, dataset: str, split_folder: Path, source: str = "auto") -> Path:
    """The label file of a data set.

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
    benchmark = BENCHMARKS.get(canonical_name(dataset))
    truths = benchmark.truths if benchmark else {}
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


def known_source(dataset: str, videos: list[Video], labels: list[np.ndarray]) -> str | None:
    """Whose labels these are, wherever they were read from: "official", "ano_pred", None for none that ship.

    Both are named, "official, ano_pred", where they agree on all of the videos.
    """
    benchmark, same = BENCHMARKS.get(canonical_name(dataset)), []
    for source, path in (benchmark.truths if benchmark else {}).items():
        with contextlib.suppress(UserError):               # other videos than the published ones
            if all(np.array_equal(*pair) for pair in zip(load_labels(path, videos), labels, strict=True)):
                same.append(source)
    return ", ".join(same) or None


def shipped_truths(names: Sequence[str], frames: Sequence[np.ndarray], labels: Sequence[np.ndarray],
                   dataset: str | None = None) -> dict[str, list[np.ndarray]]:
    """All truths of the benchmark whose labels these are, for the same frames, by the name of their source.

    Of a data set that is not named, the videos must be all of the benchmark's: a few are alike by accident.

    Args:
        names, frames, labels: of each video its name, the indices (n,) of its frames and their labels (n,).

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
    """A folder with `<video>.npy` per video, 0/1 per frame (ShanghaiTech's test_frame_mask): name -> uint8 (T,)."""
    files = sorted(Path(folder).glob("*.npy"), key=lambda path: natural_key(path.name))
    if not files:
        raise UserError(f"labels {folder}: the folder holds no <video>.npy")
    labels = {}
    for path in files:
        labels[path.stem] = flat_labels(path)
    return labels


def load_labels(path: str | Path, videos: list[Video]) -> list[np.ndarray]:
    """Labels of every frame of every test video: a uint8 array of 0 and 1 per video.

    Args:
        path: by its suffix
            `.npy`: frame labels of all videos one after the other, 1-D or (1, N), as circulated with MNAD and LGN-Net;
            `.mat`: ano_pred's cell array `gt`, per video a 2 x k matrix of first and last abnormal frame, from 1;
            `.m`: UCSD's `gt_frame` ranges, likewise from 1;
            `.json`: as in `datasets/ranges/`, `{"frames": [lengths], "abnormal": [[[first, last], ...], ...]}`, from 0;
            with `"videos": [names]` it may hold more videos than these, with `"sha256"` it is checked;
            `.csv`: lines `video,start,end`, both ends included and counted from 0, or `video,frame,label`. Videos by
            the name of their folder. Videos without a line are normal.
        videos: all test videos in order, the skipped ones too.

    Raises:
        UserError: no such file, another format, or other lengths than the videos'; both numbers are named.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"labels {path}: no such file")
    readers = {".npy": read_npy, ".mat": read_mat, ".m": read_ucsd_ranges, ".json": read_json, ".csv": read_csv}
    if path.suffix.lower() not in readers:
        raise UserError(f"labels {path}: unknown format '{path.suffix}'; known: {', '.join(readers)}")
    return readers[path.suffix.lower()](path, videos)


def read_npy(path: Path, videos: list[Video]) -> list[np.ndarray]:
    """Frame labels of all videos one after the other."""
    flat, lengths = flat_labels(path), [len(video.frames) for video in videos]
    if len(flat) != sum(lengths):
        raise UserError(f"labels {path}: {len(flat)} labels, but {len(videos)} videos with {sum(lengths)} frames "
                        f"({videos[0].name} to {videos[-1].name}); give the labels of these videos with --labels")
    return np.split(flat, np.cumsum(lengths)[:-1])


def flat_labels(path: Path) -> np.ndarray:
    """A NumPy file of 0 and 1: uint8 (N,)."""
    try:
        flat = np.load(path, allow_pickle=False)
    except Exception as error:                             # NumPy raises whatever it trips over in a damaged file
        raise UserError(f"labels {path}: not a plain NumPy array ({one_line(error)})") from None
    if not isinstance(flat, np.ndarray) or flat.dtype.kind not in "buif":
        raise UserError(f"labels {path}: no NumPy array of numbers; expected 0 (normal) and 1 (abnormal)")
    if flat.ndim > 2 or (flat.ndim == 2 and 1 not in flat.shape):
        raise UserError(f"labels {path}: shape {flat.shape}; expected (N,) or (1, N) for N frames of all videos")
    if not np.isin(flat, (0, 1)).all():
        raise UserError(f"labels {path}: values {np.unique(flat)[:5]}; expected 0 (normal) and 1 (abnormal)")
    return flat.astype(np.uint8).ravel()


def read_mat(path: Path, videos: list[Video]) -> list[np.ndarray]:
    """ano_pred's ranges."""
    try:
        cells = scipy.io.loadmat(path)["gt"].ravel()
        if cells.dtype != object:
            raise TypeError(f"gt holds {cells.dtype}")
        ranges = [cell.reshape(2, -1).T - np.array((1, 1)) for cell in cells]
    except Exception as error:                             # SciPy, too
        raise UserError(f"labels {path}: no MATLAB file with a cell array `gt` of 2 x k matrices ({one_line(error)})") \
            from None
    return from_ranges(path, videos, ranges)


def read_ucsd_ranges(path: Path, videos: list[Video]) -> list[np.ndarray]:
    """UCSD's ranges of all test videos."""
    return from_ranges(path, videos, ucsd_ranges(path))


def ucsd_ranges(path: Path) -> list[list[tuple[int, int]]]:
    """Lines `TestVideoFile{end+1}.gt_frame = [61:180];`, a line per video; in the brackets ranges and single frames.

    Per video its ranges (first, last), from 0. UserError for anything else in the brackets.
    """
    videos = []
    for line in re.findall(r"gt_frame\s*=\s*\[(.*?)\]", path.read_text(errors="replace")):
        parts = re.sub(r"\s*:\s*", ":", line).replace(",", " ").split()
        parts = [re.fullmatch(r"(\d+)(?::(\d+))?", part) for part in parts]
        if None in parts:
            raise UserError(f"labels {path}: gt_frame = [{line}] of video {len(videos) + 1}; expected ranges like "
                            f"61:180")
        videos.append([(int(part[1]) - 1, int(part[2] or part[1]) - 1) for part in parts])
    return videos


def read_json(path: Path, videos: list[Video]) -> list[np.ndarray]:
    """Ranges of a whole test set, with the lengths and perhaps the names of its videos."""
    known = read_ranges(path)
    names = [video.name for video in videos] if {video.name for video in videos} <= set(known) else list(known)
    if len(names) != len(videos):
        raise wrong_count(path, len(names), videos)
    for video, name in zip(videos, names):
        if len(video.frames) != len(known[name]):
            raise UserError(f"labels {path}: {len(known[name])} frames for video {video.name}, which has "
                            f"{len(video.frames)}; give the labels of these videos with --labels")
    return [known[name] for name in names]


def read_ranges(path: Path) -> dict[str | int, np.ndarray]:
    """A labels file as in `datasets/ranges/`: name of the video (its place where there are no names) -> uint8 (T,).

    Raises UserError when it has another form, or when its "sha256" is not that of all labels one after the other.
    """
    try:
        content = json.loads(path.read_text())
        frames, abnormal = content["frames"], content["abnormal"]
        names = content.get("videos") or range(len(frames))
        videos = [Video(name, length * ("",)) for name, length in zip(names, frames, strict=True)]
        if len(abnormal) != len(videos):
            raise ValueError(f"{len(frames)} videos in `frames`, {len(abnormal)} videos in `abnormal`")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"labels {path}: no JSON object with `frames` and `abnormal` ({one_line(error)})") from None
    labels = from_ranges(path, videos, abnormal)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in labels)).hexdigest()
    if content.get("sha256", digest) != digest:
        raise UserError(f"labels {path}: changed since they were published (sha256 {digest[:12]}..., expected "
                        f"{content['sha256'][:12]}...); take the file from the project again")
    return {video.name: array for video, array in zip(videos, labels)}


def from_ranges(path: Path, videos: list[Video], ranges: Sequence) -> list[np.ndarray]:
    """Per video the (first, last) abnormal frames, from 0, both included -> arrays."""
    if len(ranges) != len(videos):
        raise wrong_count(path, len(ranges), videos)
    labels = [np.zeros(len(video.frames), np.uint8) for video in videos]
    for video, array, pairs in zip(videos, labels, ranges):
        try:
            numbers = np.array(pairs, float)
            if numbers.size and (numbers.ndim != 2 or numbers.shape[1] != 2 or (numbers % 1).any()):
                raise ValueError
        except (ValueError, TypeError):
            raise UserError(f"labels {path}: ranges {pairs!r} of video {video.name}; expected pairs of whole numbers") \
                from None
        for start, end in numbers.astype(int).reshape(-1, 2):
            mark(path, video, array, start, end)
    return labels


def wrong_count(path: Path, count: int, videos: list[Video]) -> UserError:
    """The sentence for labels of another number of videos."""
    return UserError(f"labels {path}: {count} videos, but {len(videos)} videos of frames "
                     f"({videos[0].name} to {videos[-1].name}); give the labels of these videos with --labels")


def one_line(error: Exception) -> str:
    """What a library had to say."""
    return " ".join(str(error).split()) or type(error).__name__


def mark(path: Path, video: Video, array: np.ndarray, start: int, end: int, value: int = 1) -> None:
    """Set frames start..end, both included, of one video."""
    if not 0 <= start <= end < len(array):
        raise UserError(f"labels {path}: frames {start} to {end} (from 0) of video {video.name}, "
                        f"which has {len(array)} frames")
    array[start:end + 1] = value


def read_csv(path: Path, videos: list[Video]) -> list[np.ndarray]:
    """Ranges or frame labels by the name of the video."""
    labels = [np.zeros(len(video.frames), np.uint8) for video in videos]
    by_name = {video.name: v for v, video in enumerate(videos)}
    try:
        rows = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
        columns, lines = tuple(rows.fieldnames or ()), [(rows.line_num, row) for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"labels {path}: no CSV in UTF-8 ({one_line(error)}); save it again as CSV UTF-8") from None
    if columns not in (("video", "start", "end"), ("video", "frame", "label")):
        raise UserError(f"labels {path}: first line {','.join(columns)!r}; "
                        f"expected video,start,end or video,frame,label")
    for number, row in lines:
        if row["video"] not in by_name:
            near = [f"; write {name}, whose zeros a spreadsheet drops" for name in by_name
                    if name.lstrip("0") == row["video"]]
            raise UserError(f"labels {path}, line {number}: video {row['video']!r} is not among the {len(videos)} "
                            f"videos of frames ({videos[0].name} to {videos[-1].name}){''.join(near[:1])}")
        v = by_name[row["video"]]
        try:
            first, second = int(row[columns[1]]), int(row[columns[2]])
        except (TypeError, ValueError):
            raise UserError(f"labels {path}, line {number}: {columns[1]} and {columns[2]} must be whole numbers") \
                from None
        if columns[2] == "end":
            mark(path, videos[v], labels[v], first, second)
        elif second in (0, 1):
            mark(path, videos[v], labels[v], first, first, second)
        else:
            raise UserError(f"labels {path}, line {number}: label {second}; expected 0 or 1")
    return labels
