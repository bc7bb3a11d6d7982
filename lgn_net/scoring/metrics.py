"""Frame-level metrics; pure functions of scores and labels."""

import numpy as np
from sklearn.metrics import roc_auc_score


def auc(labels: list[np.ndarray], normality: list[np.ndarray], average: str = "micro") -> float | None:
    """Area under the ROC curve of 1 - normality as detector of label 1 (abnormal), as a fraction.

    Args:
        labels, normality: an array (n_v,) per video; labels 0 and 1.
        average: "micro" over all frames of all videos concatenated; "macro": mean over the videos with both classes.

    Returns:
        None where no (concatenated) video has both classes: the AUC is undefined.
    """
    if average == "micro":
        labels, normality = [np.concatenate(labels)], [np.concatenate(normality)]
    values = [roc_auc_score(y, -x) for y, x in zip(labels, normality) if y.min() != y.max()]
    return float(np.mean(values)) if values else None
