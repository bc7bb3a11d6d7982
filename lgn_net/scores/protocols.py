"""Measure scored frames: the headline with its interval, and the AUC under every protocol of the field."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
from scipy.ndimage import gaussian_filter1d

from lgn_net.errors import UserError
from lgn_net.scores import metrics
from lgn_net.scores.normality import SCOPES, Weights, normality
from lgn_net.scores.results import Compared, Results
from lgn_net.scores.score_file import Videos, distance_names, known_as

SIGMAS = (0.0, 3.0, 7.0, 15.0)
SCORING = ("psnr_weight", "normalize", "smoothing", "average")       # knobs of `score` that a score file leaves open
BASELINES = {"auc_copy": ("psnr_copy", 1.0), "auc_linear": ("psnr_linear", 1.0), "auc_skill": ("psnr - psnr_copy", 1.0)}


class Protocol(NamedTuple):
    """How normality and AUC are made from the signals."""

    scope: str = "video"           # of the normalisation, see `SCOPES`
    sigma: float = 0.0             # of the Gaussian over the frames of a video; 0: none
    average: str = "micro"         # see `metrics.AVERAGES`

    @classmethod
    def configured(cls, score: Mapping) -> "Protocol":
        """Read the section `score` of a configuration; the paper's protocol where it says nothing."""
        return cls(score.get("normalize", "video"), score.get("smoothing", 0.0), score.get("average", "micro"))


PAPER = Protocol()
GRID = [Protocol(scope, sigma, average) for average in metrics.AVERAGES for scope in SCOPES for sigma in SIGMAS]


def paper_weights(psnr_weight: float, memories: int = 1) -> dict[str, float]:
    """Turn lambda into weights of the signals: the distances of several memories share 1 - lambda."""
    if memories == 0:
        return {"psnr": 1.0}
    share = -(1.0 - psnr_weight) / memories                           # at lambda 1 it is -0.0: `measure` needs the sign
    return {"psnr": psnr_weight} | dict.fromkeys(distance_names(memories), share)


def normality_under(protocol: Protocol, videos: Videos, weights: Weights, training: Videos = ()) -> list[np.ndarray]:
    """Compute the normality (n_v,) of each video, smoothed with the edges repeated; UserError without `training`."""
    if protocol.scope == "training" and not training:
        raise UserError("the normalisation 'training' needs scores of training frames; evaluate.py writes them as "
                        "calibration.csv beside the score file where it finds the frames (--score.calibration)")
    signals, on_training = ([video.signals for video in of_split] for of_split in (videos, training))
    normal = normality(signals, weights, protocol.scope, on_training)
    return [gaussian_filter1d(x, protocol.sigma, mode="nearest") for x in normal] if protocol.sigma else normal


def grid(videos: Videos, weights: Weights, training: Videos = ()) -> dict[Protocol, float | None]:
    """Compute the AUC under every protocol of `GRID`, a fraction; None where undefined or without training scores."""
    labels = [video.labels for video in videos]
    values: dict[Protocol, float | None] = dict.fromkeys(GRID)
    for scope, sigma in itertools.product(SCOPES if training else SCOPES.keys() - {"training"}, SIGMAS):
        normal = normality_under(Protocol(scope, sigma), videos, weights, training)
        for average in metrics.AVERAGES:
            values[Protocol(scope, sigma, average)] = metrics.auc(labels, normal, average)
    return values


def measure(videos: Videos, weights: Weights, protocol: Protocol = PAPER, training: Videos = (),
            false_positive_rate: float = 0.05) -> Results:
    """Compute every number under one protocol; what is undefined is None."""
    # The headline.
    labels = [video.labels for video in videos]
    normal = normality_under(protocol, videos, weights, training)
    two_class = sum(bool(y.min() != y.max()) for y in labels)
    results: Results = metrics.all_frames(labels, normal, false_positive_rate) | {
        "auc": metrics.auc(labels, normal, protocol.average),
        "interval": metrics.interval(metrics.bootstrap(labels, normal, protocol.average)),
        "videos": len(videos), "single_class_videos": len(videos) - two_class, "frames": sum(map(len, labels)),
        "abnormal_frames": int(sum(y.sum() for y in labels)),
        "per_video": [{"video": video.name, "frames": len(y), "abnormal_frames": int(y.sum()),
                       "auc": None if np.isnan(value) else value, "mean_normality": float(x.mean())}
                      for video, y, x, value in zip(videos, labels, normal,
                                                    metrics.video_aucs(labels, normal).tolist())]}

    # Each of several signals alone and, as far as the files have them, the baselines.
    alone = {f"auc_{name}": (name, np.copysign(1.0, weight)) for name, weight in weights.items() if len(weights) > 1}
    nothing, of_signals = np.array(np.nan), dict[str, float | None]()
    known = [video._replace(signals=video.signals | {
        "psnr - psnr_copy": video.signals.get("psnr", nothing) - video.signals.get("psnr_copy", nothing)})
             for video in (*videos, *(training if protocol.scope == "training" else ()))]
    for key, (name, sign) in (alone | BASELINES).items():
        if all(np.isfinite(video.signals.get(name, nothing)).all() for video in known):
            only = normality_under(protocol, known[:len(videos)], {name: sign}, known[len(videos):])
            of_signals[key] = metrics.auc(labels, only, protocol.average)
    for name in weights:
        for c, kind in enumerate(("normal", "abnormal")):
            of_signals[f"{name}_{kind}"] = metrics.mean_where([video.signals[name] for video in videos], labels, c)
    return cast(Results, results | of_signals)


def common_frames(first: Videos, second: Videos) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
    """Find the frames that two files hold: of each video its index in both, and their positions (m,) in both."""
    second = known_as("the second score file", second, [video.name for video in first])
    places, common = {video.name: k for k, video in enumerate(second)}, []
    for k, a in enumerate(first):
        if a.name in places:
            b = second[places[a.name]]
            _, i, j = np.intersect1d(a.frames, b.frames, assume_unique=True, return_indices=True)
            if (wrong := a.labels[i] != b.labels[j]).any():
                raise UserError(f"the two score files disagree on the label of {wrong.sum()} frames of video {a.name} "
                                f"(first: frame {a.frames[i][wrong][0]}); compare files with the same labels")
            common += [(k, places[a.name], i, j)] if len(i) else []
    if not common:
        raise UserError(f"the two score files have no frame in common: videos {first[0].name}, {second[0].name} ...")
    return common


def compare(first: Videos, second: Videos, weights: Sequence[Weights], protocol: Protocol = PAPER,
            training: Sequence[Videos] = ((), ())) -> Compared:
    """Compare two score files on the frames that both hold; normality is made from all frames of each file."""
    common = common_frames(first, second)
    x, y = (normality_under(protocol, *of_file) for of_file in zip((first, second), weights, training))
    labels = [first[k].labels[i] for k, _, i, _ in common]
    normal = [x[k][i] for k, _, i, _ in common], [y[k][j] for _, k, _, j in common]
    ours, theirs = (metrics.auc(labels, values, protocol.average) for values in normal)
    draws = np.subtract(*(metrics.bootstrap(labels, values, protocol.average) for values in normal))
    interval, frames = metrics.interval(draws), sum(map(len, labels))
    left_out, left_out_other = (sum(len(video.frames) for video in videos) - frames for videos in (first, second))
    return {"auc": ours, "auc_other": theirs, "difference": None if ours is None or theirs is None else ours - theirs,
            "interval": interval, "p_value": metrics.paired_p_value(draws) if interval else None,
            "videos": len(labels), "frames": frames,
            "frames_left_out": left_out, "frames_left_out_other": left_out_other}
