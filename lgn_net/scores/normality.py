"""Turn raw signals into the normality of every frame. NumPy only; one array per video everywhere."""

from collections.abc import Mapping, Sequence

import numpy as np

Weights = Mapping[str, float]          # of the signals in the normality, negative where high is abnormal
# How a signal is brought to a common scale before it is weighted; docs/protocols.md says who uses which.
SCOPES = {"video": "min-max per video", "none": "no normalisation", "dataset": "min-max over all videos",
          "training": "training mean and spread", "causal": "min-max of the past only"}


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
