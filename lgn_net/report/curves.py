"""Pictures of the scores: normality over time, abnormal periods shaded (Fig. 5)."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

PER_PAGE = 12


def plot_curves(names: list[str], frames: list[np.ndarray], normality: list[np.ndarray], labels: list[np.ndarray],
                title: str, folder: Path) -> list[Path]:
    """Write `curves_<k>.png`, twelve videos a page, in place of earlier ones, and return the paths.

    Args:
        names: of the videos.
        frames, normality, labels: an array (n_v,) per video: frame index, normality in [0, 1], 1 for abnormal.
        title: heading of every page.
        folder: where to; must exist.
    """
    for old in folder.glob("curves_*.png"):
        old.unlink()
    matplotlib.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    paths = []
    for page, start in enumerate(range(0, len(names), PER_PAGE), 1):
        shown = range(start, min(start + PER_PAGE, len(names)))
        columns = min(3, len(shown))
        rows = -(-len(shown) // columns)
        figure = Figure(figsize=(3.4 * columns, 1.5 * rows + 0.9), layout="constrained")
        for panel, v in enumerate(shown, 1):
            axes = figure.add_subplot(rows, columns, panel)
            edges = np.flatnonzero(np.diff(np.concatenate([[0], labels[v] == 1, [0]]).astype(int)))
            for first, end in edges.reshape(-1, 2):
                axes.axvspan(frames[v][first] - 0.5, frames[v][end - 1] + 0.5, color="#d55e00", alpha=0.25, linewidth=0)
            axes.plot(frames[v], normality[v], color="#0072b2", linewidth=1, label="normality")
            axes.set_title(names[v], parse_math=False)
            axes.set(ylim=(0, 1.02), xlim=(frames[v][0], max(frames[v][-1], frames[v][0] + 1)))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if panel > len(shown) - columns:
                axes.set_xlabel("frame")
        figure.suptitle(title, fontsize=10, parse_math=False)
        handles = [Patch(color="#d55e00", alpha=0.25, linewidth=0), figure.axes[0].lines[0]]
        figure.legend(handles, ["abnormal", "normality"], loc="outside lower center", ncols=2, frameon=False)
        paths.append(folder / f"curves_{page}.png")
        figure.savefig(paths[-1], dpi=150)
    return paths
