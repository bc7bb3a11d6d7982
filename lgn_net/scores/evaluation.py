"""Read scored frames with their labels from files: our own score file, or another program's scores."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lgn_net.config import Config
from lgn_net.data.labels import find_labels, load_label_folder, load_labels
from lgn_net.data.videos import find_split, index_videos
from lgn_net.datasets import facts_of, known_lengths
from lgn_net.errors import UserError
from lgn_net.scores.foreign import SIGNAL, first_line, parse_rule, read_foreign
from lgn_net.scores.protocols import paper_weights
from lgn_net.scores.results import Provenance, Results, results_beside
from lgn_net.scores.score_file import VideoScores, read_scores

PAPER_SIGNALS = {"psnr": 1.0, "distance": -1.0}        # of a score file with no results.json beside it


class Evaluation(NamedTuple):
    """Scored frames and what is known of them."""

    videos: list[VideoScores]
    weights: Mapping[str, float]                  # of the signals in the normality, negative where high is abnormal
    training: list[VideoScores]                   # of training frames, for the normalisation by these; may be empty
    about: Provenance


class LabelSource(NamedTuple):
    """Where labels come from when the score file's own are not wanted, or are missing."""

    dataset: str | None = None         # its name, where the user gave one
    dataset_path: str | None = None    # where its frames are
    labels: str | None = None          # file or folder
    source: str = "auto"               # or one of the truths that ship

    def lengths(self) -> dict[str, int]:
        """Count the frames of the test videos on disk, else of a benchmark's; {} when neither is known."""
        if self.dataset_path:
            videos = index_videos(find_split(self.dataset_path, self.dataset or "", "testing"))
            return {video.name: len(video.frames) for video in videos}
        return known_lengths(self.dataset, "testing") if self.dataset else {}

    def truth(self, lengths: Mapping[str, int]) -> tuple[dict[str, np.ndarray], str]:
        """Read the labels (T,) of each video by its name, and tell where they are from.

        UserError when there are none, or they do not fit the `lengths`, the number of frames by the video's name.
        """
        dataset, truths = self.dataset or "", facts_of(self.dataset or "").truths
        if self.labels and Path(self.labels).is_dir() and not lengths:
            where, truth = self.labels, load_label_folder(self.labels)
        else:
            if self.labels:
                where = self.labels
            elif self.dataset_path:
                folder = find_split(self.dataset_path, dataset, "testing")
                where = str(find_labels(self.dataset_path, dataset, folder, self.source))
            elif self.source in ("auto", *truths) and truths:
                where = str(truths.get(self.source) or next(iter(truths.values())))
            else:
                raise UserError(f"no {self.source} labels of {dataset or 'these videos'} ship with this project; give "
                                f"--dataset_type, or --labels FILE or FOLDER")
            truth = load_labels(where, lengths)
        for name, length in lengths.items():
            if (count := len(truth.get(name, ()))) != length:
                raise UserError(f"labels {where}: {count} for video {name}, which has {length} frames; give the labels "
                                f"of these videos with --labels")
        return truth, where


def relabel(videos: list[VideoScores], truth: Mapping[str, np.ndarray], where: str) -> list[VideoScores]:
    """Give scores the labels (T,) that `truth` has for all frames of each video; `where` names their source.

    UserError when the labels are of other videos or end too early.
    """
    for name, frames, *_ in videos:
        if name not in truth or frames[-1] >= len(truth[name]):
            raise UserError(f"labels {where}: {len(truth.get(name, ()))} for video {name!r}, whose scores reach frame "
                            f"{frames[-1]} (from 0); they are of the {len(truth)} videos {', '.join(list(truth)[:3])} "
                            f"...; give the labels of these videos with --labels")
    return [video._replace(labels=truth[video.name][video.frames].astype(np.uint8)) for video in videos]


def is_ours(path: str) -> bool:
    """Tell whether a file is a score file of this project: by its columns, or by the results.json beside it."""
    if Path(path).suffix.lower() != ".csv" or Path(path).is_dir():
        return False
    columns = [name.strip() for name in first_line(path).split(",")]
    beside = results_beside(path)
    return "psnr" in columns or bool(beside and set(beside.signals) <= set(columns))


def read_any(path: str, config: Config, args: Any, dataset: str | None, own_lambda: bool = False) -> Evaluation:
    """Read a file of scores, ours or another program's, as the command line says.

    `dataset` and, with `own_lambda`, lambda are those of the results.json beside the file where it has them. UserError
    as in `read_evaluation` and `read_foreign_evaluation`, and for another program's scores without --direction.
    """
    beside = results_beside(path)
    dataset = dataset or (beside.dataset if beside else None)
    labels = LabelSource(dataset, args.dataset_path, args.labels, config.data.label_source)
    if is_ours(path):
        scoring = beside.scoring if beside and own_lambda else {}
        return read_evaluation(path, scoring.get("psnr_weight", config.score.psnr_weight), labels)
    if not args.direction:
        raise UserError(f"{path} holds no scores of this project (a CSV file with the columns video, frame, psnr, "
                        f"distance, label); those of another program need --direction normal|abnormal")
    return read_foreign_evaluation(path, args.direction, parse_rule(args.drop_first, args.crop), labels)


def read_evaluation(path: str | Path, psnr_weight: float, labels: LabelSource) -> Evaluation:
    """Read our own score file, with the calibration.csv and the results.json beside it where there are any.

    UserError as in `read_scores`, and when other labels are asked for and do not fit.
    """
    beside = results_beside(path)
    signals = beside.signals if beside else PAPER_SIGNALS
    weights = paper_weights(psnr_weight, len(signals) - 1) if "psnr" in signals else signals
    about = beside or Provenance(dataset=labels.dataset)                # what the network was stays true of its scores
    relabelled, where = labels.labels is not None or labels.source != "auto", f"column label of {path}"
    videos = read_scores(path, tuple(weights), labelled=not relabelled)
    if relabelled:
        labels = labels._replace(dataset=labels.dataset or about.dataset)
        in_folder = labels.labels and Path(labels.labels).is_dir()
        seen = {} if in_folder else {video.name: int(video.frames[-1]) + 1 for video in videos}
        truth, where = labels.truth(labels.lengths() or seen)
        videos, about = relabel(videos, truth, where), replace(about, quality=None)      # its means are of the classes
    frames = sum(len(video.frames) for video in videos)
    if beside and beside.frames != frames:
        warnings.warn(f"{path} holds {frames} frames, the results.json beside it is of {beside.frames}: what that "
                      f"says of all frames is left out")
        about = replace(about, complete_benchmark=None, localization=None, quality=None)
    return Evaluation(videos, weights, read_training(path, weights), replace(about, scores=str(path), labels=where))


def read_foreign_evaluation(path: str | Path, direction: str, covered: slice, labels: LabelSource) -> Evaluation:
    """Read another program's scores; `direction`, "normal" or "abnormal", says what a high one means.

    `path` and `covered` as in `read_foreign`. UserError as there, and when labels are there that do not fit.
    """
    truth, where, lengths = None, "none", labels.lengths()
    if lengths or (labels.labels and Path(labels.labels).is_dir()):
        truth, where = labels.truth(lengths)
        lengths = {name: len(y) for name, y in truth.items()}
    videos, lengths = read_foreign(path, lengths, covered)
    if labels.labels and truth is None:
        truth, where = labels.truth(lengths)
    if truth is not None:
        videos = relabel(videos, truth, where)
    elif not any(video.labels.any() for video in videos):
        warnings.warn(f"no labels for {path}: give --labels, --dataset_type or --dataset_path; all frames count as "
                      f"normal")
    about = Provenance(scores=str(path), direction=f"high is {direction}", labels=where, dataset=labels.dataset)
    return Evaluation(videos, {SIGNAL: 1.0 if direction == "normal" else -1.0}, [], about)


def open_evaluation(folder: str | Path) -> tuple[Evaluation, Results, Path]:
    """Read what evaluate.py left in its folder, as it was measured; return its results and the very folder, too.

    `folder` may also be the run's, with the evaluation (of last.pt, where there are several) in it. UserError when
    there is none.
    """
    folder = Path(folder)
    inside = folder / "evaluation_last" / "scores.csv", *sorted(folder.glob("*/scores.csv"))
    for path in (folder / "scores.csv", *inside):
        if path.is_file() and (results := results_beside(path)):
            videos, weights = read_scores(path, tuple(results.signals)), results.signals
            return Evaluation(videos, weights, read_training(path, weights), results), results, path.parent
    raise UserError(f"{folder} holds no evaluation (scores.csv and results.json); make one with evaluate.py")


def read_folder(folder: str | Path) -> Any:
    """Read an evaluation, its results as a dictionary. Seam: for callers that do not take `open_evaluation` yet."""
    evaluation, results, path = open_evaluation(folder)
    return evaluation._replace(about=results.to_dict() | {"folder": str(path)})           # type: ignore[arg-type]


def read_training(scores: str | Path, weights: Mapping[str, float]) -> list[VideoScores]:
    """Read the calibration.csv beside a score file; [] where there is none."""
    path = Path(scores).with_name("calibration.csv")
    return read_scores(path, tuple(weights), labelled=False, consecutive=False) if path.is_file() else []
