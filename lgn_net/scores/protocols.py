"""Score file -> every number: the headline with its interval, and the AUC under every protocol of the field."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lgn_net.errors import UserError
from lgn_net.scores.calibration import pooled
from lgn_net.scores.metrics import (
    AVERAGES,
    auc,
    average_precision,
    bootstrap,
    equal_error_rate,
    gap,
    paired_p_value,
    roc,
    video_auc,
)
from lgn_net.scores.normality import SCOPES, normality, smooth
from lgn_net.scores.score_file import VideoScores

SIGMAS = (0.0, 3.0, 7.0, 15.0)
RESAMPLES = 1000


class Protocol(NamedTuple):
    """How normality and AUC are made from the signals."""

    scope: str = "video"           # of the normalisation, see `SCOPES`
    sigma: float = 0.0             # of the Gaussian over the frames of a video; 0: none
    average: str = "micro"         # see `AVERAGES`

    def __str__(self) -> str:
        smoothing = f"Gaussian of {self.sigma:g} frames per video" if self.sigma else "no smoothing"
        return f"{self.average} AUC, {SCOPES[self.scope]}, {smoothing}"

    @classmethod
    def configured(cls, score: Mapping) -> "Protocol":
        """That of the section `score` of a configuration; the paper's where it says nothing."""
        return cls(score.get("normalize", "video"), score.get("smoothing", 0.0), score.get("average", "micro"))


SCORING = ("psnr_weight", "normalize", "smoothing", "average")       # knobs of `score` that a score file leaves open
PAPER = Protocol()
GRID = [Protocol(scope, sigma, average) for average in AVERAGES for scope in SCOPES for sigma in SIGMAS]


def paper_weights(psnr_weight: float, memories: int = 1) -> dict[str, float]:
    """Lambda -> weights of the signals, for `normality`: the distances of several memories share 1 - lambda.

    Without a memory the PSNR is all there is.
    """
    if memories == 0:
        return {"psnr": 1.0}
    share = -(1.0 - psnr_weight) / memories                           # at lambda 1 it is -0.0: `measure` needs the sign
    return {"psnr": psnr_weight} | dict.fromkeys(distance_names(memories), share)


def distance_names(memories: int) -> list[str]:
    """Columns of the score file with the distances: one for one memory, numbered ones for several."""
    return ["distance"] if memories == 1 else [f"distance_{k + 1}" for k in range(memories)]


def normality_under(protocol: Protocol, videos: Sequence[VideoScores], weights: Mapping[str, float],
                    training: Sequence[VideoScores] = ()) -> list[np.ndarray]:
    """Normality (n_v,) of each video's frames; `training` holds the scores of training frames, or nothing.

    UserError when the protocol needs training scores and there are none.
    """
    if protocol.scope == "training" and not training:
        raise UserError("the normalisation 'training' needs scores of training frames, calibration.csv beside the "
                        "score file; evaluate.py writes it where it finds the training frames (--score.calibration)")
    signals, known = [video.signals for video in videos], pooled(training, weights) if training else None
    return smooth(normality(signals, weights, protocol.scope, known), protocol.sigma)


def grid(videos: Sequence[VideoScores], weights: Mapping[str, float],
         training: Sequence[VideoScores] = ()) -> dict[Protocol, float | None]:
    """AUC under every protocol of `GRID`, a fraction; None where it is undefined or training scores are missing."""
    labels, values = [video.labels for video in videos], {}
    for scope in SCOPES:
        if scope == "training" and not training:
            continue
        for sigma in SIGMAS:
            normal = normality_under(Protocol(scope, sigma), videos, weights, training)
            values |= {Protocol(scope, sigma, average): auc(labels, normal, average) for average in AVERAGES}
    return {protocol: values.get(protocol) for protocol in GRID}


def measure(videos: Sequence[VideoScores], weights: Mapping[str, float], protocol: Protocol = PAPER,
            training: Sequence[VideoScores] = ()) -> dict:
    """Every number under one protocol, ready for JSON; None where it is undefined.

    `auc_<signal>` is the AUC of a signal alone, `<signal>_normal` and `_abnormal` its means over the frames of a class,
    `interval` the 95 % interval over resampled videos, `chance` the average precision of a detector that knows nothing.
    """
    labels = [video.labels for video in videos]
    normal = normality_under(protocol, videos, weights, training)
    curve = roc(labels, normal)
    two_class = sum(bool(y.min() != y.max()) for y in labels)
    several = (two_class if protocol.average == "macro" else len(videos)) > 1             # else nothing to resample
    frames, abnormal = sum(map(len, labels)), int(sum(y.sum() for y in labels))
    alone = {f"auc_{name}": auc(labels, normality_under(protocol, videos, {name: np.copysign(1.0, weight)}, training),
                                protocol.average) for name, weight in weights.items()}
    return {
        "auc": auc(labels, normal, protocol.average),
        "interval": bootstrap(labels, normal, protocol.average, RESAMPLES).interval() if several else None,
        **(alone if len(alone) > 1 else {}),
        **{f"{name}_{kind}": mean_where([video.signals[name] for video in videos], labels, label)
           for name in weights for label, kind in enumerate(("normal", "abnormal"))},
        "eer": equal_error_rate(curve) if curve else None,
        "average_precision": average_precision(curve) if curve else None,
        "chance": abnormal / frames,
        "gap": gap(labels, normal),
        "videos": len(videos),
        "single_class_videos": len(videos) - two_class,
        "frames": frames,
        "abnormal_frames": abnormal,
        "per_video": [{"video": video.name, "frames": len(y), "abnormal_frames": int(y.sum()), "auc": video_auc(y, x),
                       "mean_normality": float(x.mean())} for video, y, x in zip(videos, labels, normal)],
    }


def mean_where(values: list[np.ndarray], labels: list[np.ndarray], label: int) -> float | None:
    """Mean over the frames of one class; None where there are none."""
    chosen = np.concatenate(values)[np.concatenate(labels) == label]
    return float(chosen.mean()) if len(chosen) else None


def compare(first: Sequence[VideoScores], second: Sequence[VideoScores], weights: Sequence[Mapping[str, float]],
            protocol: Protocol = PAPER, training: Sequence[Sequence[VideoScores]] = ((), ())) -> dict:
    """Two score files on the frames that both hold: AUCs, their difference with 95 % interval and p-value, for JSON.

    Normality is made from all frames of each file; then frames that only one of them holds are left out. Both are
    judged on the same resampled videos.

    Raises:
        UserError: no video in common, or other labels on a frame that both hold.
    """
    ours, theirs = ({video.name: (video, x) for video, x in zip(videos, normality_under(protocol, videos, w, t))}
                    for videos, w, t in zip((first, second), weights, training))
    names = [name for name in ours if name in theirs]
    labels, normal = [], ([], [])
    for name in names:
        (a, x), (b, y) = ours[name], theirs[name]
        _, i, j = np.intersect1d(a.frames, b.frames, assume_unique=True, return_indices=True)
        if (wrong := np.flatnonzero(a.labels[i] != b.labels[j])).size:
            raise UserError(f"the two score files disagree on the label of {len(wrong)} frames of video {name} (first: "
                            f"frame {a.frames[i[wrong[0]]]}); compare files with the same labels")
        if len(i):
            labels.append(a.labels[i])
            normal[0].append(x[i])
            normal[1].append(y[j])
    if not labels:
        raise UserError(f"the two score files have no frame in common ({first[0].name} to {first[-1].name}, "
                        f"{second[0].name} to {second[-1].name})")
    several = len(labels) > 1                                                 # one video cannot be resampled
    draws = [bootstrap(labels, x, protocol.average, RESAMPLES) for x in normal]
    aucs = [auc(labels, x, protocol.average) for x in normal]
    difference = draws[0]._replace(aucs=draws[0].aucs - draws[1].aucs)
    common = sum(map(len, labels))
    return {
        "auc": aucs[0],
        "auc_other": aucs[1],
        "difference": None if None in aucs else aucs[0] - aucs[1],
        "interval": difference.interval() if several else None,
        "p_value": paired_p_value(*draws) if several else None,
        "videos": len(labels),
        "frames": common,
        "frames_left_out": sum(len(video.frames) for video in first) - common,
        "frames_left_out_other": sum(len(video.frames) for video in second) - common,
    }
