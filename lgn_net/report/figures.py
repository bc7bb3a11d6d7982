"""Draw figures for print, the paper's and ours: each function makes one of plain numbers, `save_figure` writes it.

Widths are those of a column and of a page of two columns; text is 7 points or more at that size. Curves differ by their
dashes as well as by their colours (Okabe and Ito's), so that a grey copy can be read. Names are never read as formulas.
"""

import functools
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from lgn_net.files import replacing
from lgn_net.scores.maps import FrameMap
from lgn_net.scores.metrics import Roc
from lgn_net.scores.score_file import VideoScores, stretches

COLUMN, PAGE = 3.5, 7.16                                          # inches
BLUE, RED = "#0072b2", "#d55e00"
COLOURS = (BLUE, RED, "#009e73", "#000000", "#e69f00", "#cc79a7", "#56b4e9")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (9, 2)), (0, (3, 1, 3, 1, 1, 1)))
MARKERS = ("", "o", "^", "s", "D", "v", "X")                      # the first seven curves do without
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "legend.title_fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "figure.titlesize": 8, "axes.titlepad": 4, "axes.linewidth": 0.6,
    "lines.linewidth": 1.1, "lines.markersize": 4, "grid.color": "0.9", "grid.linewidth": 0.5, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.handlelength": 2.8,
    "text.parse_math": False, "text.usetex": False, "pdf.fonttype": 42, "figure.constrained_layout.h_pad": 0.04}
VIDEOS_PER_PAGE, MAPS_PER_PAGE = 12, 6


# Fonts for names in Chinese, Japanese and Korean that are installed.
CJK = {"Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Microsoft YaHei", "SimHei", "PingFang SC"}
STYLE["font.family"] = ["DejaVu Sans", *sorted(CJK & set(font_manager.get_font_names()))]
remark = functools.cache(warnings.warn)


@matplotlib.rc_context(STYLE)
def save_figure(figure: Figure, path: str | Path, dpi: int = 300, kinds: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write `<path>.png` and `<path>.pdf`, the same bytes for the same figure, and return the two paths."""
    paths = [Path(f"{path}.{kind}") for kind in kinds]
    with warnings.catch_warnings(record=True) as said:
        for target, kind in zip(paths, kinds):
            with replacing(target) as file:
                figure.savefig(file, format=kind, dpi=dpi, metadata={"CreationDate": None} if kind == "pdf" else {})
    for text in dict.fromkeys("no font here has some letters of the names in figures; install Noto Sans CJK"
                              if "missing from font" in str(w.message) else str(w.message) for w in said):
        remark(text)                                                 # Matplotlib warns of every letter of every figure
    return paths


def look(k: int) -> dict[str, Any]:
    """Give the k-th curve of a figure its colour, its dashes and, from the eighth on, its marker."""
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[k % len(DASHES)],
            "marker": MARKERS[k // len(COLOURS) % len(MARKERS)], "markevery": 0.15, "markerfacecolor": "white"}


class Wrapper(textwrap.TextWrapper):
    """Break lines behind _ and /, too, of which names of runs are full."""

    wordsep_re = re.compile(r"(\s+)|(?<=[_/-])")


def wrap(text: str, inches: float) -> str:
    """Break a text of 7 points into lines of about this length."""
    return Wrapper(max(8, int(17 * inches))).fill(text)


def height(labels: Sequence[str]) -> float:
    """Estimate the height in inches of a legend with these entries."""
    return 0.14 * sum(label.count("\n") + 1 for label in labels) + 0.1


@matplotlib.rc_context(STYLE)
def curve_pages(videos: Sequence[VideoScores], normality: Sequence[np.ndarray], title: str = "") -> list[Figure]:
    """Fig. 5: draw the normality (n_v,) over the frames of each video, abnormal periods shaded, twelve a page."""
    low, high = min(map(np.min, normality)), max(map(np.max, normality))
    low, high = (0.0, 1.02) if low >= 0 and high <= 1 else (low, high + 0.02 * ((high - low) or 1))
    panels, pages = list(zip(videos, normality)), []
    for start in range(0, len(panels), VIDEOS_PER_PAGE):
        shown = panels[start:start + VIDEOS_PER_PAGE]
        columns = min(3, len(shown))
        rows, width = -(-len(shown) // columns), COLUMN if columns == 1 else PAGE
        figure = Figure(figsize=(width, (0.7 + 0.24 * width / columns) * rows + 0.9), layout="constrained")
        for panel, ((name, frames, _, labels), x) in enumerate(shown, 1):
            axes = figure.add_subplot(rows, columns, panel)
            for first, end in stretches(labels == 1):
                axes.axvspan(frames[first] - 0.5, frames[end - 1] + 0.5, color=RED, alpha=0.25, linewidth=0)
            axes.plot(frames, x, color=BLUE, linewidth=0.9)
            axes.set(title=name, ylim=(low, high), xlim=(frames[0], max(frames[-1], frames[0] + 1)),
                     xlabel="frame" if panel > len(shown) - columns else "")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        figure.suptitle(title)
        handles = [Patch(color=RED, alpha=0.25, linewidth=0), figure.axes[0].lines[0]]
        figure.legend(handles, ["abnormal", "normality"], loc="outside lower center", ncols=2)
        pages.append(figure)
    return pages


def write_curves(videos: Sequence[VideoScores], normality: Sequence[np.ndarray], title: str, folder: Path) -> None:
    """Write `curves_<k>.png` into an existing folder, in place of earlier ones."""
    for old in folder.glob("curves_*.png"):
        old.unlink()
    for k, page in enumerate(curve_pages(videos, normality, title), 1):
        save_figure(page, folder / f"curves_{k}", dpi=200, kinds=("png",))


@matplotlib.rc_context(STYLE)
def roc_figure(panels: Mapping[str, Mapping[str, Sequence[Roc]]]) -> Figure:
    """Fig. 4 and 8: draw a square panel with its legend below for each title; the diagonal is chance.

    `panels` gives for each title and label of its legend the curves that are drawn alike, those of several seeds.
    """
    columns = min(3, len(panels))
    width, left, top, below = COLUMN if columns == 1 else PAGE, 0.47, 0.25, 0.42              # inches around a panel
    side = width / columns - left - 0.12
    labels = [[wrap(label, side - 0.2) for label in entries] for entries in panels.values()]
    row_height = top + side + below + max(map(height, labels)) + 0.15
    total = row_height * -(-len(panels) // columns)
    figure = Figure(figsize=(width, total))
    for k, (title, entries) in enumerate(panels.items()):
        x, y = k % columns * width / columns + left, total - k // columns * row_height - top - side
        axes = figure.add_axes((x / width, y / total, side / width, side / total))
        handles = [[axes.plot(curve.false_positive, curve.true_positive, **look(j))[0] for curve in curves][0]
                   for j, curves in enumerate(entries.values())]
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
        axes.set(xlim=(0, 1), ylim=(0, 1.01), title=title, xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(handles, labels[k], title="AUC (95 % interval)", loc="upper left", alignment="left",
                    bbox_to_anchor=(0, -below / side), borderaxespad=0, borderpad=0)
    return figure


@matplotlib.rc_context(STYLE)
def draw_maps(maps: Sequence[FrameMap]) -> list[Figure]:
    """Fig. 6: draw rows of frame, prediction, squared error and both with the box, six a page, errors on one scale."""
    highest = float(np.quantile(np.concatenate([one.error.ravel() for one in maps]), 0.999))     # a few beyond: clipped
    scale, figures = Normalize(0, highest or 1.0, clip=True), []
    for start in range(0, len(maps), MAPS_PER_PAGE):
        shown = maps[start:start + MAPS_PER_PAGE]
        shapes = [1 / one.aspect for one in shown]
        figure = Figure(figsize=(PAGE, 1.4 * sum(shapes) + 0.1 * len(shown) + 0.25), layout="compressed")
        grid = figure.subplots(len(shown), 4, squeeze=False, height_ratios=shapes,
                               subplot_kw={"xticks": [], "yticks": [], "frame_on": False})
        for row, one in zip(grid, shown):
            show: dict[str, Any] = {"interpolation": "none", "aspect": one.error.shape[1] / len(one.error) / one.aspect}
            grey: dict[str, Any] = show | {"cmap": "gray", "vmin": 0, "vmax": 255}
            for axes, picture in zip(row, (one.image, one.prediction)):
                axes.imshow(picture[..., ::-1].squeeze(), **grey)                             # from BGR, or grey
            row[2].imshow(one.error, norm=scale, cmap="inferno", **show)
            row[3].imshow(one.image.mean(axis=2), **grey)
            row[3].imshow(one.error, norm=scale, cmap="inferno", alpha=np.sqrt(scale(one.error).filled()), **show)
            x0, y0, x1, y1 = one.box
            for colour, width in (("black", 2.0), ("white", 0.9)):                               # seen on any ground
                row[3].add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour,
                                           linewidth=width))
            says = [wrap(one.video, 0.8), f"frame {one.frame}", one.kind, "abnormal" if one.label else "normal",
                    f"normality {one.normality:.2f}"]
            row[0].set_ylabel("\n".join(says), rotation=0, ha="right", va="center", fontsize=7)
        for axes, title in zip(grid[0], ("frame", "prediction", "squared error", "frame and error")):
            axes.set_title(title)
        figure.colorbar(grid[0, 2].images[0], ax=list(grid.flat), aspect=12 * len(shown), pad=0.015, extend="max")
        figures.append(figure)
    return figures


@matplotlib.rc_context(STYLE)
def gap_figure(groups: Mapping[str, Mapping[str, float]]) -> Figure:
    """Fig. 7: draw a bar per run with its value beside it, a panel per group (data set); {group: {run: gap}}."""
    ratios = [len(group) + 0.2 for group in groups.values()]
    labels = [[wrap(name, 1.2) for name in group] for group in groups.values()]
    bar = 0.12 * max(label.count("\n") + 2 for texts in labels for label in texts) + 0.12           # inches
    figure = Figure(figsize=(COLUMN, bar * sum(ratios) + 0.32 * len(groups) + 0.5), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for axes, texts, (title, group) in zip(panels, labels, groups.items()):
        bars = axes.barh(range(len(group)), list(group.values()), height=0.6, color=BLUE)
        axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=7)
        axes.set_yticks(range(len(group)), texts)
        axes.set_ylim(len(group) - 0.4, -0.6)
        axes.margins(x=0.25)                                                                       # for the numbers
        axes.set_title(title, loc="left")
        axes.axvline(0, color="black", linewidth=0.6)
        axes.spines.left.set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[-1].set_xlabel("gap: mean normality of normal minus\nthat of abnormal frames")
    return figure


@matplotlib.rc_context(STYLE)
def sweep_figure(knob: str, runs: Mapping[str, Sequence[Mapping]],
                 used: Mapping[str, float | None] | float) -> Figure:
    """Fig. 9 and 10: draw the AUC over gamma, with the memory updates in percent of the frames, or over lambda.

    `runs` gives for each name a row per value, with the knob, "auc" (a fraction; None where undefined) and, for gamma,
    "memory_updates" and "frames". `used` is the configuration's value, of all or of each run; a ring marks it.
    """
    labels, panels, symbol = [wrap(name, COLUMN - 0.8) for name in runs], *((2, "γ") if knob == "gamma" else (1, "λ"))
    figure = Figure(figsize=(COLUMN, 1.5 + 0.9 * panels + height([*labels, ""])), layout="constrained")
    grid = figure.subplots(panels, 1, sharex=True, squeeze=False, height_ratios=[1.8, 1][:panels])[:, 0]
    ring: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 7, "markerfacecolor": "none"}
    handles = []
    for k, (name, rows) in enumerate(runs.items()):
        rows = sorted(rows, key=lambda row: row[knob])
        columns = {key: np.array([row[key] for row in rows], float) for key in rows[0]}       # None becomes NaN
        x, mine = columns[knob], used.get(name) if isinstance(used, Mapping) else used
        few = {"marker": MARKERS[1 + k % 6], "markersize": 3, "markevery": 1} if len(x) <= 25 else {}
        for axes in grid:
            y = 100 * (columns["auc"] if axes is grid[0] else columns["memory_updates"] / columns["frames"])
            handles += axes.plot(x, y, **look(k) | few)
            if mine is not None and x[0] <= mine <= x[-1]:
                axes.plot(mine, np.interp(mine, x, y), **ring, color=COLOURS[k % len(COLOURS)])
    for axes in grid:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(axis="y")
    grid[0].set_ylabel("AUC %")
    if knob == "gamma":
        positive = [row["gamma"] for rows in runs.values() for row in rows if row["gamma"]]
        if positive and max(positive) >= 100 * min(positive):              # a logarithmic axis, 0 left of the smallest
            grid[1].set_xscale("symlog", linthresh=min(positive), linscale=0.5)
            grid[1].xaxis.set_major_formatter("{x:g}")
        grid[1].set(ylabel="memory\nupdates %", ylim=(-6, 106), xlabel="γ (threshold of the regular score)")
    else:
        grid[0].set(xlim=(-0.02, 1.02), xlabel="λ (0: distance only, 1: PSNR only)")
    figure.legend([*handles[::panels], Line2D([], [], color="black", **ring)],
                  [*labels, f"{symbol} of the configuration"], loc="outside lower center", alignment="left")
    return figure


gamma_figure, lambda_figure = functools.partial(sweep_figure, "gamma"), functools.partial(sweep_figure, "lambda")
