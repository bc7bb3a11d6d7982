"""Describe normal frames in a few numbers, by which a video is scored without others: scope "training"."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import median_abs_deviation, norm

from lgn_net.scores.score_file import VideoScores

# Shares of normal frames whose normality is kept; a threshold for a share in between is interpolated.
SHARES = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 1)


def calibrate(videos: Sequence[VideoScores], weights: Mapping[str, float],
              peaks: Sequence[float] | np.ndarray, robust: bool = False) -> dict:
    """Turn the signals of normal frames into plain numbers, for a checkpoint.

    Returned are the number of "frames"; mean and standard deviation of the "signals"; "shares" of the frames, and the
    "normality" below which so many lie; "peak_error", the mean of the `peaks` of error maps. `robust`, for frames of
    which some may be abnormal, takes median and median absolute deviation, and a normal distribution's normality.
    """
    middle, spread = (np.median, lambda x: 1.4826 * median_abs_deviation(x)) if robust else (np.mean, np.std)
    signals = pooled(videos, weights)
    calibration = {"frames": len(signals["psnr"]), "shares": list(SHARES), "peak_error": float(middle(peaks)),
                   "signals": {name: {"mean": float(middle(signals[name])), "std": float(spread(signals[name]))}
                               for name in weights}}
    normality = calibrated(signals, weights, calibration)
    quantiles = middle(normality) + spread(normality) * norm.ppf(np.clip(SHARES, 1e-4, 1 - 1e-4)) if robust else \
        np.quantile(normality, SHARES)
    return calibration | {"normality": quantiles.tolist()}


def pooled(videos: Sequence[VideoScores], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Join the signals of these names over all videos, (m,) each."""
    return {name: np.concatenate([video.signals[name] for video in videos]) for name in names}


def calibrated(signals: Mapping[str, np.ndarray], weights: Mapping[str, float], calibration: dict) -> np.ndarray:
    """Compute the normality (n,): each signal minus its mean, over its spread on normal frames, weighted and summed."""
    scale = calibration["signals"]
    terms: Any = [weight * (signals[name] - scale[name]["mean"]) / (scale[name]["std"] or 1.0)
                  for name, weight in weights.items()]
    return sum(terms)                                                  # of arrays, or of tensors in an export
