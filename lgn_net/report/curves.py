"""Pictures of the scores: normality over time, abnormal periods shaded (Fig. 5)."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

PER_PAGE = 12


def plot_curves(names: list[str], frames: list[np.ndarray], normality: list[np.ndarray], labels: list[np.ndarray],
                title: str, folder: Path) -> list[Path]:
    """Write `curves_<k>.png`, twelve videos a page, and return the paths.

    Args:
        names: of the videos.
        frames, normality, labels: an array (n_v,) per video: frame index, normality in [0, 1], 1 for abnormal.
        title: heading of every page.
        folder: where to; must exist.
    """
    matplotlib.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    paths = []
    for page, start in enumerate(range(0, len(names), PER_PAGE), 1):
        shown = range(start, min(start + PER_PAGE, len(names)))
        columns = min(3, len(shown))
        rows = -(-len(shown) // columns)
        figure = Figure(figsize=(3.4 * columns, 1.5 * rows + 0.9), layout="constrained")
        for panel, v in enumerate(shown, 1):
            axes = figure.add_subplot(rows, columns, panel)
            axes.fill_between(frames[v], 0, 1, where=labels[v] == 1, step="mid", color="#d55e00", alpha=0.25,
                              linewidth=0, label="abnormal")
            axes.plot(frames[v], normality[v], color="#0072b2", linewidth=1, label="normality")
            axes.set_title(names[v], parse_math=False)
            axes.set(ylim=(0, 1.02), xlim=(frames[v][0], max(frames[v][-1], frames[v][0] + 1)))
            if panel > len(shown) - columns:
                axes.set_xlabel("frame")
        figure.suptitle(title, fontsize=10, parse_math=False)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        paths.append(folder / f"curves_{page}.png")
        figure.savefig(paths[-1], dpi=150)
    return paths
