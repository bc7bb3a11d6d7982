"""Read the scores of other programs into the tables of our own. The user says which frames they are of."""

import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lgn_net.data.videos import natural_key
from lgn_net.errors import UserError
from lgn_net.scores.score_file import VideoScores, read_scores, relabel, usable

SIGNAL = "score"
SUFFIXES = (".npy", ".csv", ".txt")


def read_foreign(path: str | Path, labels: Mapping[str, np.ndarray] | None, covered: slice) -> list[VideoScores]:
    """Read another program's scores, with one signal, `score`.

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
    if has_frames(path):
        if covered != slice(None):
            raise UserError(f"{path} says itself which frames its scores are of; leave --drop-first and --crop out")
        return read_by_frame(path, labels)
    if path.is_dir():
        scores = by_labels(path, read_folder_of_arrays(path), labels)
    elif labels is None:
        raise UserError(f"{path} holds {len(read_array(path))} scores one after the other, and nothing says where a "
                        f"video ends; give --dataset_type ped2 or avenue, --dataset_path, or --labels with a folder of "
                        f"<video>.npy")
    else:
        flat, lengths = read_array(path), [len(y[covered]) for y in labels.values()]
        check_length(path, len(flat), sum(lengths), labels, covered)
        scores = dict(zip(labels, np.split(flat, np.cumsum(lengths)[:-1])))
    if labels is None:
        labels = {name: np.zeros(length, np.uint8) for name, length in whole_lengths(scores, covered).items()}
    videos = []
    for name, x in scores.items():
        frames, good = np.arange(len(labels[name]))[covered], usable(x)
        check_length(f"{path}, video {name}", len(x), len(frames), {name: labels[name]}, covered)
        if not len(frames):
            warnings.warn(f"{path}: no frame of video {name} has a score, it is too short for "
                          f"--crop {show(covered)}; left out")
        elif not good.all():
            warnings.warn(f"{path}: {np.sum(~good)} of {len(good)} scores of video {name} are not finite (first: "
                          f"frame {frames[~good][0]}); left out")
        if good.any():
            video = VideoScores(name, frames, {SIGNAL: x}, labels[name][covered].astype(np.uint8))
            videos.append(video.pick(good))
    if not videos:
        raise UserError(f"{path} holds no finite score")
    return videos


def lengths_in(path: str | Path, covered: slice) -> dict[str, int]:
    """Count the frames of each video, as far as a folder or a table of scores tells; {} for flat scores."""
    path = Path(path)
    if path.is_dir():
        return whole_lengths(read_folder_of_arrays(path), covered)
    return {video.name: int(video.frames[-1]) + 1 for video in read_by_frame(path, None)} if has_frames(path) else {}


def whole_lengths(scores: Mapping[str, np.ndarray], covered: slice) -> dict[str, int]:
    """Count the frames of each video with its margins that have no score. UserError where the rule does not say."""
    if covered.stop is not None and covered.stop >= 0:
        raise UserError(f"without labels the length of a video is not known, and --crop {show(covered)} says "
                        f"nothing; give --labels, --dataset_type or --dataset_path")
    return {name: len(x) + (covered.start or 0) - (covered.stop or 0) for name, x in scores.items()}


def has_frames(path: Path) -> bool:
    """Tell whether a file is a table with the columns video, frame, score."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    header = path.read_text(errors="replace").partition("\n")[0]
    return "video" in header and any(separator in header for separator in ",;\t")


def read_folder_of_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the scores of each video by the name of its file, in natural order."""
    files = sorted((p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")),
                   key=lambda p: natural_key(p.name))
    if not files:
        raise UserError(f"{path} holds no scores; expected a file <video>.npy, .csv or .txt for each video")
    for a, b in itertools.pairwise(files):
        if a.stem == b.stem:
            raise UserError(f"{path} holds both {a.name} and {b.name}; remove one")
    return {p.stem: read_array(p) for p in files}


def by_labels(path: Path, scores: dict[str, np.ndarray],
              labels: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Bring arrays by file name into the order and under the names of the labels. UserError for another number."""
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
    """Read a table with the columns video, frame, score; its own column label counts where no labels are given."""
    videos = read_scores(path, (SIGNAL,), labelled=False if labels else None, consecutive=False)
    videos = [video._replace(signals={SIGNAL: video.signals[SIGNAL]}) for video in videos]
    if labels and len(videos) < len(labels):
        warnings.warn(f"{path}: scores of {len(videos)} of the {len(labels)} videos that have labels")
    return relabel(videos, labels, f"for {path}") if labels else videos


def read_array(path: Path) -> np.ndarray:
    """Read the numbers of one file, (N,) float64. UserError when it is something else."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: scores of another program are read from {', '.join(SUFFIXES)} or a folder of these")
    try:
        values = np.load(path, allow_pickle=False) if suffix == ".npy" else read_text(path.read_text("utf-8-sig"))
    except Exception as error:                              # NumPy raises whatever it trips over in a damaged file
        reason = "" if suffix == ".npy" else f" ({' '.join(str(error).split()) or type(error).__name__})"
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
    """Read numbers, one a line under a header or none, or all on one line: (N,). ValueError for anything else."""
    rows = [(number, line.replace(",", " ").split()) for number, line in enumerate(text.splitlines(), 1)]
    rows = [(number, row) for number, row in rows if row]
    try:
        float(rows[0][1][0] if rows else "nan")
    except ValueError:                                      # a header
        del rows[0]
    for number, row in rows:
        if len(row) > 1 and len(rows) > 1:
            raise ValueError(f"line {number} holds {len(row)} numbers, or one with a decimal comma; expected one")
    return np.array([cell for _, row in rows for cell in row], dtype=float)


def check_length(what: object, scores: int, frames: int, labels: Mapping[str, np.ndarray], covered: slice) -> None:
    """Compare the number of scores with that of covered frames. UserError with both, and with the rule that would fit.

    Args:
        what: name of the scores, for the sentence.
        scores: their number.
        frames: the number of covered frames.
        labels: all frames of the videos that the scores are of.
        covered: the rule that gave `frames`.
    """
    if scores == frames:
        return
    total, videos = sum(map(len, labels.values())), len(labels)
    hint = "are these the scores of other videos?"
    k, rest = divmod(total - scores, videos)
    if k > 0 and rest == 0:
        each = f" in each of the {videos} videos" if videos > 1 else ""
        hint = (f"{k} missing{each} would fit: --drop-first {k} if these are the first ones, or --crop A:-B with "
                f"A + B = {k}")
    raise UserError(f"{what}: {scores} scores, but {frames} frames (--crop {show(covered)} of {total} frames in "
                    f"{videos} video{'s'[:videos != 1]}); {hint}")


def show(covered: slice) -> str:
    """Write a rule as on the command line, 8:-7."""
    return f"{'' if covered.start is None else covered.start}:{'' if covered.stop is None else covered.stop}"


def parse_rule(drop_first: int | None, crop: str | None) -> slice:
    """Turn `--drop-first 4` or `--crop 8:-7` into the covered frames of a video. UserError when it is neither."""
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
