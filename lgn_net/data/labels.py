"""Every published label format -> one 0/1 array per video, lengths checked. 1 is abnormal."""

import csv
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from lgn_net.data.videos import inside
from lgn_net.datasets import BENCHMARKS, VIDEO_SUFFIXES, facts_of, names_of, ucsd
from lgn_net.datasets.common import from_ranges, load_array, load_mat, mark, natural_key, some
from lgn_net.errors import UserError

Labels = dict[str, np.ndarray]             # name of each video -> (T,)
# Names of the columns of CSV files, and what else they are called.
COLUMNS = {name: name for name in ("video", "frame", "video_frame", "start", "end", "label", "score")} | {
    "video_name": "video", "frame_id": "frame", "start_frame": "start", "end_frame": "end", "anomaly_score": "score",
    "class": "label"}
NOTHING = {"", "-1", "nan", "none"}        # in place of both ends of a range: there is none
NORMAL = {"0", "0.0", "false", "normal"}   # a label beside a range, which is then none of abnormal frames


def find_labels(root: str | Path, dataset: str, split_folder: Path, source: str = "auto") -> Path:
    """Find the label file of a data set, whose test videos are in `split_folder`. UserError when there is none.

    "official" and "ano_pred" ship with the project. "auto" is the first of `frame_labels_<dataset>.npy`,
    `<dataset>.mat`, `labels.csv` in the data set's folder, then in `root`; then `test_frame_mask`; then what ships.
    """
    truths = facts_of(dataset).truths
    if source in truths:
        return truths[source]
    names = [file for name in names_of(dataset) for file in (f"frame_labels_{name}.npy", f"{name}.mat")]
    testing = split_folder.parent if split_folder.name.lower() == "frames" else split_folder
    places = [folder / name for folder in (testing.parent, Path(root)) for name in (*names, "labels.csv")]
    places = [path for path in (*places, inside(testing, "test_frame_mask")) if path.exists()] + [*truths.values()]
    if source == "auto" and places:
        return places[0]
    raise UserError(f"no labels of {dataset} (--label_source {source}): expected one of {', '.join(names)}, labels.csv "
                    f"in {testing.parent} or {root}; or give --labels FILE")


def shipped_truths(names: Sequence[str], frames: Sequence[np.ndarray], labels: Sequence[np.ndarray],
                   dataset: str | None = None) -> dict[str, list[np.ndarray]]:
    """Find the benchmark that these labels belong to; return all of its truths at these frames, by source.

    Each video has a name, the indices (n,) of its frames and the labels (n,) of these. Of a data set that is not named,
    the videos must be all of the benchmark's: a few are alike by accident. Returns {} for labels that do not ship.
    """
    for benchmark in [facts_of(dataset)] if dataset else BENCHMARKS.values():
        if not dataset and set(names) != set(benchmark.lengths.get("testing", ())):
            continue
        known = {source: read_ranges(path) for source, path in benchmark.truths.items()}
        truths = {source: [truth[name][t] for name, t in zip(names, frames)] for source, truth in known.items()
                  if all(name in truth and t[-1] < len(truth[name]) for name, t in zip(names, frames))}
        if any(all(map(np.array_equal, truth, labels)) for truth in truths.values()):
            return truths
    return {}


def load_label_folder(folder: str | Path) -> Labels:
    """Read a folder with `<video>.npy` per video, as ShanghaiTech's test_frame_mask: name -> uint8 (T,).

    UserError where there is none, and where one holds anything but 0 and 1 (or 255).
    """
    labels = {}
    for path in sorted(Path(folder).glob("*.npy"), key=lambda path: natural_key(path.name)):
        flags = load_array(path).ravel()
        if not np.isin(flags, (0, 1, 255)).all():
            raise UserError(f"labels {path}: it holds {np.unique(flags)[:5]}; expected 0 and 1")
        labels[path.stem] = (flags != 0).astype(np.uint8)
    if not labels:
        raise UserError(f"labels {folder}: this folder holds no <video>.npy; give one with them, or a label file")
    return labels


def load_labels(path: str | Path, lengths: Mapping[str, int]) -> Labels:
    """Read the labels of every frame of every test video: name -> uint8 (T,), in the order of `lengths`, (T) by name.

    `.npy`: labels of all videos one after the other, 1-D or (1, N), as circulated with MNAD and LGN-Net;
    `.mat`: ano_pred's cell array `gt`, per video a 2 x k (or k x 2) matrix of first and last abnormal frame, from 1;
    `.m`: UCSD's `gt_frame` ranges, likewise from 1;
    `.json`: as in `datasets/ranges/`, from 0, by the names of the videos, or {video: [0, 1, ...]}, also of more videos;
    `.csv`: lines `video,start,end`, both included, from 0, or `video,frame,label`; what has no line is normal;
    a folder: see `load_label_folder`. UserError: no such file, another format, or other lengths than the videos'.
    """
    path = Path(path)
    if not (read := READERS.get("folder" if path.is_dir() else path.suffix.lower())):
        raise UserError(f"labels {path}: unknown format {path.suffix!r}; known: {', '.join(READERS)}")
    try:
        given = read(path, lengths)
        labels = {video: given[name] for name, video in match_names(given, lengths, path).items()}
        if (found := {video: len(labels.get(video, ())) for video in lengths}) != lengths:
            raise ValueError(f"it is of {len(given)} videos, and of these it has {list(found.values())} frames")
        if values := {value for y in labels.values() for value in np.unique(y).tolist()} - {0, 1}:
            raise ValueError(f"it holds {values}; expected 0 and 1")
        return {video: labels[video].astype(np.uint8) for video in lengths}
    except Exception as error:                             # NumPy, SciPy and csv raise many kinds for a damaged file
        raise UserError(f"labels {path}: {' '.join(f'{error}'.split())[:300] or type(error).__name__}; there are "
                        f"{len(lengths)} videos of {sum(lengths.values())} frames; give the labels of these videos "
                        f"with --labels") from None


def read_npy(path: Path, lengths: Mapping[str, int]) -> Labels:
    """Read frame labels of all videos one after the other."""
    flat = np.load(path)
    if flat.size != sum(lengths.values()) or flat.size != max(flat.shape):
        raise ValueError(f"it holds {flat.size} labels, shape {flat.shape}")
    return dict(zip(lengths, np.split(flat.ravel(), np.cumsum(list(lengths.values()))[:-1])))


def read_ranges(path: Path) -> Labels:
    """Read a labels file as in `datasets/ranges/`, or of a list of labels by video, of all videos that it names."""
    content = json.loads(path.read_text())
    if "videos" not in content:
        return {video: np.array(flags) for video, flags in content.items()}
    return from_ranges(dict(zip(content["videos"], content["frames"], strict=True)), content["abnormal"])


def read_csv(path: Path, lengths: Mapping[str, int]) -> Labels:
    """Read ranges or frame labels by the name of the video."""
    labels = {video: np.zeros(length, np.uint8) for video, length in lengths.items()}
    columns, lines = read_rows(path)
    if more := [name for name in columns if re.match(r"(start|end)_?\d", name) or columns.count(name) > 1]:
        raise ValueError(f"columns {', '.join(more)}; give every range a line of its own")
    rows = {number: dict(zip(columns, cells)) for number, cells in lines}
    kind = next((kind for kind in (("start", "end"), ("frame", "label")) if {"video", *kind} <= {*columns}), None)
    if not kind:
        raise ValueError(f"first line {','.join(columns)[:200]!r}; expected video,start,end or video,frame,label")
    means = match_names({row["video"]: None for row in rows.values()}, lengths, path)
    for number, row in rows.items():
        try:
            if row["video"] not in means:
                raise ValueError(f"no video is called {row['video']!r}; there are {some(list(labels))}")
            if kind[1] == "end" and (row.get("label", "").lower() in NORMAL
                                     or {row["start"].lower(), row["end"].lower()} <= NOTHING):
                continue
            # Whole numbers, also as 10.0, 10,0, True or False.
            words = [{"true": "1", "false": "0"}.get(row[name].lower(), row[name]).replace(",", ".") for name in kind]
            first, second = (int(re.sub(r"\.0*$", "", word)) for word in words)
            video = means[row["video"]]
            mark(video, labels[video], *((first, second) if kind[1] == "end" else (first, first, second)))
        except (ValueError, UserError) as error:
            raise ValueError(f"line {number}: {error}") from None
    return labels


def read_rows(path: str | Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read a CSV file of labels or scores: the names of its columns, and each line's number and cells, as many.

    Cells end at semicolons, tabs, commas or else spaces, whichever the first line has. A column video_frame, as
    01_0014_003 or 01/003.jpg, becomes video and frame. ValueError for no such file.
    """
    data = Path(path).read_bytes()
    code = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"             # the former is Excel's
    text = data.decode(code, errors="replace").lstrip()
    separator = next((mark for mark in ";\t," if mark in text.partition("\n")[0]), " ")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    header = [COLUMNS.get(re.sub(r"\W+", "_", name.lower()), name) for name in rows.pop(0)[1]] if rows else []
    at = header.index("video_frame") if "video_frame" in header and "video" not in header else None
    for number, cells in rows:
        if len(cells) < len(header) or any(cells[len(header):]):
            raise ValueError(f"line {number}: {len(cells)} cells, the first line has {len(header)}")
        if at is not None:
            pair = re.split(r"[\W_]+(?=\d+(?:\.[a-z]\w*)?$)", cells[at])
            if len(pair) != 2:
                raise ValueError(f"column video_frame: {pair[0][:40]!r} is no video and frame such as 01_137")
            cells[at:at + 1] = pair[0], pair[1].split(".")[0]
    if at is not None:
        header[at:at + 1] = "video", "frame"
    return header, rows


def match_names(names: Collection[str], videos: Collection[str], source: object) -> dict[str, str]:
    """Find which video each name in a file means: {name: video}, without the names that mean none.

    A name means the video that is called so; else, with a warning, the only one that differs by capitals, a suffix such
    as .mp4 or zeros before a number (spreadsheets drop them); else the only one with the same number at its end, where
    one of the two is nothing but a number.
    """
    def plain(name: str) -> str:
        return re.sub(r"0*(\d+)", r"\1", re.sub(rf"(\.({VIDEO_SUFFIXES})|(?<=\d)\.0)$", "", name.lower()))

    def number(name: str) -> str:
        return re.sub(r"^\D+(?=\d+$)", "", plain(name))

    means = {name: name for name in names if name in videos}
    for key in (plain, number):
        left, free = [name for name in names if name not in means], set(videos) - set(means.values())
        here, there, by_key = Counter(map(key, left)), Counter(map(key, free)), {key(video): video for video in free}
        means |= {name: by_key[key(name)] for name in left if here[key(name)] == there[key(name)] == 1
                  and key(name) in (plain(name), plain(by_key[key(name)]))}
    if alike := [f"{name} for {video}" for name, video in means.items() if name != video]:
        warnings.warn(f"{source}: names are taken as those of videos: {some(alike)}")
    return means


def read_mat(path: Path, lengths: Mapping[str, int]) -> Labels:
    """Read ano_pred's ranges, from 1."""
    cells = load_mat(path, "gt")
    pairs = [cell if cell.shape[1:] == (2,) != cell.shape[:1] else cell.reshape(2, -1).T for cell in cells]
    return from_ranges(lengths, [of_video.astype(int) - 1 for of_video in pairs])


READERS: dict[str, Callable[[Path, Mapping[str, int]], Labels]] = {
    ".npy": read_npy, ".csv": read_csv, ".tsv": read_csv, ".json": lambda path, _: read_ranges(path),
    "folder": lambda path, _: load_label_folder(path), ".mat": read_mat,
    ".m": lambda path, lengths: from_ranges(lengths, ucsd.read_m(path))}
