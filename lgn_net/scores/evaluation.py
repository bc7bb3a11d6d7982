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
from lgn_net.datasets import BENCHMARKS, canonical_name, known_lengths
from lgn_net.errors import UserError
from lgn_net.scores.foreign import SIGNAL, lengths_in, parse_rule, read_foreign
from lgn_net.scores.protocols import paper_weights
from lgn_net.scores.results import Provenance, Results, results_beside
from lgn_net.scores.score_file import VideoScores, read_scores, relabel

PAPER_SIGNALS = {"psnr": 1.0, "distance": -1.0}        # of a score file with no results.json beside it


class Evaluation(NamedTuple):
    """Scored frames and what is known of them."""

    videos: list[VideoScores]
    weights: Mapping[str, float]                  # of the signals in the normality, negative where high is abnormal
    training: list[VideoScores]                   # of training frames, for the normalisation by these; may be empty
    about: Provenance


class Opened(NamedTuple):
    """What evaluate.py left in a folder."""

    evaluation: Evaluation
    results: Results
    folder: Path


class LabelSource(NamedTuple):
    """Where labels come from when the score file's own are not wanted, or are missing."""

    dataset: str | None = None         # its name, where the user gave one
    dataset_path: str | None = None    # where its frames are
    labels: str | None = None          # file or folder
    source: str = "auto"               # or one of the truths that ship

    @property
    def given(self) -> bool:
        """Tell whether other labels than a score file's own are asked for."""
        return self.labels is not None or self.source != "auto"

    @property
    def in_folder(self) -> bool:
        """Tell whether the labels name their videos: a file each."""
        return self.labels is not None and Path(self.labels).is_dir()

    def lengths(self) -> dict[str, int]:
        """Count the frames of the test videos on disk, else of a benchmark's; {} when neither is known."""
        if self.dataset_path:
            videos = index_videos(find_split(self.dataset_path, self.dataset or "", "testing"))
            return {video.name: len(video.frames) for video in videos}
        return known_lengths(self.dataset, "testing") if self.dataset else {}

    def truth(self, lengths: Mapping[str, int]) -> tuple[dict[str, np.ndarray], str]:
        """Read the labels (T,) of each video by its name, and tell where they are from.

        UserError when they do not fit the `lengths`, the number of frames by the video's name.
        """
        if self.labels and self.in_folder:
            truth = load_label_folder(self.labels)
            for name, length in lengths.items():
                if (count := len(truth.get(name, ()))) != length:
                    raise UserError(f"labels {self.labels}: {count} for video {name}, which has {length} frames; give "
                                    f"the labels of these videos with --labels")
            return truth, self.labels
        path = self.labels or self.find()
        return load_labels(path, lengths), str(path)

    def find(self) -> Path:
        """Find the label file beside the frames, or the one that ships. UserError when there is none."""
        if self.dataset_path:
            folder = find_split(self.dataset_path, self.dataset or "", "testing")
            return find_labels(self.dataset_path, self.dataset or "", folder, self.source)
        benchmark = BENCHMARKS.get(canonical_name(self.dataset or ""))
        truths = benchmark.truths if benchmark else {}
        if not truths or self.source not in ("auto", *truths):
            wanted = "labels" if self.source == "auto" else f"{self.source} labels"
            named = "" if self.dataset else "--dataset_type, or "
            raise UserError(f"no {wanted} of {self.dataset or 'these videos'} ship with this project; give {named}"
                            f"--labels FILE or FOLDER")
        return truths.get(self.source) or next(iter(truths.values()))


def read_any(path: str, config: Config, args: Any, dataset: str | None, own_lambda: bool = False) -> Evaluation:
    """Read a file of scores, ours or another program's.

    Args:
        path: of the file, or of a folder of another program's files.
        config: for lambda and the source of the labels.
        args: the command line, with direction, drop_first, crop, dataset_path and labels.
        dataset: its name; None takes the one in the results.json beside the file.
        own_lambda: whether the lambda in the results.json beside the file comes before the configuration's.

    Raises:
        UserError: as in `read_evaluation` and `read_foreign_evaluation`, and for another program's scores without
            --direction.
    """
    ours, beside = is_ours(path), results_beside(path)
    dataset = dataset or (beside.dataset if beside else None)
    labels = LabelSource(dataset, args.dataset_path, args.labels, config.data.label_source)
    if ours:
        scoring = beside.scoring if beside and own_lambda else {}
        return read_evaluation(path, scoring.get("psnr_weight", config.score.psnr_weight), labels)
    if not args.direction:
        raise UserError(f"{path} holds no scores of this project (a CSV file with the columns video, frame, psnr, "
                        f"distance, label); those of another program need --direction normal|abnormal")
    return read_foreign_evaluation(path, args.direction, parse_rule(args.drop_first, args.crop), labels)


def is_ours(path: str | Path) -> bool:
    """Tell whether a file is a score file of this project: by its columns, or by the results.json beside it.

    UserError when there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file() or path.suffix.lower() != ".csv":
        return False
    columns = [name.strip() for name in path.read_text("utf-8-sig", errors="replace").partition("\n")[0].split(",")]
    beside = results_beside(path)
    return "psnr" in columns or bool(beside and set(beside.signals) <= set(columns))


def read_evaluation(path: str | Path, psnr_weight: float, labels: LabelSource) -> Evaluation:
    """Read our own score file, with the calibration.csv and the results.json beside it where there are any.

    UserError as in `read_scores`, and when other labels are asked for and do not fit.
    """
    beside = results_beside(path)
    signals = beside.signals if beside else PAPER_SIGNALS
    weights = paper_weights(psnr_weight, len(signals) - 1) if "psnr" in signals else signals
    videos = read_scores(path, tuple(weights), labelled=not labels.given)
    about, where = Provenance(dataset=labels.dataset), f"column label of {path}"
    if beside:                                                          # what the network was stays true of its scores
        about = Provenance(**{name: getattr(beside, name) for name in Provenance.__dataclass_fields__})
        labels = labels._replace(dataset=labels.dataset or beside.dataset)
    if labels.given:
        guessed = {} if labels.in_folder else {video.name: int(video.frames[-1]) + 1 for video in videos}
        truth, where = labels.truth(labels.lengths() or guessed)
        videos, about = relabel(videos, truth, where), replace(about, quality=None)      # its means are of the classes
    frames = sum(len(video.frames) for video in videos)
    if beside and beside.frames != frames:
        warnings.warn(f"{path} holds {frames} frames, the results.json beside it is of {beside.frames}: what that "
                      f"says of all frames is left out")
        about = replace(about, complete_benchmark=None, localization=None, quality=None)
    return Evaluation(videos, weights, read_training(path, weights), replace(about, scores=str(path), labels=where))


def read_foreign_evaluation(path: str | Path, direction: str, covered: slice, labels: LabelSource) -> Evaluation:
    """Read another program's scores.

    Args:
        path: of the file or folder, see `read_foreign`.
        direction: "normal" or "abnormal", what a high score means.
        covered: which frames of each video the scores are of.
        labels: where labels come from.

    Raises:
        UserError: as in `read_foreign`, and when labels are there that do not fit.
    """
    truth, where, lengths = None, "none", labels.lengths()
    if labels.labels and not lengths and not labels.in_folder:
        lengths = lengths_in(path, covered)
    if lengths or labels.in_folder:
        truth, where = labels.truth(lengths)
    videos = read_foreign(path, truth, covered)
    if truth is None:
        warnings.warn(f"no labels for {path}: give --labels, --dataset_type or --dataset_path; all frames count as "
                      f"normal")
    about = Provenance(scores=str(path), direction=f"high is {direction}", labels=where, dataset=labels.dataset)
    return Evaluation(videos, {SIGNAL: 1.0 if direction == "normal" else -1.0}, [], about)


def open_evaluation(folder: str | Path) -> Opened:
    """Read what evaluate.py left in its folder, as it was measured.

    `folder` may also be the run's, with the evaluation (of last.pt, where there are several) in it. UserError when
    there is none.
    """
    folder = Path(folder)
    inside = folder / "evaluation_last" / "scores.csv", *sorted(folder.glob("*/scores.csv"))
    for path in (folder / "scores.csv", *inside):
        if path.is_file() and (results := results_beside(path)):
            videos, weights = read_scores(path, tuple(results.signals)), results.signals
            return Opened(Evaluation(videos, weights, read_training(path, weights), results), results, path.parent)
    raise UserError(f"{folder} holds no evaluation (scores.csv and results.json); make one with evaluate.py")


def read_folder(folder: str | Path) -> Any:
    """Read an evaluation, its results as a dictionary. Seam: for callers that do not take `open_evaluation` yet."""
    opened = open_evaluation(folder)
    return opened.evaluation._replace(about=opened.results.to_dict() | {"folder": str(opened.folder)})   # type: ignore[arg-type]


def read_training(scores: str | Path, weights: Mapping[str, float]) -> list[VideoScores]:
    """Read the calibration.csv beside a score file; [] where there is none."""
    path = Path(scores).with_name("calibration.csv")
    return read_scores(path, tuple(weights), labelled=False, consecutive=False) if path.is_file() else []
