"""Compute frame-level metrics from labels (1 is abnormal) and normality (low is abnormal), one array (n_v,) per video.

Single videos and resamples are counted in pairs of frames, a hundred times faster than by scikit-learn.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from lgn_net.scores.results import OperatingPoint, Results

AVERAGES = {
    "micro": "all frames of all videos together",
    "macro": "mean over the videos with both classes",
    "padded": "macro over all videos, each lengthened by a right answer of either class: biased"}
Arrays = Sequence[np.ndarray]
RESAMPLES = 1000                # of the videos, for an interval


def all_frames(labels: Arrays, normality: Arrays, false_positive_rate: float = 0.05) -> Results:
    """Compute the metrics over all frames together that are no AUC; a further metric belongs here."""
    curve, y, x = roc(labels, normality), np.concatenate(labels), np.concatenate(normality)
    of_normal, of_abnormal = (mean_where(normality, labels, c) for c in (0, 1))
    return {
        # The rate at which false positives equal misses, on a straight line between points of the curve.
        "eer": float(np.interp(0, curve[0] - (1 - curve[1]), curve[0])) if curve else None,
        "at_eer": operating_point(*curve, x) if curve else None,
        "wanted_false_positive_rate": false_positive_rate,
        "at_wanted": operating_point(*curve, x, false_positive_rate) if curve else None,
        "average_precision": float(average_precision_score(y, -x)) if curve else None,
        "chance": float(y.mean()),                                         # the average precision of random scores
        "gap": None if of_normal is None or of_abnormal is None else of_normal - of_abnormal}


def auc(labels: Arrays, normality: Arrays, average: str = "micro") -> float | None:
    """Compute the area under the ROC curve of low normality as detector, see `AVERAGES`; None where undefined."""
    if average == "micro":
        y, x = np.concatenate(labels), np.concatenate(normality)
        return float(roc_auc_score(y, -x)) if y.min() != y.max() else None
    values = video_aucs(labels, normality, average)
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def video_aucs(labels: Arrays, normality: Arrays, average: str = "macro") -> np.ndarray:
    """Compute the AUC of each video, (V,): the share of pairs of a normal and an abnormal frame in order, or NaN.

    For "padded", each video gets a normal frame of normality 1 and an abnormal one of 0, or beyond all scores.
    """
    if average == "padded":
        low, high = min(0.0, *map(np.min, normality)), max(1.0, *map(np.max, normality))
        labels = [np.concatenate([y, [0, 1]]) for y in labels]
        normality = [np.concatenate([x, [high, low]]) for x in normality]
    parts = [(np.sort(x[y == 0]), x[y == 1]) for y, x in zip(labels, normality)]
    return np.array([pairs_in_order(abnormal, normal).sum() / len(normal) / len(abnormal)
                     if len(normal) and len(abnormal) else np.nan for normal, abnormal in parts])


def pairs_in_order(abnormal: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Count, for each abnormal frame (p,), the sorted normal ones (n,) that are more normal; ties count half."""
    below, up_to = (np.searchsorted(normal, abnormal, side) for side in ("left", "right"))
    return len(normal) - (below + up_to) / 2


def roc(labels: Arrays, normality: Arrays) -> tuple[np.ndarray, np.ndarray] | None:
    """Compute every point of the ROC curve over all frames, false and true positive rates (k,); None for one class."""
    y, x = np.concatenate(labels), np.concatenate(normality)
    return roc_curve(y, -x, drop_intermediate=False)[:2] if y.min() != y.max() else None


def operating_point(false_positive: np.ndarray, true_positive: np.ndarray, normality: np.ndarray,
                    wanted: float | None = None) -> OperatingPoint:
    """Find the threshold with the most false positives up to `wanted`; by default where they are as many as misses."""
    k = np.abs(false_positive + true_positive - 1).argmin() if wanted is None else (false_positive <= wanted).sum() - 1
    levels = np.concatenate([[np.nextafter(normality.min(), -np.inf)], np.unique(normality)])    # a level per point
    return {"threshold": float(levels[k]), "false_positive_rate": float(false_positive[k]),
            "true_positive_rate": float(true_positive[k])}


def mistakes(labels: np.ndarray, normality: np.ndarray, point: OperatingPoint) -> tuple[np.ndarray, np.ndarray]:
    """Find the false alarms and the misses among frames (n,) at a threshold, each as bool (n,)."""
    found = normality <= point["threshold"]
    return found & (labels == 0), ~found & (labels == 1)


def mean_where(values: Arrays, labels: Arrays, label: int) -> float | None:
    """Average over the frames of one class; None where there are none."""
    chosen = np.concatenate(values)[np.concatenate(labels) == label]
    return float(chosen.mean()) if len(chosen) else None


def padded_chance(labels: Arrays) -> float:
    """Compute what random scores reach on average under the padded protocol, a fraction; labels (n_v,) per video."""
    counts = [(int(np.sum(y == 0)), int(np.sum(y == 1))) for y in labels]
    return float(np.mean([(n * p / 2 + n + p + 1) / ((n + 1) * (p + 1)) for n, p in counts]))


def interval(draws: np.ndarray) -> tuple[float, float] | None:
    """Compute the 95 % percentile interval of draws of `bootstrap`, or of a difference of two; None if all are NaN."""
    defined, tail = draws[np.isfinite(draws)], (1 - 0.95) / 2
    return tuple(np.quantile(defined, [tail, 1 - tail]).tolist()) if len(defined) else None


def bootstrap(labels: Arrays, normality: Arrays, average: str = "micro", resamples: int = RESAMPLES) -> np.ndarray:
    """Compute the AUC of `resamples` sets of as many videos, drawn with replacement; NaN where undefined.

    All are NaN where a single video counts: there is nothing to resample.

    The r-th resample draws the same videos for any scores, so that two detectors can be compared in pairs.
    """
    V = len(labels)
    drawn = np.random.default_rng(0).multinomial(V, np.full(V, 1 / V), size=resamples)       # (R, V) times each
    if average == "micro":
        # A resample is a weighted sum of the pairs (V, V) of an abnormal frame of i and a normal one of j in order.
        abnormal, normal = ([np.sort(x[y == c]) for y, x in zip(labels, normality)] for c in (1, 0))
        ordered = np.array([[pairs_in_order(a, n).sum() for n in normal] for a in abnormal])
        total = ((drawn @ ordered) * drawn).sum(axis=1)
        weight = (drawn @ [len(a) for a in abnormal]) * (drawn @ [len(n) for n in normal])
    else:
        values = video_aucs(labels, normality, average)
        both = np.isfinite(values)
        V, total, weight = both.sum(), drawn[:, both] @ values[both], drawn[:, both].sum(axis=1)
    with np.errstate(invalid="ignore"):                                        # 0 / 0: one class only
        return total / weight if V > 1 else np.full(resamples, np.nan)


def paired_p_value(difference: np.ndarray) -> float:
    """Compute a two-sided p-value of a difference (resamples,), never 0: twice the share of the other sign, no NaN."""
    difference = difference[np.isfinite(difference)]
    tail = min(np.sum(difference <= 0), np.sum(difference >= 0))
    return float(min(1.0, 2 * (tail + 1) / (len(difference) + 1)))
