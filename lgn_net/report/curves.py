"""Pictures of the scores: normality over time, abnormal periods shaded (Fig. 5)."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lgn_net.files import replacing
from lgn_net.report.figures import BLUE, COLUMN, PAGE, RED, STYLE
from lgn_net.scores.score_file import stretches

PER_PAGE = 12
SCREEN, PRINT = (3.4, 6.8, 10.2), (COLUMN, PAGE, PAGE)            # inches, of one, two, three panels side by side


def plot_curves(names: list[str], frames: list[np.ndarray], normality: list[np.ndarray], labels: list[np.ndarray],
                title: str, folder: Path) -> list[Path]:
    """Write `curves_<k>.png`, twelve videos a page, in place of earlier ones, and return the paths.

    Args:
        names: of the videos.
        frames, normality, labels: an array (n_v,) per video: frame index, normality, 1 for abnormal.
        title: heading of every page.
        folder: where to; must exist.
    """
    for old in folder.glob("curves_*.png"):
        old.unlink()
    paths = []
    for page, figure in enumerate(curve_pages(names, frames, normality, labels, title), 1):
        paths.append(folder / f"curves_{page}.png")
        with matplotlib.rc_context(STYLE), replacing(paths[-1]) as file:
            figure.savefig(file, format="png", dpi=150)
    return paths


@matplotlib.rc_context(STYLE)
def curve_pages(names: Sequence[str], frames: Sequence[np.ndarray], normality: Sequence[np.ndarray],
                labels: Sequence[np.ndarray], title: str = "", widths: Sequence[float] = SCREEN) -> list[Figure]:
    """The pages of `plot_curves`, of one of the `widths`; a panel per video, all with the same normality axis."""
    low, high = min(map(np.min, normality)), max(map(np.max, normality))
    low, high = (0.0, 1.02) if low >= 0 and high <= 1 else (low, high + 0.02 * ((high - low) or 1))
    pages = []
    for start in range(0, len(names), PER_PAGE):
        shown = range(start, min(start + PER_PAGE, len(names)))
        columns = min(3, len(shown))
        rows = -(-len(shown) // columns)
        width = widths[columns - 1]
        figure = Figure(figsize=(width, (0.7 + 0.24 * width / columns) * rows + 0.9), layout="constrained")
        for panel, v in enumerate(shown, 1):
            axes = figure.add_subplot(rows, columns, panel)
            for first, end in stretches(labels[v] == 1):
                axes.axvspan(frames[v][first] - 0.5, frames[v][end - 1] + 0.5, color=RED, alpha=0.25, linewidth=0)
            axes.plot(frames[v], normality[v], color=BLUE, linewidth=0.9, label="normality")
            axes.set_title(names[v])
            axes.set(ylim=(low, high), xlim=(frames[v][0], max(frames[v][-1], frames[v][0] + 1)))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            if panel > len(shown) - columns:
                axes.set_xlabel("frame")
        if title:
            figure.suptitle(title, fontsize=10)
        handles = [Patch(color=RED, alpha=0.25, linewidth=0), figure.axes[0].lines[0]]
        figure.legend(handles, ["abnormal", "normality"], loc="outside lower center", ncols=2)
        pages.append(figure)
    return pages
