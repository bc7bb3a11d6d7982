"""Read scored frames with their labels from files: our own score file, or another program's scores."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast
from warnings import warn

import numpy as np
from jsonargparse import ArgumentError, ArgumentParser

from lgn_net.config import Config
from lgn_net.data.labels import find_labels, load_label_folder, load_labels
from lgn_net.data.videos import find_split, index_videos, natural_key
from lgn_net.datasets import facts_of
from lgn_net.errors import UserError
from lgn_net.scores.normality import Weights
from lgn_net.scores.protocols import paper_weights
from lgn_net.scores.results import Results
from lgn_net.scores.score_file import Videos, VideoScores, by_video, known_as, read_scores

# Keys of results.json that say what the scores are of. Measuring scores again takes them over.
PROVENANCE = ("dataset", "complete_benchmark", "direction", "checkpoint", "parameters", "versions", "config",
              "memories", "localization", "quality")
OWN = ArgumentParser(exit_on_error=False)                # checks the kinds of what a results.json holds
OWN.add_argument("--results", type=Results)


class Evaluation(NamedTuple):
    """Scored frames and what is known of them."""

    videos: list[VideoScores]
    weights: Weights
    training: list[VideoScores]                   # of training frames, for the normalisation by these; may be empty
    about: Results                                # where the scores are from


def labels_of(lengths: Mapping[str, int], dataset: str | None, dataset_path: str | None, labels: str | None,
              source: str) -> tuple[dict[str, np.ndarray], str]:
    """Read the labels (T,) of each video by its name: `labels`, beside the frames, or what ships; tell which."""
    dataset, truths = dataset or "", facts_of(dataset or "").truths
    if labels:
        where = labels
    elif dataset_path:
        where = str(find_labels(dataset_path, dataset, find_split(dataset_path, dataset, "testing"), source))
    elif source in ("auto", *truths) and truths:
        where = str(truths.get(source) or next(iter(truths.values())))
    else:
        raise UserError(f"no {source} labels of {dataset or 'these videos'} ship with this project; give "
                        f"--dataset_type, or --labels FILE or FOLDER")
    return load_label_folder(where) if Path(where).is_dir() and not lengths else load_labels(where, lengths), where


def score_file(path: str | Path) -> Path:
    """Return `path` or, for a folder, the scores.csv in it or one level below; one with a results.json comes first."""
    folder = Path(path)
    inside = folder / "scores.csv", folder / "evaluation_last" / "scores.csv", *sorted(folder.glob("*/scores.csv"))
    found = sorted((file for file in inside if file.is_file()), key=lambda x: not x.with_name("results.json").is_file())
    return next(iter(found), folder)


def results_beside(scores: str | Path) -> Results:
    """Read the results.json beside a score file; {} where there is none. UserError if damaged."""
    path = Path(scores).with_name("results.json")
    try:
        if not path.is_file():
            return {}
        results = {"signals": {"psnr": 1.0, "distance": -1.0}} | json.loads(path.read_text())
        known = {key: value for key, value in results.items() if key in Results.__annotations__}
        results |= OWN.parse_object({"results": known})["results"]
        of_scores = results.get("scores_crc32") if Path(scores).name == "scores.csv" else None
        if of_scores is not None and of_scores != zlib.crc32(Path(scores).read_bytes()):
            warn(f"{scores} is not what {path} was made with: it was changed or damaged; evaluate again")
        return results
    except (ValueError, TypeError, RecursionError, ArgumentError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:300]}); evaluate again, or move it away "
                        f"and give --lambda") from None


def read_any(place: str, config: Config, args: Any, dataset: str | None, own_lambda: bool = False,
             like: Videos = ()) -> Evaluation:
    """Read a file of scores, ours (or the folder with it) or another program's, with the labels that are asked for.

    With `own_lambda`, lambda is that of the results.json beside our own file. Scores of another program without labels
    take those of the videos that they are `like`.
    """
    path = score_file(place)
    beside = results_beside(path)
    dataset = dataset or beside.get("dataset")
    known: Mapping[str, int] = facts_of(dataset).lengths.get("testing", {})
    if args.labels and Path(args.labels).is_dir():
        known = {name: len(y) for name, y in load_label_folder(args.labels).items()}
    elif args.dataset_path:
        found = index_videos(find_split(args.dataset_path, dataset or "", "testing"))
        known = {video.name: len(video.frames) for video in found}
    about: Results = {"dataset": dataset, "scores": str(path), "labels": f"column label of {path}"}
    training: list[VideoScores] = []
    borrowed = {} if known or args.labels else {video.name: np.bincount(video.frames, video.labels) for video in like}
    header = header_of(path)
    if "psnr" in header or ("normality" in header and beside):
        weights = beside.get("signals", {"psnr": 1.0, "distance": -1.0})
        if "psnr" in weights:
            scoring = beside.get("scoring", {}) if own_lambda else {}
            weights = paper_weights(scoring.get("psnr_weight", config.score.psnr_weight), len(weights) - 1)
        relabelled = args.labels is not None or config.data.label_source != "auto"
        videos, training = read_scores(path, tuple(weights), labelled=not relabelled), read_training(path, weights)
        lengths = known
        about |= cast(Results, {key: value for key, value in beside.items() if key in PROVENANCE})
    elif args.direction:
        weights = {"score": 1.0 if args.direction == "normal" else -1.0}
        lengths = known or {video.name: int(video.frames[-1]) + 1 for video in like}
        videos, lengths = read_foreign(path, lengths, args.drop_first, args.crop)
        relabelled = bool(known or args.labels or borrowed and not any(video.labels.any() for video in videos))
        about["direction"] = f"high is {args.direction}"
    else:
        raise UserError(f"{path} holds no scores of this project (a CSV file with the columns video, frame, psnr, "
                        f"distance, label); those of another program need --direction normal|abnormal")
    videos = known_as(path, videos, lengths)
    if relabelled:
        lengths = lengths or {video.name: int(video.frames[-1]) + 1 for video in videos}
        truth, about["labels"] = (borrowed, "of the first score file") if borrowed else labels_of(
            lengths, dataset, args.dataset_path, args.labels, config.data.label_source)
        for name, frames, *_ in videos:
            if frames[-1] >= (count := len(truth.get(name, ()))):
                raise UserError(f"labels {about['labels']}: {count} for video {name!r}, whose scores reach frame "
                                f"{frames[-1]} (from 0); they are of {', '.join(list(truth)[:3])} ...; give --labels")
        videos = [video._replace(labels=truth[video.name][video.frames].astype(np.uint8)) for video in videos]
        about.pop("quality", None)                                                       # its means are of the classes
    return Evaluation(videos, weights, training, about)


def open_evaluation(folder: str | Path) -> tuple[Evaluation, Path]:
    """Read what evaluate.py left in its folder, or in the run's, as it was measured; return that folder, too."""
    path = score_file(folder)
    if not (results := results_beside(path) if path.is_file() else {}):
        raise UserError(f"{folder} holds no evaluation (scores.csv and results.json); make one with evaluate.py")
    weights = results["signals"]
    return Evaluation(read_scores(path, tuple(weights)), weights, read_training(path, weights), results), path.parent


def read_training(scores: str | Path, weights: Weights) -> list[VideoScores]:
    """Read the calibration.csv beside a score file; [] where there is none."""
    path = Path(scores).with_name("calibration.csv")
    return read_scores(path, tuple(weights), labelled=False) if path.is_file() else []


def header_of(path: Path) -> str:
    """Read the first line of a CSV file in small letters; '' of another file or a folder."""
    if path.suffix.lower() != ".csv" or path.is_dir():
        return ""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.readline().replace("\0", "").lower()                          # also of UTF-16


def read_foreign(path: Path, lengths: Mapping[str, int], drop_first: int | None,
                 crop: str | None) -> tuple[list[VideoScores], Mapping[str, int]]:
    """Read another program's scores, with one signal, `score`; return the number of frames of each video, too.

    `path` is a folder with a file per video, a file with all scores one after the other, or a table with the columns
    video, frame, score. Of the `lengths` {video: frames}, `crop`, a slice 8:-7, or all but `drop_first` have a score.
    """
    if "video" in header_of(path):
        return read_scores(path, ("score",), labelled=False), lengths
    try:
        first, last = (int(end) if end else None for end in (crop or f"{drop_first or 0}:").split(":"))
    except ValueError:
        raise UserError(f"--crop {crop}: give FIRST:LAST as in a Python slice of frames, such as 8:-7 or 4:") from None

    # One array of all scores, those of a folder video by video.
    scores: dict[str, np.ndarray] = {}
    if path.is_dir():
        files = sorted(path.iterdir(), key=lambda file: natural_key(file.name))
        scores = {file.stem: read_array(file) for file in files if file.suffix.lower() in (".npy", ".csv", ".txt")}
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
    return by_video(path, names, np.concatenate(list(frames.values())), {"score": flat}, np.zeros(expected),
                    ["score"]), lengths


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
    except Exception as error:                              # NumPy raises many kinds for a damaged file
        raise UserError(f"{path}: no plain array of numbers, (N,) or (1, N) ({' '.join(str(error).split())}); where it "
                        f"was made, write all videos one after the other with np.save, or a file per video") from None
    return values.astype(float).ravel()
