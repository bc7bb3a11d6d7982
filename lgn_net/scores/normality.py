"""Turn raw signals into the normality of every frame: of whole videos, or of a frame alone by what normal ones have."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import median_abs_deviation, norm

Weights = Mapping[str, float]          # of the signals in the normality, negative where high is abnormal
# How a signal is brought to a common scale before it is weighted; docs/protocols.md says who uses which.
SCOPES = {"video": "min-max per video", "none": "no normalisation", "dataset": "min-max over all videos",
          "training": "training mean and spread", "causal": "min-max of the past only"}
# Shares of normal frames whose normality is kept; a threshold for a share in between is interpolated.
SHARES = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 1)


def normality(videos: Sequence[Mapping[str, np.ndarray]], weights: Weights, scope: str = "video",
              training: Sequence[Mapping[str, np.ndarray]] = ()) -> list[np.ndarray]:
    """Compute the normality of every frame; high is normal (eq. 15-17 with their sign mended, docs/differences.md, 9).

    `videos` are the signals (n_v,) of each video by name, `training` those on training frames. The paper's weights are
    {"psnr": 0.6, "distance": -0.4}.
    """
    total = [np.zeros(len(next(iter(video.values())))) for video in videos]
    for name, weight in weights.items():
        signals = [np.sign(weight) * video[name] for video in videos]
        pool = np.concatenate([np.sign(weight) * x[name] for x in training] if scope == "training" else signals)
        for values, x in zip(total, signals):
            if scope == "training":
                x = (x - pool.mean()) / (pool.std() or 1.0)
            elif scope != "none":
                over = pool if scope == "dataset" else x
                low, high = ((np.minimum.accumulate(x), np.maximum.accumulate(x)) if scope == "causal"
                             else (np.full(x.shape, over.min()), np.full(x.shape, over.max())))
                # The min-max of equal values says nothing: 0.5.
                x = np.divide(x - low, high - low, out=np.full(x.shape, 0.5), where=high > low)
            values += abs(weight) * x
    return total


def calibrate(videos: Sequence[Mapping[str, np.ndarray]], weights: Weights, robust: bool = False) -> dict:
    """Turn the signals of normal frames, (n_v,) of each video by name, into plain numbers, for a checkpoint.

    Returned are the number of "frames"; mean and standard deviation of the "signals"; "shares" of the frames, and the
    "normality" below which so many lie; "peak_error", the mean of the frames' greatest errors. `robust`, for frames of
    which some may be abnormal, takes median and median absolute deviation, and a normal distribution's normality.
    """
    middle, spread = (np.median, lambda x: 1.4826 * median_abs_deviation(x)) if robust else (np.mean, np.std)
    signals = {name: np.concatenate([video[name] for video in videos]) for name in (*weights, "peak_error")}
    calibration = {"frames": len(signals["psnr"]), "shares": list(SHARES),
                   "peak_error": float(middle(signals["peak_error"])),
                   "signals": {name: {"mean": float(middle(signals[name])), "std": float(spread(signals[name]))}
                               for name in weights}}
    normality = calibrated(signals, weights, calibration)
    quantiles = middle(normality) + spread(normality) * norm.ppf(np.clip(SHARES, 1e-4, 1 - 1e-4)) if robust else \
        np.quantile(normality, SHARES)
    return calibration | {"normality": quantiles.tolist()}


def calibrated(signals: Mapping[str, np.ndarray], weights: Weights, calibration: dict) -> np.ndarray:
    """Compute the normality (n,): each signal minus its mean, over its spread on normal frames, weighted and summed."""
    scale = calibration["signals"]
    terms: Any = [weight * (signals[name] - scale[name]["mean"]) / (scale[name]["std"] or 1.0)
                  for name, weight in weights.items()]
    return sum(terms)                                                  # of arrays, or of tensors in an export
