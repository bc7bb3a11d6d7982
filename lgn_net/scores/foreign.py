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
    """Read the first line of a text file, in small letters."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.readline().replace("\0", "").lower()                          # also of UTF-16


def read_foreign(path: Path, lengths: Mapping[str, int], drop_first: int | None = None,
                 crop: str | None = None) -> tuple[list[VideoScores], Mapping[str, int]]:
    """Read another program's scores, with one signal, `score`; return the number of frames of each video, too.

    `path` is a folder with a file of scores per video, a file with all scores one after the other, or a `.csv` with
    the columns video, frame, score and perhaps label. `lengths` are the frames of each video, {} where they are not
    known; of these `crop`, a slice 8:-7, or all but `drop_first` have a score. UserError where the numbers do not fit.
    """
    if path.suffix.lower() == ".csv" and path.is_file() and "video" in first_line(path):
        videos = read_scores(path, (SIGNAL,), labelled=False)
        return videos, lengths or {video.name: int(video.frames[-1]) + 1 for video in videos}
    try:
        first, last = (int(end) if end else None for end in (crop or f"{drop_first or 0}:").split(":"))
    except ValueError:
        raise UserError(f"--crop {crop}: give FIRST:LAST as in a Python slice of frames, such as 8:-7 or 4:") from None

    # One array of all scores, those of a folder video by video.
    scores: dict[str, np.ndarray] = {}
    if path.is_dir():
        files = sorted(path.iterdir(), key=lambda file: natural_key(file.name))
        scores = {file.stem: read_array(file) for file in files if file.suffix.lower() in SUFFIXES}
        lengths = lengths or {name: len(x) + (first or 0) - (last or 0) for name, x in scores.items()}
        if not scores or len(scores) != len(lengths):
            raise UserError(f"{path} holds files of scores of {len(scores)} videos; expected one <video>.npy, .csv or "
                            f".txt for each of {len(lengths)}: {', '.join(lengths)[:200]}")
        if scores.keys() != lengths.keys():
            warn(f"{path}: its files are not named like the videos; taken in natural order: {next(iter(scores))} is "
                 f"video {next(iter(lengths))}, {[*scores][-1]} is video {[*lengths][-1]}")
            scores = dict(zip(lengths, scores.values()))
        flat = np.concatenate([scores[name] for name in lengths])
    else:
        flat = read_array(path)
        if not lengths:
            raise UserError(f"{path} holds {len(flat)} scores one after the other, and nothing says where a video "
                            f"ends; give --dataset_type ped2 or avenue, --dataset_path, or --labels with a folder")

    # The frames that they are of; where the numbers differ, the rule that would fit.
    frames = {name: np.arange(length)[first:last] for name, length in lengths.items()}
    expected, total = sum(map(len, frames.values())), sum(lengths.values())
    wrong = [f" (video {name}: {len(x)})" for name, x in scores.items() if len(x) != len(frames[name])]
    if wrong or len(flat) != expected:
        k, rest = divmod(total - len(flat), len(lengths))
        hint = "are these the scores of other videos?" if k <= 0 or rest else \
            f"{k} missing in each would fit: --drop-first {k}, or --crop A:-B with A + B = {k}"
        raise UserError(f"{path}: {len(flat)} scores{''.join(wrong[:1])}, but by the rule {expected} of the {total} "
                        f"frames in {len(lengths)} videos have one; {hint}")
    names = np.repeat(list(frames), [len(t) for t in frames.values()])
    return by_video(path, names, np.concatenate(list(frames.values())), {SIGNAL: flat}, np.zeros(expected),
                    (SIGNAL,)), lengths


def read_array(path: Path) -> np.ndarray:
    """Read the numbers of an .npy, or of a text with a header or none, (N,) float64. UserError for another file."""
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
            raise ValueError(f"{values.dtype} of shape {values.shape}")
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: no plain array of numbers, (N,) or (1, N) ({' '.join(str(error).split())}); where it "
                        f"was made, write all videos one after the other with np.save, or a file per video") from None
    return values.astype(float).ravel()
