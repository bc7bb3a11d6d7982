"""Frame-level metrics: pure functions of labels (1 is abnormal) and normality (low is abnormal). NumPy only.

Arguments `labels` and `normality` are lists with an array (n_v,) per video. Checked in the tests against counting pairs
one by one and against scikit-learn.
"""

from typing import NamedTuple

import numpy as np

AVERAGES = {
    "micro": "all frames of all videos together",
    "macro": "mean over the videos with both classes",
    "padded": "macro over all videos, each lengthened by a right answer of either class: biased",
}


def auc(labels: list[np.ndarray], normality: list[np.ndarray], average: str = "micro") -> float | None:
    """Area under the ROC curve of 1 - normality as detector of abnormal frames, as a fraction; ties count half.

    Args:
        average: "micro" over all frames of all videos concatenated; "macro": mean over the videos with both classes;
            "padded": mean over all videos after each got a normal frame of normality 1 and an abnormal one of 0 (or
            beyond what the scores reach): single-class videos then score high whatever the detector says.

    Returns:
        None where no (concatenated) video has both classes: the AUC is undefined.
    """
    if average == "micro":
        return video_auc(np.concatenate(labels), np.concatenate(normality))
    values = [value for value in video_aucs(labels, normality, average) if value is not None]
    return float(np.mean(values)) if values else None


def video_aucs(labels: list[np.ndarray], normality: list[np.ndarray], average: str) -> list[float | None]:
    """AUC of each video, for the average "macro" or "padded"."""
    if average == "padded":
        low, high = min(0.0, *map(np.min, normality)), max(1.0, *map(np.max, normality))
        labels = [np.concatenate([y, [0, 1]]) for y in labels]
        normality = [np.concatenate([x, [high, low]]) for x in normality]
    return list(map(video_auc, labels, normality))


def video_auc(labels: np.ndarray, normality: np.ndarray) -> float | None:
    """AUC of one video, (n,) and (n,): the share of pairs of a normal and an abnormal frame in the right order."""
    normal, abnormal = np.sort(normality[labels == 0]), normality[labels == 1]
    if not len(normal) or not len(abnormal):
        return None
    return float(pairs_in_order(abnormal, normal).sum() / (len(normal) * len(abnormal)))


def pairs_in_order(abnormal: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """For each abnormal frame (p,), how many of the sorted normal ones (n,) are more normal; ties count half."""
    below, up_to = (np.searchsorted(normal, abnormal, side) for side in ("left", "right"))
    return len(normal) - (below + up_to) / 2


class Roc(NamedTuple):
    """Rates (k,) of a detector as its threshold falls, from none to all frames called abnormal."""

    false_positive: np.ndarray
    true_positive: np.ndarray
    precision: np.ndarray       # of the frames called abnormal; 1 where there are none


def roc(labels: list[np.ndarray], normality: list[np.ndarray]) -> Roc | None:
    """The ROC curve over all frames; None when a class is missing."""
    y, x = np.concatenate(labels), np.concatenate(normality)
    order = np.argsort(x, kind="stable")
    last = np.append(np.flatnonzero(np.diff(x[order])), len(x) - 1)          # frames of equal score fall together
    hits, alarms = np.cumsum(y[order] == 1)[last], np.cumsum(y[order] == 0)[last]
    if not hits[-1] or not alarms[-1]:
        return None
    return Roc(*(np.concatenate([[start], rate]) for start, rate in
                 ((0.0, alarms / alarms[-1]), (0.0, hits / hits[-1]), (1.0, hits / (hits + alarms)))))


def equal_error_rate(curve: Roc) -> float:
    """The rate at which false positives equal false negatives, between points of the curve on a straight line."""
    miss = 1 - curve.true_positive
    k = np.flatnonzero(curve.false_positive >= miss)[0]                     # the first point past the crossing
    before, after = (curve.false_positive - miss)[[k - 1, k]]               # < 0, >= 0
    share = before / (before - after)
    return float((1 - share) * curve.false_positive[k - 1] + share * curve.false_positive[k])


def average_precision(curve: Roc) -> float:
    """Sum of the precisions, each weighted by the recall it adds. Chance level: the share of abnormal frames."""
    return float(np.sum(np.diff(curve.true_positive) * curve.precision[1:]))


def gap(labels: list[np.ndarray], normality: list[np.ndarray]) -> float | None:
    """Mean normality of normal frames minus that of abnormal ones (the paper's gap score).

    None when a class is missing.
    """
    y, x = np.concatenate(labels), np.concatenate(normality)
    return float(x[y == 0].mean() - x[y == 1].mean()) if y.min() != y.max() else None


class Bootstrap(NamedTuple):
    """AUCs of resampled sets of videos."""

    aucs: np.ndarray        # (resamples,); NaN where all frames drawn were of one class

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """The percentile interval; None where no resample had both classes."""
        defined = self.aucs[np.isfinite(self.aucs)]
        tail = (1 - level) / 2
        return tuple(map(float, np.quantile(defined, [tail, 1 - tail]))) if len(defined) else None


def bootstrap(labels: list[np.ndarray], normality: list[np.ndarray], average: str = "micro", resamples: int = 1000,
              seed: int = 0) -> Bootstrap:
    """AUC of `resamples` sets of as many videos, drawn with replacement: frames of one video hang together.

    The r-th resample of a seed draws the same videos for any scores, so that two detectors can be compared in pairs.
    """
    V = len(labels)
    drawn = np.random.default_rng(seed).multinomial(V, np.full(V, 1 / V), size=resamples)       # (R, V) times each
    with np.errstate(invalid="ignore"):                                                         # 0 / 0: one class only
        if average == "micro":
            # Pairs of an abnormal frame of video i and a normal one of video j that are in order, (V, V): any resample
            # is a weighted sum of these.
            ordered = pair_counts(labels, normality)
            abnormal, normal = (np.array([np.sum(y == c) for y in labels]) for c in (1, 0))
            return Bootstrap(((drawn @ ordered) * drawn).sum(axis=1) / ((drawn @ abnormal) * (drawn @ normal)))
        values = np.array(video_aucs(labels, normality, average), float)       # None -> NaN
        both = np.isfinite(values)
        return Bootstrap((drawn[:, both] @ values[both]) / drawn[:, both].sum(axis=1))


def pair_counts(labels: list[np.ndarray], normality: list[np.ndarray]) -> np.ndarray:
    """(V, V): pairs of an abnormal frame of video i and a normal frame of video j that are in order, ties half."""
    abnormal = [x[y == 1] for y, x in zip(labels, normality)]
    everywhere = np.concatenate(abnormal)
    starts = np.concatenate([[0], np.cumsum([len(x) for x in abnormal])])
    counts = np.empty((len(labels), len(labels)))
    for j, (y, x) in enumerate(zip(labels, normality)):
        running = np.concatenate([[0], np.cumsum(pairs_in_order(everywhere, np.sort(x[y == 0])))])
        counts[:, j] = np.diff(running[starts])
    return counts


def paired_p_value(first: Bootstrap, second: Bootstrap) -> float:
    """Two-sided: twice how often the difference of two detectors on the same resamples falls on zero's other side.

    One is added to both counts, so that it is never 0.
    """
    difference = (first.aucs - second.aucs)[np.isfinite(first.aucs + second.aucs)]
    tail = min(np.sum(difference <= 0), np.sum(difference >= 0))
    return float(min(1.0, 2 * (tail + 1) / (len(difference) + 1)))
