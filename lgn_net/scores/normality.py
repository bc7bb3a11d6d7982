"""Raw signals -> normality of every frame. NumPy only; an array per video everywhere."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d

# How a signal is brought to a common scale before it is weighted; docs/protocols.md says who uses which.
SCOPES = {
    "video": "min-max per video",
    "none": "no normalisation",
    "dataset": "min-max over all videos",
    "training": "mean and spread of training frames",
    "causal": "running min-max, past only",
}


def normality(videos: Sequence[Mapping[str, np.ndarray]], weights: Mapping[str, float], scope: str = "video",
              training: Mapping[str, np.ndarray] | None = None) -> list[np.ndarray]:
    """Normality of every frame, high is normal (eq. 15-17 with their sign mended, docs/differences.md, 9).

    Args:
        videos: the signals (n_v,) of each video by name.
        weights: of the signals; negative where a high value is abnormal. {"psnr": 0.6, "distance": -0.4} is the paper's
            0.6 * minmax(PSNR) + 0.4 * (1 - minmax(D)), in [0, 1] where the absolute weights sum to 1.
        scope: what a signal's scale is taken from, one of `SCOPES`: the "video"; "none", the weighted signals as they
            are; the whole "dataset"; frames of the "training" set (mean 0, standard deviation 1 there); "causal", at
            every frame the smallest and the largest value of its video so far.
        training: for scope "training": each signal (m,) on training frames.

    Returns:
        An array (n_v,) per video.
    """
    total = [np.zeros(len(next(iter(video.values())))) for video in videos]
    for name, weight in weights.items():
        signals = [np.sign(weight) * video[name] for video in videos]
        over = np.sign(weight) * training[name] if scope == "training" else None
        for values, scaled in zip(total, rescale(signals, scope, over)):
            values += abs(weight) * scaled
    return total


def rescale(signals: list[np.ndarray], scope: str, training: np.ndarray | None = None) -> list[np.ndarray]:
    """One signal of all videos on the scale of `scope`; see `normality`."""
    if scope == "none":
        return signals
    if scope == "training":
        spread = training.std()
        return [(x - training.mean()) / (spread if spread > 0 else 1.0) for x in signals]
    if scope == "causal":
        return [minmax(x, np.minimum.accumulate(x), np.maximum.accumulate(x)) for x in signals]
    over = [np.concatenate(signals)] * len(signals) if scope == "dataset" else signals
    return [minmax(x, o.min(), o.max()) for x, o in zip(signals, over)]


def minmax(x: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """(n,) -> (x - low) / (high - low); 0.5 wherever the two are equal, which says nothing either way."""
    span = np.broadcast_to(np.subtract(high, low), x.shape)
    return np.divide(x - low, span, out=np.full(x.shape, 0.5), where=span > 0)


def smooth(videos: list[np.ndarray], sigma: float) -> list[np.ndarray]:
    """Gaussian over the frames of each video, `sigma` in frames, edges repeated; 0: as they are.

    Looks at later frames, too, whatever the normalisation.
    """
    return [gaussian_filter1d(x, sigma, mode="nearest") for x in videos] if sigma else videos
