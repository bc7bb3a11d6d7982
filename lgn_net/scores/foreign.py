"""Read the scores of other programs into the tables of our own. The user says which frames they are of."""

from collections.abc import Mapping
from pathlib import Path
from warnings import warn

import numpy as np

from lgn_net.data.videos import natural_key
from lgn_net.errors import UserError
from lgn_net.scores.score_file import VideoScores, by_video, read_scores

SIGNAL = "score"
SUFFIXES = (".npy", ".csv", ".txt")


def first_line(path: str | Path) -> str:
    """Read the first line of a text file."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.readline()


def read_foreign(path: Path, lengths: Mapping[str, int],
                 covered: slice) -> tuple[list[VideoScores], Mapping[str, int]]:
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
    if path.suffix.lower() == ".csv" and path.is_file() and "video" in first_line(path):
        videos = read_scores(path, (SIGNAL,), labelled=False)
        return videos, lengths or {video.name: int(video.frames[-1]) + 1 for video in videos}

    # One array of all scores, those of a folder video by video.
    if path.is_dir():
        scores = read_folder_of_arrays(path, list(lengths))
        lengths = lengths or {name: len(x) + (covered.start or 0) - (covered.stop or 0) for name, x in scores.items()}
        for name, length in lengths.items():
            check_count(f"{path}, video {name}", len(scores[name]), {name: length}, covered)
        flat = np.concatenate([scores[name] for name in lengths])
    else:
        flat = read_array(path)
        if not lengths:
            raise UserError(f"{path} holds {len(flat)} scores one after the other, and nothing says where a video "
                            f"ends; give --dataset_type ped2 or avenue, --dataset_path, or --labels with a folder of "
                            f"<video>.npy")
        check_count(path, len(flat), lengths, covered)

    # The frames that they are of.
    frames = [np.arange(length)[covered] for length in lengths.values()]
    names = np.repeat(list(lengths), [len(t) for t in frames])
    return by_video(path, names, np.concatenate(frames), {SIGNAL: flat}, np.zeros(len(flat)), (SIGNAL,)), lengths


def read_folder_of_arrays(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Read the scores of each video by its name, one of `names` where these are known. UserError for another number.

    Files that are named otherwise are taken in natural order, with a warning.
    """
    files = sorted((file for file in path.iterdir() if file.suffix.lower() in SUFFIXES),
                   key=lambda file: natural_key(file.name))
    scores = {file.stem: read_array(file) for file in files}
    if not scores or len(scores) != len(names or files):
        raise UserError(f"{path} holds files of scores of {len(scores)} videos; expected one <video>.npy, .csv or .txt "
                        f"for each of {len(names or files)}: {', '.join(names)[:200]}")
    if names and set(scores) != set(names):
        warn(f"{path}: its files are not named like the videos; taken in natural order: {files[0].stem} is video "
             f"{names[0]}, {files[-1].stem} is video {names[-1]}")
        scores = dict(zip(names, scores.values()))
    return scores


def read_array(path: Path) -> np.ndarray:
    """Read the numbers of one file, (N,) float64. UserError when it is something else.

    Text holds one number a line, under a header or none, or all of them on one line.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: scores are read from {', '.join(SUFFIXES)}, or a folder of these")
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            lines = path.read_text("utf-8-sig").replace(",", " ").splitlines()
            try:
                values = np.loadtxt(lines, ndmin=1)
            except ValueError:                              # a header
                values = np.loadtxt(lines[1:], ndmin=1)
        if values.dtype.kind not in "buif" or not values.size or max(values.shape, default=0) != values.size:
            raise ValueError(f"{values.dtype} of shape {values.shape}; expected (N,) or (1, N) numbers")
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: no plain array of numbers ({' '.join(str(error).split())}); where it was made, write "
                        f"all videos one after the other with np.save, or a file per video") from None
    return values.astype(float).ravel()


def check_count(what: object, scores: int, lengths: Mapping[str, int], covered: slice) -> None:
    """Raise UserError, with the rule that would fit, unless videos of these `lengths` have as many covered frames."""
    total, videos = sum(lengths.values()), len(lengths)
    frames = sum(len(range(length)[covered]) for length in lengths.values())
    k, rest = divmod(total - scores, videos)
    hint = "are these the scores of other videos?" if k <= 0 or rest else \
        f"{k} missing in each of the {videos} videos would fit: --drop-first {k}, or --crop A:-B with A + B = {k}"
    if scores != frames:
        raise UserError(f"{what}: {scores} scores, but by the rule {frames} of the {total} frames in {videos} videos "
                        f"have one; {hint}")
