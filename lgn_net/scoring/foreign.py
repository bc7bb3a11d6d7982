"""Scores of other programs -> the same tables as our own: whose frames they are is said, never guessed."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lgn_net.data.videos import natural_key
from lgn_net.errors import UserError
from lgn_net.scoring.score_file import VideoScores, numbers, read_columns, whole_numbers

SIGNAL = "score"
SUFFIXES = (".npy", ".csv", ".txt")


def read_foreign(path: str | Path, labels: Mapping[str, np.ndarray] | None, covered: slice) -> list[VideoScores]:
    """Another program's scores, with one signal, `score`.

    Args:
        path: a folder with a file of scores per video, named like the video; a `.npy`, `.csv` or `.txt` file with the
            scores of all videos one after the other; or a `.csv` with the columns video, frame, score, which needs no
            rule. Text files hold a number a line.
        labels: all frames (T_v,) of every video, in order. None: all 0, and the videos are those of the file.
        covered: which frames of a video the scores are of: slice(4, None) where the first four were dropped.

    Raises:
        UserError: no such file or another form, other videos than the labels', or not as many scores as covered frames.
    """
    path = Path(path)
    if path.is_dir():
        scores = {p.stem: read_array(p) for p in sorted(path.iterdir(), key=lambda p: natural_key(p.name))
                  if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")}
        if not scores:
            raise UserError(f"{path} holds no scores; expected a file <video>.npy, .csv or .txt for each video")
        scores = by_labels(path, scores, labels)
    elif path.suffix.lower() == ".csv" and path.is_file() and "video" in path.read_text(errors="replace").partition("\n")[0]:
        return read_by_frame(path, labels)
    else:
        flat = read_array(path)
        if labels is None:
            raise UserError(f"{path} holds {len(flat)} scores one after the other, and nothing says where a video ends; "
                            f"give --labels, --dataset_type or --dataset_path")
        lengths = [len(range(len(y))[covered]) for y in labels.values()]
        check_length(path, len(flat), sum(lengths), labels, covered)
        scores = dict(zip(labels, np.split(flat, np.cumsum(lengths)[:-1])))
    if labels is None:
        if covered.stop is not None and covered.stop >= 0:
            raise UserError(f"without labels the length of a video is not known, and --crop {show(covered)} says nothing; "
                            f"give --labels, --dataset_type or --dataset_path")
        labels = {name: np.zeros(len(x) + (covered.start or 0) - (covered.stop or 0), np.uint8)
                  for name, x in scores.items()}
    videos = []
    for name, x in scores.items():
        frames = np.arange(len(labels[name]))[covered]
        check_length(f"{path}, video {name}", len(x), len(frames), {name: labels[name]}, covered)
        videos.append(VideoScores(name, frames, {SIGNAL: x}, labels[name][covered].astype(np.uint8)))
    return finite(path, videos)


def by_labels(path: Path, scores: dict[str, np.ndarray], labels: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Arrays by file name -> by the name of the video, in the order of the labels."""
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
    """A table with the columns video, frame, score."""
    columns = read_columns(path, ["video", "frame", SIGNAL])
    names = np.array(columns["video"])
    frames = whole_numbers(path, "frame", columns["frame"], "a whole number, 0 or more")
    values, videos = numbers(path, SIGNAL, columns[SIGNAL]), []
    for name in sorted(set(columns["video"]), key=natural_key):
        mine = np.flatnonzero(names == name)
        mine = mine[np.argsort(frames[mine], kind="stable")]
        if (again := np.flatnonzero(np.diff(frames[mine]) == 0)).size:
            raise UserError(f"{path}: video {name}, frame {frames[mine[again[0]]]} stands there twice")
        truth = np.zeros(frames[mine[-1]] + 1, np.uint8) if labels is None else labels.get(name)
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
            first, *rest = path.read_text(encoding="utf-8-sig").replace(",", " ").split()
            header = [] if first[0] in "+-.0123456789nN" else [first]
            values = np.array(rest if header else [first, *rest], dtype=float)
    except Exception as error:                              # NumPy raises whatever it trips over in a damaged file
        reason = " ".join(str(error).split()) or "it is empty"
        raise UserError(f"{path}: no plain array of numbers ({reason}); where it was made, write it with "
                        f"np.save('{path.stem}.npy', np.asarray(scores, dtype=float))") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "buif" or max(values.shape, default=0) != values.size:
        raise UserError(f"{path}: {getattr(values, 'dtype', type(values).__name__)} of shape {np.shape(values)}; expected "
                        f"(N,) or (1, N) numbers")
    return values.astype(float).ravel()


def check_length(what: object, scores: int, frames: int, labels: Mapping[str, np.ndarray], covered: slice) -> None:
    """UserError with both numbers when there are not as many scores as covered frames; with the rule that would fit."""
    if scores == frames:
        return
    total, videos = sum(map(len, labels.values())), len(labels)
    hint = "are these the scores of other videos?"
    if 0 < total - scores and (total - scores) % videos == 0:
        k = (total - scores) // videos
        hint = (f"{k} missing in each of the {videos} videos would fit: --drop-first {k} if these are the first ones, or "
                f"--crop A:-B with A + B = {k}")
    rule = "all" if covered == slice(None) else f"those of --crop {show(covered)}"
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
    """Without the frames whose score is not finite, with a warning."""
    kept = []
    for video in videos:
        good = np.isfinite(video.signals[SIGNAL])
        if not good.all():
            warnings.warn(f"{path}: {np.sum(~good)} of {len(good)} scores of video {video.name} are not finite (first: "
                          f"frame {video.frames[~good][0]}); left out")
        if good.any():
            kept.append(VideoScores(video.name, video.frames[good], {SIGNAL: video.signals[SIGNAL][good]},
                                    video.labels[good]))
    if not kept:
        raise UserError(f"{path} holds no finite score")
    return kept
