"""Files -> scored frames with their labels: our own score file, or another program's scores."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lgn_net.data.labels import find_labels, load_label_folder, load_labels
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.datasets import BENCHMARKS, canonical_name, known_lengths
from lgn_net.errors import UserError
from lgn_net.scores.foreign import SIGNAL, lengths_in, read_foreign
from lgn_net.scores.normality import normality
from lgn_net.scores.protocols import paper_weights
from lgn_net.scores.score_file import VideoScores, read_scores

# What a score file takes over from the results.json beside it; what of this stands only while its labels, while all of
# its frames are the same.
CARRIED = ("direction", "checkpoint", "versions", "config", "complete_benchmark", "memories", "localization", "quality")
OF_THE_LABELS, OF_ALL_FRAMES = ("quality",), ("complete_benchmark", "localization", "quality")
# Types of what is read from a results.json.
KINDS = {"config": dict, "scoring": dict, "signals": dict, "localization": dict, "quality": dict, "memories": list,
         "frames": int, "dataset": str | None}


class Evaluation(NamedTuple):
    """Scored frames and what is known of them."""

    videos: list[VideoScores]
    weights: Mapping[str, float]                  # of the signals in the normality, negative where high is abnormal
    training: list[VideoScores]                   # of training frames, for the normalisation by these; may be empty
    about: dict                                   # dataset, labels, checkpoint, versions, config: for results.json


class LabelSource(NamedTuple):
    """Where labels come from when the score file's own are not wanted, or are missing."""

    dataset: str | None = None         # its name, where the user gave one
    dataset_path: str | None = None    # where its frames are
    labels: str | None = None          # file or folder
    source: str = "auto"               # or one of the truths that ship

    @property
    def given(self) -> bool:
        """Whether other labels than a score file's own are asked for."""
        return self.labels is not None or self.source != "auto"

    @property
    def in_folder(self) -> bool:
        """Whether the labels name their videos: a file each."""
        return self.labels is not None and Path(self.labels).is_dir()

    def videos(self) -> list[Video]:
        """The test videos: those on disk, else the published ones of a benchmark; [] when neither is known."""
        if self.dataset_path:
            return index_videos(find_split(self.dataset_path, self.dataset or "", "testing"))
        return made_up(known_lengths(self.dataset, "testing")) if self.dataset else []

    def truth(self, videos: list[Video]) -> tuple[dict[str, np.ndarray], str]:
        """Labels of all frames of each video by its name, and where they are from. UserError when they do not fit."""
        if self.in_folder:
            truth = load_label_folder(self.labels)
            for video in videos:
                if (count := len(truth.get(video.name, ()))) != len(video.frames):
                    raise UserError(f"labels {self.labels}: {count} for video {video.name}, which has "
                                    f"{len(video.frames)} frames; give the labels of these videos with --labels")
            return truth, self.labels
        if self.labels:
            path = self.labels
        elif self.dataset_path:
            folder = find_split(self.dataset_path, self.dataset or "", "testing")
            path = find_labels(self.dataset_path, self.dataset or "", folder, self.source)
        else:
            benchmark = BENCHMARKS.get(canonical_name(self.dataset or ""))
            truths = benchmark.truths if benchmark else {}
            if not truths or self.source not in ("auto", *truths):
                wanted = "labels" if self.source == "auto" else f"{self.source} labels"
                named = "" if self.dataset else "--dataset_type, or "
                raise UserError(f"no {wanted} of {self.dataset or 'these videos'} ship with this project; give {named}"
                                f"--labels FILE or FOLDER")
            path = truths.get(self.source) or next(iter(truths.values()))
        return load_labels(path, {video.name: len(video.frames) for video in videos}), str(path)


def read_evaluation(path: str | Path, psnr_weight: float, labels: LabelSource) -> Evaluation:
    """Our own score file, with the calibration.csv and the results.json beside it where there are any.

    UserError as in `read_scores`, and when other labels are asked for and do not fit.
    """
    about = results_beside(path)
    signals = about.get("signals", {"psnr": 1.0, "distance": -1.0})
    memories = sum(name.startswith("distance") for name in signals)
    weights = paper_weights(psnr_weight, memories) if "psnr" in signals else signals
    videos = read_scores(path, tuple(weights), labelled=not labels.given)
    where = f"column label of {path}"
    if labels.given:
        labels = labels._replace(dataset=labels.dataset or about.get("dataset"))
        guessed = {} if labels.in_folder else {video.name: int(video.frames[-1]) + 1 for video in videos}
        truth, where = labels.truth(labels.videos() or made_up(guessed))
        videos = relabel(videos, truth, where)
    if memories:
        check_lambda(path, videos, psnr_weight, memories)
    left_out = OF_THE_LABELS if labels.given else ()
    if "frames" in about and about["frames"] != (frames := sum(len(video.frames) for video in videos)):
        warnings.warn(f"{path} holds {frames} frames, the results.json beside it is of {about['frames']}: what that "
                      f"says of all frames is left out")
        left_out += OF_ALL_FRAMES
    carried = {key: about[key] for key in CARRIED if key in about and key not in left_out}
    return Evaluation(videos, weights, read_training(path, weights), {
        "scores": str(path), "labels": where, "dataset": about.get("dataset", labels.dataset)} | carried)


def is_ours(path: str | Path) -> bool:
    """Whether a file is a score file of this project: by its columns, or by the signals in the results.json beside it.

    UserError when there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file() or path.suffix.lower() != ".csv":
        return False
    columns = [name.strip() for name in path.read_text("utf-8-sig", errors="replace").partition("\n")[0].split(",")]
    if "psnr" in columns:
        return True
    signals = results_beside(path).get("signals", {})
    return bool(signals) and set(signals) <= set(columns)


def read_folder(folder: str | Path) -> Evaluation:
    """What evaluate.py left in its folder, as it was measured; `about` is its results.json and "folder".

    `folder` may also be the run's, with the evaluation (of last.pt, where there are several) in it. UserError when
    there is none.
    """
    folder = Path(folder)
    found = [path.parent for path in (folder / "scores.csv", folder / "evaluation_last" / "scores.csv",
                                      *sorted(folder.glob("*/scores.csv"))) if path.is_file()]
    if not found or "signals" not in (results := results_beside(found[0] / "scores.csv")):
        raise UserError(f"{folder} holds no evaluation (scores.csv and results.json); make one with evaluate.py")
    scores, weights = found[0] / "scores.csv", results["signals"]
    return Evaluation(read_scores(scores, tuple(weights)), weights, read_training(scores, weights),
                      results | {"folder": str(found[0])})


def read_training(scores: str | Path, weights: Mapping[str, float]) -> list[VideoScores]:
    """The calibration.csv beside a score file; [] where there is none."""
    path = Path(scores).with_name("calibration.csv")
    return read_scores(path, tuple(weights), labelled=False, consecutive=False) if path.is_file() else []


def read_foreign_evaluation(path: str | Path, direction: str, covered: slice, labels: LabelSource) -> Evaluation:
    """Another program's scores.

    Args:
        direction: "normal" or "abnormal", what a high score means.
        covered: which frames of each video the scores are of.

    Raises:
        UserError: as in `read_foreign`, and when labels are there that do not fit.
    """
    truth, where = None, "none"
    known = labels.videos()
    if labels.labels and not known and not labels.in_folder:
        known = made_up(lengths_in(path, covered))
    if known or labels.in_folder:
        truth, where = labels.truth(known)
    videos = read_foreign(path, truth, covered)
    if truth is None:
        warnings.warn(f"no labels for {path}: give --labels, --dataset_type or --dataset_path; all frames count as "
                      f"normal")
    about = {"scores": str(path), "direction": f"high is {direction}", "labels": where, "dataset": labels.dataset}
    return Evaluation(videos, {SIGNAL: 1.0 if direction == "normal" else -1.0}, [], about)


def made_up(lengths: Mapping[str, int]) -> list[Video]:
    """Videos of which only name and length are known."""
    return [Video(name, length * ("",)) for name, length in lengths.items()]


def relabel(videos: list[VideoScores], truth: Mapping[str, np.ndarray], where: str) -> list[VideoScores]:
    """The same scores with other labels. UserError when these are of other videos or end too early."""
    for video in videos:
        if video.name not in truth:
            raise UserError(f"labels {where}: none for video {video.name!r}; they are of {len(truth)} videos "
                            f"({', '.join(list(truth)[:3])} ...), the scores of {len(videos)}")
        if video.frames[-1] >= len(truth[video.name]):
            raise UserError(f"labels {where}: {len(truth[video.name])} for video {video.name}, whose scores reach "
                            f"frame {video.frames[-1]} (from 0); give the labels of these videos with --labels")
    return [video._replace(labels=truth[video.name][video.frames].astype(np.uint8)) for video in videos]


def check_lambda(path: str | Path, videos: list[VideoScores], psnr_weight: float, memories: int) -> None:
    """A warning when the file's own column normality was made with another lambda, under the paper's normalisation."""
    if not all("normality" in video.signals for video in videos):
        return
    written = np.concatenate([video.signals["normality"] for video in videos])
    psnr, distance = (np.concatenate(normality([video.signals for video in videos], paper_weights(weight, memories)))
                      for weight in (1.0, 0.0))
    if np.ptp(psnr - distance) > 0:                              # written = lambda psnr + (1 - lambda) distance
        weight = np.dot(written - distance, psnr - distance) / np.dot(psnr - distance, psnr - distance)
        explained = np.allclose(weight * psnr + (1 - weight) * distance, written, atol=1e-6)
        if explained and abs(weight - psnr_weight) > 1e-6:
            warnings.warn(f"{path} was written with lambda {weight:.4g}; here it is {psnr_weight:g} "
                          f"(--lambda {weight:.4g} for the former)")


def results_beside(scores: str | Path) -> dict:
    """The results.json that an evaluation wrote beside its score file; {} where there is none.

    UserError for a file of that name that no evaluation wrote.
    """
    path = Path(scores).parent / "results.json"
    try:
        content = json.loads(path.read_text()) if path.is_file() else {}
        if not isinstance(content, dict) or any(not isinstance(content[key], kind) for key, kind in KINDS.items()
                                                if key in content):
            raise ValueError
    except ValueError:
        raise UserError(f"{path} was not written by evaluate.py, or is damaged; evaluate again, or move it away and "
                        f"give --lambda") from None
    return content
