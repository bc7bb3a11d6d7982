"""Raw signals -> normality. NumPy only."""

import numpy as np


def minmax(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """(n,) -> (x - low) / (high - low); 0.5 everywhere when the two are equal, which says nothing either way."""
    return (x - low) / (high - low) if high > low else np.full_like(x, 0.5)


def normality(psnr: list[np.ndarray], distance: list[np.ndarray], weight: float, scope: str = "video") -> list[np.ndarray]:
    """Normality of every frame in [0, 1], high is normal (eq. 15-17 with their sign mended, docs/differences.md, 9).

    Args:
        psnr, distance: an array (n_v,) per video.
        weight: lambda, the share of the PSNR.
        scope: take min and max over each "video" or over the whole "dataset".

    Returns:
        lambda * minmax(PSNR) + (1 - lambda) * (1 - minmax(D)), an array (n_v,) per video.
    """
    def normalized(signals: list[np.ndarray]) -> list[np.ndarray]:
        over = [np.concatenate(signals)] * len(signals) if scope == "dataset" else signals
        return [minmax(x, o.min(), o.max()) for x, o in zip(signals, over)]

    return [weight * p + (1 - weight) * (1 - d) for p, d in zip(normalized(psnr), normalized(distance))]
