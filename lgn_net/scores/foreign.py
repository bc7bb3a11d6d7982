"""Read the scores of other programs into the tables of our own. The user says which frames they are of."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lgn_net.data.videos import natural_key
from lgn_net.errors import UserError
from lgn_net.scores.score_file import VideoScores, read_scores, usable

SIGNAL = "score"
SUFFIXES = (".npy", ".csv", ".txt")


def read_foreign(path: str | Path, lengths: Mapping[str, int],
                 covered: slice) -> tuple[list[VideoScores], dict[str, int]]:
    """Read another program's scores, with one signal, `score`.

    Args:
        path: a folder with a file of scores per video, named like the video; a `.npy`, `.csv` or `.txt` file with the
            scores of all videos one after the other; or a `.csv` with the columns video, frame, score and perhaps
            label, which needs no rule. Text files hold a number a line, or all of them on one.
        lengths: frames of each video, in order; {} where they are not known.
        covered: which frames of a video the scores are of: slice(4, None) where the first four were dropped.

    Returns:
        The scores, labels 0 unless the table has some, and the frames of each video, as far as the scores tell.

    Raises:
        UserError: other videos than those of `lengths`, or not as many scores as covered frames.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv" and path.is_file() and "video" in first_line(path):
        if covered != slice(None):
            raise UserError(f"{path} says itself which frames its scores are of; leave --drop-first and --crop out")
        videos = [video._replace(signals={SIGNAL: video.signals[SIGNAL]})
                  for video in read_scores(path, (SIGNAL,), labelled=None, consecutive=False)]
        if len(videos) < len(lengths):
            warnings.warn(f"{path}: scores of {len(videos)} of the {len(lengths)} videos that have labels")
        return videos, dict(lengths) or {video.name: int(video.frames[-1]) + 1 for video in videos}

    # An array per video.
    if path.is_dir():
        scores = read_folder_of_arrays(path, lengths)
        if not lengths and covered.stop is not None and covered.stop >= 0:
            raise UserError(f"without labels the length of a video is not known, and --crop {show(covered)} says "
                            f"nothing; give --labels, --dataset_type or --dataset_path")
        lengths = lengths or {name: len(x) + (covered.start or 0) - (covered.stop or 0) for name, x in scores.items()}
    else:
        flat = read_array(path)
        if not lengths:
            raise UserError(f"{path} holds {len(flat)} scores one after the other, and nothing says where a video "
                            f"ends; give --dataset_type ped2 or avenue, --dataset_path, or --labels with a folder of "
                            f"<video>.npy")
        check_length(path, len(flat), lengths, covered)
        ends = np.cumsum([len(range(length)[covered]) for length in lengths.values()])
        scores = dict(zip(lengths, np.split(flat, ends[:-1])))

    # Its frames, where the score is finite.
    videos = []
    for name, length in lengths.items():
        check_length(f"{path}, video {name}", len(scores[name]), {name: length}, covered)
        frames, good = np.arange(length)[covered], usable(scores[name])
        if not len(frames):
            warnings.warn(f"{path}: video {name} is too short for --crop {show(covered)}; left out")
        elif not good.all():
            warnings.warn(f"{path}: {np.sum(~good)} of {len(good)} scores of video {name} are not finite (first: "
                          f"frame {frames[~good][0]}); left out")
        if good.any():
            video = VideoScores(name, frames, {SIGNAL: scores[name]}, np.zeros(len(frames), np.uint8))
            videos.append(video.pick(good))
    if not videos:
        raise UserError(f"{path} holds no finite score")
    return videos, dict(lengths)


def first_line(path: str | Path) -> str:
    """Read the first line of a text file."""
    return Path(path).read_text("utf-8-sig", errors="replace").partition("\n")[0]


def read_folder_of_arrays(path: Path, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read the scores of each video, its name that of `lengths`, else that of the file. UserError for another number.

    Files that are named otherwise are taken in natural order, with a warning.
    """
    files = sorted((p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")),
                   key=lambda p: natural_key(p.name))
    scores = {p.stem: read_array(p) for p in files}
    if not files or len(scores) < len(files):
        raise UserError(f"{path}: expected one file <video>.npy, .csv or .txt for each video")
    if not lengths or set(scores) == set(lengths):
        return scores
    if len(scores) != len(lengths):
        missing = [name for name in lengths if name not in scores]
        raise UserError(f"{path} holds scores of {len(scores)} videos, the labels are of {len(lengths)}"
                        + (f"; video {missing[0]} is missing" if missing else ""))
    warnings.warn(f"{path}: its files are not named like the videos; taken in natural order: {files[0].stem} is "
                  f"video {next(iter(lengths))}, {files[-1].stem} is video {list(lengths)[-1]}")
    return dict(zip(lengths, scores.values()))


def read_array(path: Path) -> np.ndarray:
    """Read the numbers of one file, (N,) float64. UserError when it is something else.

    Text holds one number a line, under a header or none, or all of them on one line.
    """
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: no such file, or none of scores ({', '.join(SUFFIXES)}, or a folder of these)")
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            text = path.read_text("utf-8-sig").replace(",", " ")
            rows = [row for line in text.splitlines() if (row := line.split())]
            try:
                float(rows[0][0])
            except ValueError:                              # a header
                del rows[0]
            values = np.array(rows if len(rows) > 1 else rows[0], float)
        if values.dtype.kind not in "buif" or not values.size or max(values.shape, default=0) != values.size:
            raise ValueError(f"{values.dtype} of shape {values.shape}; expected (N,) or (1, N) numbers")
    except Exception as error:                              # NumPy raises whatever it trips over in a damaged file
        raise UserError(f"{path}: no plain array of numbers ({' '.join(str(error).split())}); where it was made, write "
                        f"all videos one after the other with np.save, or a file per video") from None
    return values.astype(float).ravel()


def check_length(what: object, scores: int, lengths: Mapping[str, int], covered: slice) -> None:
    """Raise UserError, with the rule that would fit, unless videos of these `lengths` have as many covered frames."""
    total, videos = sum(lengths.values()), len(lengths)
    frames = sum(len(range(length)[covered]) for length in lengths.values())
    if scores == frames:
        return
    k, rest = divmod(total - scores, videos)
    hint = "are these the scores of other videos?" if k <= 0 or rest else \
        f"{k} missing in each of the {videos} videos would fit: --drop-first {k}, or --crop A:-B with A + B = {k}"
    raise UserError(f"{what}: {scores} scores, but {frames} frames (--crop {show(covered)} of {total} frames in "
                    f"{videos} videos); {hint}")


def show(covered: slice) -> str:
    """Write a rule as on the command line, 8:-7."""
    return ":".join("" if end is None else str(end) for end in (covered.start, covered.stop))


def parse_rule(drop_first: int | None, crop: str | None) -> slice:
    """Turn `--drop-first 4` or `--crop 8:-7` into the covered frames of a video. UserError when it is neither."""
    text = f"{drop_first}:" if crop is None and drop_first is not None else crop or ":"
    try:
        start, stop = (int(end) if end else None for end in text.split(":"))
        if (start or 0) < 0 or (crop is not None and drop_first is not None):
            raise ValueError
    except ValueError:
        raise UserError(f"--drop-first {drop_first}, --crop {crop}: give one of the two: frames, 0 or more; "
                        f"or FIRST:LAST like a Python slice of each video's frames, 8:-7 or 4:") from None
    return slice(start or None, stop)
