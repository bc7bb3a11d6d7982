"""Figures for print, the paper's and ours: each function makes one of plain numbers, `save_figure` writes it.

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
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from lgn_net.files import replacing
from lgn_net.scores.metrics import Roc

COLUMN, PAGE = 3.5, 7.16                                          # inches
BLUE, RED = "#0072b2", "#d55e00"
COLOURS = (BLUE, RED, "#009e73", "#000000", "#e69f00", "#cc79a7", "#56b4e9")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (9, 2)), (0, (3, 1, 3, 1, 1, 1)))
MARKERS = ("", "o", "^", "s", "D", "v", "X")                      # the first seven curves do without
STYLE = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "legend.title_fontsize": 7,
         "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.titlepad": 4, "axes.linewidth": 0.6,
         "lines.linewidth": 1.1, "lines.markersize": 4,
         "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.handlelength": 2.8,
         "text.parse_math": False, "text.usetex": False, "pdf.fonttype": 42, "figure.constrained_layout.h_pad": 0.04}
LEFT, TOP, BELOW = 0.47, 0.25, 0.42                               # inches around a ROC panel; its legend lies below
MAPS_PER_PAGE = 6
SYMBOLS = {"gamma": "γ", "lambda": "λ"}


@matplotlib.rc_context(STYLE)
def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write `<path>.png`, 300 dots per inch, and `<path>.pdf` with its text as text; return the two paths."""
    paths = [Path(f"{path}.{kind}") for kind in ("png", "pdf")]
    for target, metadata in zip(paths, ({}, {"CreationDate": None})):          # the same figure: the same file
        with replacing(target) as file:
            figure.savefig(file, format=target.suffix[1:], dpi=300, metadata=metadata)
    return paths


def look(k: int) -> dict:
    """Colour, dashes and, from the eighth on, marker of the k-th curve of a figure."""
    turn = k // len(COLOURS) % len(MARKERS)
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[k % len(DASHES)], "marker": MARKERS[turn],
            "markevery": 0.15, "markerfacecolor": "white"}


class Wrapper(textwrap.TextWrapper):
    """Breaks lines behind _ and /, too, of which names of runs are full."""

    wordsep_re = re.compile(r"(\s+)|(?<=[_/-])")


def wrap(text: str, inches: float) -> str:
    """Text of 7 points, broken into lines that are about as long as this."""
    return Wrapper(max(8, int(17 * inches))).fill(text)


def legend_height(labels: Sequence[str]) -> float:
    """Inches that a legend of these entries takes."""
    return 0.14 * sum(label.count("\n") + 1 for label in labels) + 0.1


# ---------------------------------------------------------------------------------------------------- Fig. 4 and 8: ROC

class Entry(NamedTuple):
    """A line of a ROC panel's legend."""

    label: str
    curves: list[Roc]           # drawn alike; those of several seeds


@matplotlib.rc_context(STYLE)
def roc_figure(panels: Mapping[str, Sequence[Entry]], legend_title: str = "") -> Figure:
    """A square panel with its legend below for each title; the diagonal is chance."""
    columns = min(3, len(panels))
    width = COLUMN if columns == 1 else PAGE
    side = width / columns - LEFT - 0.12                                                      # of the square, in inches
    wrapped = [[wrap(entry.label, side - 0.2) for entry in entries] for entries in panels.values()]
    heights = [TOP + side + BELOW + 0.15 * bool(legend_title) + max(map(legend_height, wrapped[k:k + columns]))
               for k in range(0, len(wrapped), columns)]
    height = sum(heights)
    figure = Figure(figsize=(width, height))
    for panel, ((title, entries), labels) in enumerate(zip(panels.items(), wrapped)):
        row, place = divmod(panel, columns)
        x, y = place * width / columns + LEFT, height - sum(heights[:row]) - TOP - side        # its lower left corner
        axes = figure.add_axes((x / width, y / height, side / width, side / height))
        handles = []
        for k, entry in enumerate(entries):
            lines = [axes.plot(curve.false_positive, curve.true_positive, **look(k))[0] for curve in entry.curves]
            handles.append(lines[0])
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
        axes.set(xlim=(0, 1), ylim=(0, 1.01), title=title, xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(handles, labels, title=legend_title or None, loc="upper left", bbox_to_anchor=(0, -BELOW / side),
                    borderaxespad=0, borderpad=0, alignment="left")
    return figure


# --------------------------------------------------------------------------------------------------- Fig. 6: error maps

@matplotlib.rc_context(STYLE)
def draw_maps(maps: Sequence[Any]) -> list[Figure]:
    """Rows of frame | prediction | squared error | both with the box, six a page, errors on one scale throughout.

    Args:
        maps: with video, frame, kind, normality, label; image and prediction (H, W, C) uint8, BGR or grey;
            error (H, W); box (x0, y0, x1, y1) in pixels, its ends beyond the last ones inside.
    """
    highest = float(np.quantile(np.concatenate([one.error.ravel() for one in maps]), 0.999))     # a few beyond: clipped
    scale, colours = Normalize(0, highest or 1.0, clip=True), matplotlib.colormaps["inferno"]
    figures = []
    for start in range(0, len(maps), MAPS_PER_PAGE):
        shown = maps[start:start + MAPS_PER_PAGE]
        shapes = [one.error.shape[0] / one.error.shape[1] for one in shown]
        figure = Figure(figsize=(PAGE, 1.4 * sum(shapes) + 0.1 * len(shown) + 0.25), layout="compressed")
        grid = figure.subplots(len(shown), 4, squeeze=False, height_ratios=shapes)
        for row, one in zip(grid, shown):
            image = to_rgb(one.image)
            share = scale(one.error).filled()[..., None] ** 0.5                                # (H, W, 1) of the colour
            grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2) / 255
            overlay = (1 - share) * grey + share * colours(scale(one.error))[..., :3]
            row[0].imshow(image, interpolation="none")
            row[1].imshow(to_rgb(one.prediction), interpolation="none")
            errors = row[2].imshow(one.error, norm=scale, cmap=colours, interpolation="none")
            row[3].imshow(overlay, interpolation="none")
            x0, y0, x1, y1 = one.box
            for colour, width in (("black", 2.0), ("white", 0.9)):                               # seen on any ground
                row[3].add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour,
                                           linewidth=width))
            for axes in row:
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            says = [wrap(one.video, 0.8), f"frame {one.frame}", one.kind, "abnormal" if one.label else "normal",
                    f"normality {one.normality:.2f}"]
            row[0].set_ylabel("\n".join(says), rotation=0, ha="right", va="center", fontsize=7)
        for axes, title in zip(grid[0], ("frame", "prediction", "squared error", "frame and error")):
            axes.set_title(title)
        bar = figure.colorbar(errors, ax=list(grid.flat), aspect=12 * len(shown), pad=0.015, extend="max")
        bar.outline.set_linewidth(0.4)
        figures.append(figure)
    return figures


def to_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8, BGR or grey -> (H, W, 3) RGB."""
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., ::-1]


# --------------------------------------------------------------------------------------------------- Fig. 7: gap scores

@matplotlib.rc_context(STYLE)
def gap_figure(groups: Mapping[str, Mapping[str, float]]) -> Figure:
    """A bar per run with its value beside it, a panel per group (data set); {group: {run: gap}}."""
    labels = {title: [wrap(name, 1.2) for name in group] for title, group in groups.items()}
    heights = {title: [0.12 * (label.count("\n") + 1) + 0.12 for label in some] for title, some in labels.items()}
    ratios = list(map(sum, heights.values()))                                                      # in inches, too
    figure = Figure(figsize=(COLUMN, sum(ratios) + 0.32 * len(groups) + 0.5), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    values = [value for group in groups.values() for value in group.values()]
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.25 * ((high - low) or 1.0)                                                            # for the numbers
    for axes, (title, group) in zip(panels, groups.items()):
        ends = np.cumsum(heights[title])
        middles = ends - np.array(heights[title]) / 2
        axes.barh(middles, list(group.values()), height=0.15, color=BLUE)
        for y, value in zip(middles, group.values()):
            axes.annotate(f"{value:.3f}", (value, y), xytext=(-3 if value < 0 else 3, 0), textcoords="offset points",
                          ha="right" if value < 0 else "left", va="center_baseline", fontsize=7)
        axes.set_yticks(middles, labels[title])
        axes.set(ylim=(ends[-1], 0), xlim=(low - room if low < 0 else 0, high + room))
        axes.set_title(title, loc="left")
        axes.axvline(0, color="black", linewidth=0.6)
        axes.spines.left.set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[-1].set_xlabel("gap: mean normality of normal minus\nthat of abnormal frames")
    return figure


# ------------------------------------------------------------------------------------------------ Fig. 9 and 10: sweeps

@matplotlib.rc_context(STYLE)
def gamma_figure(runs: Mapping[str, Sequence[Mapping]], used: Mapping[str, float] | float | None = None) -> Figure:
    """AUC over gamma and, below it, the share of test frames that the memory learned from.

    Args:
        runs: for each name a row per gamma with "gamma", "auc" (a fraction; None where undefined), "memory_updates" and
            "frames".
        used: gamma of the configuration, of all or of each run; a ring marks it.
    """
    figure, (top, bottom) = sweep_axes(runs, "gamma", panels=2)
    draw_sweep(top, runs, "gamma", [100 * column(rows, "auc") for rows in runs.values()], used)
    shares = [100 * column(rows, "memory_updates") / column(rows, "frames") for rows in runs.values()]
    draw_sweep(bottom, runs, "gamma", shares, used)
    spread_gammas(bottom, np.concatenate([column(rows, "gamma") for rows in runs.values()]))
    top.set_ylabel("AUC %")
    bottom.set(ylabel="memory\nupdates %", ylim=(-6, 106), xlabel="γ (threshold of the regular score)")
    return figure


@matplotlib.rc_context(STYLE)
def lambda_figure(runs: Mapping[str, Sequence[Mapping]], used: Mapping[str, float] | float | None = None) -> Figure:
    """AUC over lambda, from the distance alone (0) to the PSNR alone (1); rows and `used` as in `gamma_figure`."""
    figure, (axes,) = sweep_axes(runs, "lambda")
    draw_sweep(axes, runs, "lambda", [100 * column(rows, "auc") for rows in runs.values()], used)
    axes.set(xlim=(-0.02, 1.02), ylabel="AUC %", xlabel="λ (0: distance only, 1: PSNR only)")
    return figure


def sweep_axes(runs: Mapping[str, Sequence[Mapping]], knob: str, panels: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels above each other, and the legend below them."""
    labels = [wrap(name, COLUMN - 0.8) for name in runs]
    figure = Figure(figsize=(COLUMN, 1.5 + 0.9 * panels + legend_height([*labels, ""])), layout="constrained")
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False, height_ratios=[1.8, 1][:panels])[:, 0]
    handles = [Line2D([], [], **sweep_look(k, rows)) for k, rows in enumerate(runs.values())]
    ring = Line2D([], [], color="black", linestyle="", marker="o", markerfacecolor="none", markersize=6)
    figure.legend([*handles, ring], [*labels, f"{SYMBOLS[knob]} of the configuration"], loc="outside lower center",
                  alignment="left")
    return figure, axes


def draw_sweep(axes: Axes, runs: Mapping[str, Sequence[Mapping]], knob: str, values: Sequence[np.ndarray],
               used: Mapping[str, float] | float | None) -> None:
    """A curve per run over the knob, and a ring at the value with which the run was evaluated."""
    used = used if isinstance(used, Mapping) else dict.fromkeys(runs, used)
    for k, ((name, rows), y) in enumerate(zip(runs.items(), values)):
        x = column(rows, knob)
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
        axes.plot(x, y, **sweep_look(k, rows))
        if used.get(name) is not None and x[0] <= used[name] <= x[-1]:
            axes.plot(used[name], np.interp(used[name], x, y), linestyle="", marker="o", markersize=7,
                      markerfacecolor="none", color=COLOURS[k % len(COLOURS)])
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)


def sweep_look(k: int, rows: Sequence[Mapping]) -> dict:
    """As `look`, with a marker at every value where there are few."""
    few = {"marker": MARKERS[1 + k % (len(MARKERS) - 1)], "markersize": 3, "markevery": 1}
    return look(k) | (few if len(rows) <= 25 else {})


def spread_gammas(axes: Axes, gammas: np.ndarray) -> None:
    """A logarithmic axis where the gammas span a factor of 100 or more; 0 then lies left of the smallest."""
    positive = gammas[gammas > 0]
    if not len(positive) or positive.max() < 100 * positive.min():
        return
    axes.set_xscale("symlog", linthresh=positive.min(), linscale=0.5)
    decades = 10.0 ** np.arange(np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max())) + 1)
    ticks = [x for x in decades if positive.min() <= x <= positive.max()]
    axes.xaxis.set_major_locator(FixedLocator([0.0, *ticks] if (gammas == 0).any() else ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def column(rows: Sequence[Mapping], name: str) -> np.ndarray:
    """(k,) of the rows; None becomes NaN."""
    return np.array([row[name] for row in rows], float)


# ------------------------------------------------------------------------------------------- tables of runs with seeds

class Seeds(NamedTuple):
    """A row of a table of runs: AUCs in percent."""

    auc: list[float]                    # of each seed
    auc_psnr: list[float]               # of the PSNR alone; empty where it is all there is
    published: float | None = None


@matplotlib.rc_context(STYLE)
def seeds_figure(title: str, rows: Mapping[str, Seeds]) -> Figure:
    """Every row on a line of its own, from the top: a dot for each seed, a bar at their mean."""
    figure = Figure(figsize=(COLUMN, 1.1 + 0.21 * len(rows)), layout="constrained")
    axes, names = figure.subplots(), [wrap(name, 1.5) for name in rows]
    for y, row in enumerate(rows.values()):
        if row.auc_psnr:
            axes.plot(np.mean(row.auc_psnr), y, "|", color="0.6", markersize=9, label="PSNR only, mean")
        if row.auc:
            axes.plot(np.mean(row.auc), y, "|", color=BLUE, markersize=9, markeredgewidth=1.8, label="AUC, mean")
        axes.plot(row.auc, [y] * len(row.auc), "o", color=BLUE, markersize=3, alpha=0.6, markeredgewidth=0,
                  label="AUC of a seed")
        if row.published is not None:
            axes.plot(row.published, y, "D", color=RED, markersize=4, markerfacecolor="none", label="published")
    figure.suptitle(wrap(title, COLUMN), fontsize=STYLE["axes.titlesize"])
    axes.set(xlabel="AUC %", ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))                     # one of each
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2)
    return figure
