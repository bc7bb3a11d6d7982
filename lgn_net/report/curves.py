"""Pictures of the normality over time (Fig. 5) that every evaluation draws."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lgn_net.report.optional import optional


def plot_curves(names: Sequence[str], frames: Sequence[np.ndarray], normality: Sequence[np.ndarray],
                labels: Sequence[np.ndarray], title: str, folder: Path) -> list[Path]:
    """Write `curves_<k>.png` in place of earlier ones, twelve videos a page; without matplotlib, warn and write none.

    Args:
        names: names of the videos.
        frames: frame indices (n_v,) of each video.
        normality: normality (n_v,) of each video.
        labels: labels (n_v,) of each video, 1 is abnormal.
        title: heading of every page.
        folder: an existing folder.

    Returns:
        The paths of the pages.
    """
    for old in folder.glob("curves_*.png"):
        old.unlink()
    figures = optional("lgn_net.report.figures", "curves_*.png are not drawn")
    pages = figures.curve_pages(list(zip(names, frames, normality, labels)), title) if figures else []
    return [path for number, page in enumerate(pages, 1)
            for path in figures.save_figure(page, folder / f"curves_{number}", dpi=150, kinds=("png",))]
