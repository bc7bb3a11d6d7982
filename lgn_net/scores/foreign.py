"""Scores of other programs -> the same tables as our own: whose frames they are is said, never guessed."""

import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lgn_net.data.videos import natural_key
from lgn_net.errors import UserError
from lgn_net.scores.score_file import VideoScores, is_number, read_table, usable

SIGNAL = "score"
SUFFIXES = (".npy", ".csv", ".txt")


def read_foreign(path: str | Path, labels: Mapping[str, np.ndarray] | None, covered: slice) -> list[VideoScores]:
    """Another program's scores, with one signal, `score`.

    Args:
        path: a folder with a file of scores per video, named like the video; a `.npy`, `.csv` or `.txt` file with the
            scores of all videos one after the other; or a `.csv` with the columns video, frame, score, which needs no
            rule. Text files hold a number a line, or all of them on one.
        labels: all frames (T_v,) of every video, in order. None: all 0, and the videos are those of the file.
        covered: which frames of a video the scores are of: slice(4, None) where the first four were dropped.

    Raises:
        UserError: no such file or another form, other videos than the labels', or not as many scores as covered frames.
    """
    path = Path(path)
    if path.is_dir():
        scores = by_labels(path, read_folder_of_arrays(path), labels)
    elif has_frames(path):
        if covered != slice(None):
            raise UserError(f"{path} says itself which frames its scores are of; leave --drop-first and --crop out")
        return read_by_frame(path, labels)
    else:
        flat = read_array(path)
        if labels is None:
            raise UserError(f"{path} holds {len(flat)} scores one after the other, and nothing says where a video "
                            f"ends; give --dataset_type ped2 or avenue, --dataset_path, or --labels with a folder of "
                            f"<video>.npy")
        lengths = [len(range(len(y))[covered]) for y in labels.values()]
        check_length(path, len(flat), sum(lengths), labels, covered)
        scores = dict(zip(labels, np.split(flat, np.cumsum(lengths)[:-1])))
    if labels is None:
        if covered.stop is not None and covered.stop >= 0:
            raise UserError(f"without labels the length of a video is not known, and --crop {show(covered)} says "
                            f"nothing; give --labels, --dataset_type or --dataset_path")
        labels = {name: np.zeros(len(x) + (covered.start or 0) - (covered.stop or 0), np.uint8)
                  for name, x in scores.items()}
    videos = []
    for name, x in scores.items():
        frames = np.arange(len(labels[name]))[covered]
        check_length(f"{path}, video {name}", len(x), len(frames), {name: labels[name]}, covered)
        if not len(frames):
            warnings.warn(f"{path}: no frame of video {name} has a score, it is too short for "
                          f"--crop {show(covered)}; left out")
        videos.append(VideoScores(name, frames, {SIGNAL: x}, labels[name][covered].astype(np.uint8)))
    return finite(path, videos)


def lengths_in(path: str | Path, covered: slice) -> dict[str, int]:
    """Frames of each video by its name, as far as a folder or a table of scores tells; {} for flat scores."""
    path = Path(path)
    if path.is_dir() and (covered.stop or -1) < 0:
        return {name: len(x) + (covered.start or 0) - (covered.stop or 0)
                for name, x in read_folder_of_arrays(path).items()}
    if has_frames(path):
        return {video.name: int(video.frames[-1]) + 1 for video in read_by_frame(path, None)}
    return {}


def has_frames(path: Path) -> bool:
    """Whether it is a table with the columns video, frame, score."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    header = path.read_text(errors="replace").partition("\n")[0]
    return "video" in header and any(separator in header for separator in ",;\t")


def read_folder_of_arrays(path: Path) -> dict[str, np.ndarray]:
    """The scores of each video by the name of its file, in natural order."""
    files = sorted((p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")),
                   key=lambda p: natural_key(p.name))
    if not files:
        raise UserError(f"{path} holds no scores; expected a file <video>.npy, .csv or .txt for each video")
    for a, b in itertools.pairwise(sorted(files)):
        if a.stem == b.stem:
            raise UserError(f"{path} holds both {a.name} and {b.name}; remove one")
    return {p.stem: read_array(p) for p in files}


def by_labels(path: Path, scores: dict[str, np.ndarray],
              labels: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Arrays by file name -> by the name of the video, in the order of the labels. UserError for another number."""
    if labels is None or set(scores) == set(labels):
        return {name: scores[name] for name in labels or scores}
    if len(scores) != len(labels):
        missing = [name for name in labels if name not in scores]
        raise UserError(f"{path} holds scores of {len(scores)} videos, the labels are of {len(labels)}"
                        + (f"; video {missing[0]} is missing" if missing else ""))
    warnings.warn(f"{path}: its files are not named like the videos; taken in natural order: {next(iter(scores))} is "
                  f"video {next(iter(labels))}, {list(scores)[-1]} is video {list(labels)[-1]}")
    return dict(zip(labels, scores.values()))


def read_by_frame(path: Path, labels: Mapping[str, np.ndarray] | None) -> list[VideoScores]:
    """A table with the columns video, frame, score, and perhaps label, which counts where there are no other labels."""
    table = read_table(path, ["video", "frame", SIGNAL])
    names = np.array(table.columns["video"])
    frames, values, videos = table.frames(), table.numbers(SIGNAL), []
    own = table.labels() if labels is None and "label" in table.columns else None
    for name in sorted(set(table.columns["video"]), key=natural_key):
        mine = np.flatnonzero(names == name)
        mine = mine[np.argsort(frames[mine], kind="stable")]
        if (again := np.flatnonzero(np.diff(frames[mine]) == 0)).size:
            first, second = mine[again[0]:again[0] + 2]
            raise UserError(f"{path}: video {name}, frame {frames[first]} stands there twice, on lines "
                            f"{table.lines[first]} and {table.lines[second]}; remove one")
        truth = labels.get(name) if labels is not None else np.zeros(frames[mine[-1]] + 1, np.uint8)
        if labels is None and own is not None:
            truth[frames[mine]] = own[mine]
        if truth is None:
            raise UserError(f"{path}: video {name!r} is not among the {len(labels)} videos of the labels "
                            f"({next(iter(labels))} to {list(labels)[-1]})")
        if frames[mine[-1]] >= len(truth):
            raise UserError(f"{path}: frame {frames[mine[-1]]} (from 0) of video {name}, whose labels end after "
                            f"{len(truth)} frames")
        videos.append(VideoScores(name, frames[mine], {SIGNAL: values[mine]}, truth[frames[mine]].astype(np.uint8)))
    if labels is not None and len(videos) < len(labels):
        warnings.warn(f"{path}: scores of {len(videos)} of the {len(labels)} videos that have labels")
    return finite(path, videos)


def read_array(path: Path) -> np.ndarray:
    """Numbers of one file, (N,) float64. UserError when it is something else."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: scores of another program are read from {', '.join(SUFFIXES)} or a folder of these")
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            values = read_text(path.read_text(encoding="utf-8-sig"))
    except Exception as error:                              # NumPy raises whatever it trips over in a damaged file
        reason = "" if path.suffix.lower() == ".npy" else f" ({' '.join(str(error).split()) or type(error).__name__})"
        raise UserError(f"{path}: no plain array of numbers{reason}; where it was made, write all videos one after "
                        f"the other with np.save('{path.stem}.npy', np.concatenate([np.ravel(x) for x in scores])), "
                        f"or a file per video") from None
    numeric = isinstance(values, np.ndarray) and values.dtype.kind in "buif"
    if not numeric or max(values.shape, default=0) != values.size:
        kind = getattr(values, "dtype", type(values).__name__)
        raise UserError(f"{path}: {kind} of shape {np.shape(values)}; expected (N,) or (1, N) numbers")
    if not values.size:
        raise UserError(f"{path} holds no scores")
    return values.astype(float).ravel()


def read_text(text: str) -> np.ndarray:
    """Numbers, one a line under a header or none, or all on one line: (N,). ValueError for anything else."""
    rows = [(number, line.replace(",", " ").split()) for number, line in enumerate(text.splitlines(), 1)]
    rows = [(number, row) for number, row in rows if row]
    if rows and not is_number(rows[0][1][0]):
        del rows[0]
    for number, row in rows:
        if len(row) > 1 and len(rows) > 1:
            raise ValueError(f"line {number} holds {len(row)} numbers, or one with a decimal comma; expected one")
    return np.array([cell for _, row in rows for cell in row], dtype=float)


def check_length(what: object, scores: int, frames: int, labels: Mapping[str, np.ndarray], covered: slice) -> None:
    """UserError with both numbers when there are not as many scores as covered frames; with the rule that would fit."""
    if scores == frames:
        return
    total, videos = sum(map(len, labels.values())), len(labels)
    hint = "are these the scores of other videos?"
    missing = total - scores
    if missing > 0 and missing % videos == 0:
        k = missing // videos
        each = f" in each of the {videos} videos" if videos > 1 else ""
        hint = (f"{k} missing{each} would fit: --drop-first {k} if these are the first ones, or --crop A:-B with "
                f"A + B = {k}")
    rule = "all" if covered == slice(None) else (
        f"all but the first {covered.start}" if covered.stop is None else f"those of --crop {show(covered)}") + (
        " of each video" if videos > 1 else "")
    raise UserError(f"{what}: {scores} scores, but {frames} frames ({rule} of {total}); {hint}")


def show(covered: slice) -> str:
    """8:-7."""
    return f"{'' if covered.start is None else covered.start}:{'' if covered.stop is None else covered.stop}"


def parse_rule(drop_first: int | None, crop: str | None) -> slice:
    """`--drop-first 4` or `--crop 8:-7` -> the covered frames of a video. UserError when it is neither."""
    if drop_first is not None and crop is not None:
        raise UserError(f"give --drop-first {drop_first} or --crop {crop}, not both")
    if drop_first is not None:
        if drop_first < 0:
            raise UserError(f"--drop-first {drop_first}: give the number of frames, 0 or more")
        return slice(drop_first or None, None)
    start, colon, stop = (crop or ":").partition(":")
    try:
        rule = slice(int(start) if start else None, int(stop) if stop else None)
    except ValueError:
        rule = None
    if rule is None or not colon or (rule.start or 0) < 0:
        raise UserError(f"--crop {crop}: expected FIRST:LAST like a Python slice of each video's frames, 8:-7 or 4:")
    return rule


def finite(path: Path, videos: list[VideoScores]) -> list[VideoScores]:
    """Without the frames whose score is not finite, with a warning. UserError where none is left."""
    kept = []
    for video in videos:
        good = usable(video.signals[SIGNAL])
        if not good.all():
            warnings.warn(f"{path}: {np.sum(~good)} of {len(good)} scores of video {video.name} are not finite (first: "
                          f"frame {video.frames[~good][0]}); left out")
        if good.any():
            kept.append(VideoScores(video.name, video.frames[good], {SIGNAL: video.signals[SIGNAL][good]},
                                    video.labels[good]))
    if not kept:
        raise UserError(f"{path} holds no finite score")
    return kept
