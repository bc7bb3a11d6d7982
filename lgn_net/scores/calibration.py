"""Describe how a network sees normal frames in a few numbers: with them a video is scored without any other frames.

Normality here is that of scope "training" in `lgn_net.scores.protocols.normality`. NumPy and SciPy only.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from lgn_net.errors import UserError
from lgn_net.scores.score_file import VideoScores

# Shares of normal frames whose normality is kept; a threshold for a share in between is interpolated.
SHARES = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 1)


def calibrate(videos: Sequence[VideoScores], weights: Mapping[str, float],
              peaks: Sequence[float] | np.ndarray, robust: bool = False) -> dict:
    """Turn the signals of normal frames into plain numbers, for a checkpoint.

    Returned are the number of "frames"; mean and standard deviation of the "signals"; "shares" of the frames, and the
    "normality" below which so many lie; "peak_error", the mean of the `peaks` of error maps, where a picture is loud.
    `robust` is for frames of which some may be abnormal: it takes the median for the mean, 1.4826 times the median
    absolute deviation for the standard deviation, and the normality of a normal distribution with these two.
    """
    signals, (middle, spread) = pooled(videos, weights), (np.median, mad) if robust else (np.mean, np.std)
    calibration = {"frames": len(signals["psnr"]), "shares": list(SHARES), "peak_error": float(middle(peaks)),
                   "signals": {name: {"mean": float(middle(signals[name])), "std": float(spread(signals[name]))}
                               for name in weights}}
    normality = calibrated(signals, weights, calibration)
    quantiles = middle(normality) + spread(normality) * norm.ppf(np.clip(SHARES, 1e-4, 1 - 1e-4)) if robust else \
        np.quantile(normality, SHARES)
    return calibration | {"normality": quantiles.tolist()}


def mad(x: np.ndarray) -> float:
    """Compute the median absolute deviation, scaled to be the standard deviation of a normal distribution."""
    return float(1.4826 * np.median(np.abs(x - np.median(x))))


def pooled(videos: Sequence[VideoScores], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Join the signals of these names over all videos, (m,) each."""
    return {name: np.concatenate([video.signals[name] for video in videos]) for name in names}


def calibrated(signals: Mapping[str, np.ndarray], weights: Mapping[str, float], calibration: dict) -> np.ndarray:
    """Compute the normality (n,): each signal minus its mean, over its spread on normal frames, weighted and summed."""
    scale = calibration["signals"]
    terms: Any = [weight * (signals[name] - scale[name]["mean"]) / (scale[name]["std"] or 1.0)
                  for name, weight in weights.items()]
    return sum(terms)                                                  # of arrays, or of tensors in an export


def threshold_at(calibration: dict, share: float) -> float:
    """Interpolate the normality below which this share of the normal frames lies."""
    return float(np.interp(share, calibration["shares"], calibration["normality"]))


def check_calibration(calibration: dict | None, weights: Mapping[str, float], path: object) -> dict:
    """Return what a checkpoint holds under "calibration". UserError where it holds none, or one of other signals."""
    if calibration is None:
        raise UserError(f"{path} does not say how it scores normal frames; give it --normal VIDEO, a normal stretch of "
                        f"your scene, or a checkpoint of scripts/export_weights.py")
    if not weights.keys() <= calibration["signals"].keys():
        raise UserError(f"the calibration in {path} is of another network; export it again, or give --normal VIDEO")
    return calibration
