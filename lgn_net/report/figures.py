"""Draw figures for print, the paper's and ours: each function makes one of plain numbers, `save_figure` writes it.

Widths are those of a column and of a page of two columns; text is 7 points or more at that size. Curves differ by their
dashes as well as by their colours (Okabe and Ito's), so that a grey copy can be read. Names are never read as formulas.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from lgn_net.files import replacing
from lgn_net.scores.maps import FrameMap
from lgn_net.scores.metrics import Roc
from lgn_net.scores.score_file import stretches

COLUMN, PAGE = 3.5, 7.16                                          # inches
SCREEN, PRINT = (3.4, 6.8, 10.2), (COLUMN, PAGE, PAGE)            # inches, of one, two, three panels side by side
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


@matplotlib.rc_context(STYLE)
def save_figure(figure: Figure, path: str | Path, dpi: int = 300, kinds: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write `<path>.png` and `<path>.pdf`, the same bytes for the same figure, and return the two paths."""
    paths = [Path(f"{path}.{kind}") for kind in kinds]
    for target, kind in zip(paths, kinds):
        with replacing(target) as file:
            figure.savefig(file, format=kind, dpi=dpi, metadata={"CreationDate": None} if kind == "pdf" else {})
    return paths


def look(k: int) -> dict:
    """Give the k-th curve of a figure its colour, its dashes and, from the eighth on, its marker."""
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[k % len(DASHES)],
            "marker": MARKERS[k // len(COLOURS) % len(MARKERS)], "markevery": 0.15, "markerfacecolor": "white"}


class Wrapper(textwrap.TextWrapper):
    """Break lines behind _ and /, too, of which names of runs are full."""

    wordsep_re = re.compile(r"(\s+)|(?<=[_/-])")


def wrap(text: str, inches: float) -> str:
    """Break a text of 7 points into lines of about this length."""
    return Wrapper(max(8, int(17 * inches))).fill(text)


def legend_height(labels: Sequence[str]) -> float:
    """Estimate the height in inches of a legend with these entries."""
    return 0.14 * sum(label.count("\n") + 1 for label in labels) + 0.1


@matplotlib.rc_context(STYLE)
def curve_pages(videos: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], title: str = "",
                widths: Sequence[float] = SCREEN) -> list[Figure]:
    """Fig. 5: draw the normality over the frames, abnormal periods shaded; a panel per video, twelve a page.

    Args:
        videos: for each its name, frame indices, normality and labels, (n_v,) each; one vertical axis for all.
        title: heading of every page.
        widths: width of a page with one, two and three panels side by side, in inches.
    """
    low, high = min(x.min() for _, _, x, _ in videos), max(x.max() for _, _, x, _ in videos)
    low, high = (0.0, 1.02) if low >= 0 and high <= 1 else (low, high + 0.02 * ((high - low) or 1))
    pages = []
    for start in range(0, len(videos), VIDEOS_PER_PAGE):
        shown = videos[start:start + VIDEOS_PER_PAGE]
        columns = min(3, len(shown))
        rows, width = -(-len(shown) // columns), widths[columns - 1]
        figure = Figure(figsize=(width, (0.7 + 0.24 * width / columns) * rows + 0.9), layout="constrained")
        for panel, (name, frames, normality, labels) in enumerate(shown, 1):
            axes = figure.add_subplot(rows, columns, panel)
            for first, end in stretches(labels == 1):
                axes.axvspan(frames[first] - 0.5, frames[end - 1] + 0.5, color=RED, alpha=0.25, linewidth=0)
            axes.plot(frames, normality, color=BLUE, linewidth=0.9)
            axes.set(title=name, ylim=(low, high), xlim=(frames[0], max(frames[-1], frames[0] + 1)),
                     xlabel="frame" if panel > len(shown) - columns else "")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        figure.suptitle(title)
        handles = [Patch(color=RED, alpha=0.25, linewidth=0), figure.axes[0].lines[0]]
        figure.legend(handles, ["abnormal", "normality"], loc="outside lower center", ncols=2)
        pages.append(figure)
    return pages


class Entry(NamedTuple):
    """A line of a ROC panel's legend."""

    label: str
    curves: list[Roc]           # drawn alike; those of several seeds


@matplotlib.rc_context(STYLE)
def roc_figure(panels: Mapping[str, Sequence[Entry]], legend_title: str) -> Figure:
    """Fig. 4 and 8: draw a square panel with its legend below for each title; the diagonal is chance."""
    columns = min(3, len(panels))
    width, left, top, below = COLUMN if columns == 1 else PAGE, 0.47, 0.25, 0.42              # inches around a panel
    side = width / columns - left - 0.12
    labels = [[wrap(entry.label, side - 0.2) for entry in entries] for entries in panels.values()]
    row_height = top + side + below + max(map(legend_height, labels)) + 0.15
    height = row_height * -(-len(panels) // columns)
    figure = Figure(figsize=(width, height))
    for panel, (title, entries) in enumerate(panels.items()):
        row, place = divmod(panel, columns)
        x, y = place * width / columns + left, height - row * row_height - top - side
        axes = figure.add_axes((x / width, y / height, side / width, side / height))
        handles = [[axes.plot(curve.false_positive, curve.true_positive, **look(k))[0] for curve in entry.curves][0]
                   for k, entry in enumerate(entries)]
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
        axes.set(xlim=(0, 1), ylim=(0, 1.01), title=title, xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(handles, labels[panel], title=legend_title, loc="upper left", alignment="left",
                    bbox_to_anchor=(0, -below / side), borderaxespad=0, borderpad=0)
    return figure


@matplotlib.rc_context(STYLE)
def draw_maps(maps: Sequence[FrameMap]) -> list[Figure]:
    """Fig. 6: draw rows of frame, prediction, squared error and both with the box, six a page, errors on one scale."""
    highest = float(np.quantile(np.concatenate([one.error.ravel() for one in maps]), 0.999))     # a few beyond: clipped
    scale, colours = Normalize(0, highest or 1.0, clip=True), matplotlib.colormaps["inferno"]
    figures = []
    for start in range(0, len(maps), MAPS_PER_PAGE):
        shown = maps[start:start + MAPS_PER_PAGE]
        shapes = [1 / one.aspect for one in shown]
        figure = Figure(figsize=(PAGE, 1.4 * sum(shapes) + 0.1 * len(shown) + 0.25), layout="compressed")
        grid = figure.subplots(len(shown), 4, squeeze=False, height_ratios=shapes)
        for row, one in zip(grid, shown):
            image, strength = to_rgb(one.image), scale(one.error).filled()
            grey, opacity = image.mean(axis=2, keepdims=True) / 255, strength[..., None] ** 0.5
            overlay = (1 - opacity) * grey + opacity * colours(strength)[..., :3]
            stretched = image.shape[1] / image.shape[0] / one.aspect
            for axes, picture in zip(row, (image, to_rgb(one.prediction), one.error, overlay)):
                axes.imshow(picture, norm=scale, cmap=colours, interpolation="none", aspect=stretched)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            x0, y0, x1, y1 = one.box
            for colour, width in (("black", 2.0), ("white", 0.9)):                               # seen on any ground
                row[3].add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour,
                                           linewidth=width))
            says = [wrap(one.video, 0.8), f"frame {one.frame}", one.kind, "abnormal" if one.label else "normal",
                    f"normality {one.normality:.2f}"]
            row[0].set_ylabel("\n".join(says), rotation=0, ha="right", va="center", fontsize=7)
        for axes, title in zip(grid[0], ("frame", "prediction", "squared error", "frame and error")):
            axes.set_title(title)
        bar = figure.colorbar(grid[0, 2].images[0], ax=list(grid.flat), aspect=12 * len(shown), pad=0.015, extend="max")
        bar.outline.set_linewidth(0.4)
        figures.append(figure)
    return figures


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Turn pixels (H, W, C) uint8, BGR or grey, into (H, W, 3) RGB."""
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., ::-1]


@matplotlib.rc_context(STYLE)
def gap_figure(groups: Mapping[str, Mapping[str, float]]) -> Figure:
    """Fig. 7: draw a bar per run with its value beside it, a panel per group (data set); {group: {run: gap}}."""
    labels = {title: [wrap(name, 1.2) for name in group] for title, group in groups.items()}
    lines = 1 + max(label.count("\n") for group in labels.values() for label in group)
    ratios = [len(group) + 0.2 for group in groups.values()]
    figure = Figure(figsize=(COLUMN, (0.12 * lines + 0.12) * sum(ratios) + 0.32 * len(groups) + 0.5),
                    layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    values = [value for group in groups.values() for value in group.values()]
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.25 * ((high - low) or 1.0)                                                            # for the numbers
    for axes, (title, group) in zip(panels, groups.items()):
        bars = axes.barh(range(len(group)), list(group.values()), height=0.6, color=BLUE)
        axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=7)
        axes.set_yticks(range(len(group)), labels[title])
        axes.set(ylim=(len(group) - 0.4, -0.6), xlim=(low - room if low < 0 else 0, high + room))
        axes.set_title(title, loc="left")
        axes.axvline(0, color="black", linewidth=0.6)
        axes.spines.left.set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[-1].set_xlabel("gap: mean normality of normal minus\nthat of abnormal frames")
    return figure


@matplotlib.rc_context(STYLE)
def gamma_figure(runs: Mapping[str, Sequence[Mapping]], used: Mapping[str, float] | float | None = None) -> Figure:
    """Fig. 9: draw the AUC over gamma and, below it, the percentage of test frames that updated the memory.

    Args:
        runs: for each name a row per gamma with "gamma", "auc" (a fraction; None where undefined), "memory_updates" and
            "frames".
        used: gamma of the configuration, of all or of each run; a ring marks it.
    """
    figure = sweep_figure("γ", [
        {name: (column(rows, "gamma"), 100 * column(rows, "auc")) for name, rows in runs.items()},
        {name: (column(rows, "gamma"), 100 * column(rows, "memory_updates") / column(rows, "frames"))
         for name, rows in runs.items()}], used)
    top, bottom = figure.axes
    gammas = np.concatenate([column(rows, "gamma") for rows in runs.values()])
    positive = gammas[gammas > 0]
    if len(positive) and positive.max() >= 100 * positive.min():           # a logarithmic axis, 0 left of the smallest
        bottom.set_xscale("symlog", linthresh=positive.min(), linscale=0.5)
        bottom.xaxis.set_major_formatter("{x:g}")
    bottom.set(ylabel="memory\nupdates %", ylim=(-6, 106), xlabel="γ (threshold of the regular score)")
    return figure


@matplotlib.rc_context(STYLE)
def lambda_figure(runs: Mapping[str, Sequence[Mapping]], used: Mapping[str, float] | float | None = None) -> Figure:
    """Fig. 10: draw the AUC over lambda, from the distance alone (0) to the PSNR alone (1).

    `runs` gives for each name a row per lambda with "lambda" and "auc"; `used` is as in `gamma_figure`.
    """
    figure = sweep_figure("λ", [{name: (column(rows, "lambda"), 100 * column(rows, "auc"))
                                 for name, rows in runs.items()}], used)
    figure.axes[0].set(xlim=(-0.02, 1.02), xlabel="λ (0: distance only, 1: PSNR only)")
    return figure


def column(rows: Sequence[Mapping], name: str) -> np.ndarray:
    """Collect a column (k,) of the rows; None becomes NaN."""
    return np.array([row[name] for row in rows], float)


def sweep_figure(symbol: str, panels: Sequence[Mapping[str, Sequence[np.ndarray]]],
                 used: Mapping[str, float] | float | None) -> Figure:
    """Draw panels above each other, the AUC in the first, with a curve (x, y) per run and a ring where x is `used`."""
    labels = [wrap(name, COLUMN - 0.8) for name in panels[0]]
    figure = Figure(figsize=(COLUMN, 1.5 + 0.9 * len(panels) + legend_height([*labels, ""])), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=[1.8, 1][:len(panels)])[:, 0]
    ring: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 7, "markerfacecolor": "none"}
    handles = []
    for axes, panel in zip(grid, panels):
        for k, (name, (x, y)) in enumerate(panel.items()):
            x, y = np.array((x, y))[:, np.argsort(x, kind="stable")]
            few = {"marker": MARKERS[1 + k % 6], "markersize": 3, "markevery": 1} if len(x) <= 25 else {}
            handles += axes.plot(x, y, **look(k) | few)
            mine = used.get(name) if isinstance(used, Mapping) else used
            if mine is not None and x[0] <= mine <= x[-1]:
                axes.plot(mine, np.interp(mine, x, y), **ring, color=COLOURS[k % len(COLOURS)])
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(axis="y")
    grid[0].set_ylabel("AUC %")
    figure.legend([*handles[:len(labels)], Line2D([], [], color="black", **ring)],
                  [*labels, f"{symbol} of the configuration"], loc="outside lower center", alignment="left")
    return figure


class Seeds(NamedTuple):
    """A row of a table of runs: AUCs in percent."""

    auc: list[float]                    # of each seed
    auc_psnr: list[float]               # of the PSNR alone; empty where it is all there is
    published: float | None = None


@matplotlib.rc_context(STYLE)
def seeds_figure(title: str, rows: Mapping[str, Seeds]) -> Figure:
    """Draw every row of a table on a line of its own: a dot for each seed, a bar at their mean."""
    figure = Figure(figsize=(COLUMN, 1.1 + 0.21 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows.values()):
        if row.auc_psnr:
            axes.plot(np.mean(row.auc_psnr), y, "|", color="0.6", markersize=9, label="PSNR only, mean")
        if row.auc:
            axes.plot(np.mean(row.auc), y, "|", color=BLUE, markersize=9, markeredgewidth=1.8, label="AUC, mean")
        axes.plot(row.auc, [y] * len(row.auc), "o", color=BLUE, markersize=3, alpha=0.6, markeredgewidth=0,
                  label="AUC of a seed")
        if row.published is not None:
            axes.plot(row.published, y, "D", color=RED, markersize=4, markerfacecolor="none", label="published")
    figure.suptitle(wrap(title, COLUMN))
    axes.set(xlabel="AUC %", ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), [wrap(name, 1.5) for name in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid()
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))                     # one of each
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2)
    return figure
