"""Draw figures for print, the paper's and ours: each function makes one of plain numbers, `save_figure` writes it."""

import functools
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from lgn_net.files import replacing
from lgn_net.report.tables import TEMPLATES, by_row, by_seed
from lgn_net.scores.maps import FrameMap, loud, pictures, strong_regions
from lgn_net.scores.metrics import Arrays, mistakes
from lgn_net.scores.results import OperatingPoint
from lgn_net.scores.score_file import Videos, stretches
from lgn_net.terminal import visible

COLUMN, PAGE = 3.5, 7.16         # inches: the widths of a column, and of a page of two columns
BLUE, RED = "#0072b2", "#d55e00"
matplotlib.rc_file(TEMPLATES / "print.mplstyle", use_default_template=False)    # commands alone import this module
VIDEOS_PER_PAGE, MAPS_PER_PAGE = 12, 6
POINTS = 1000                    # of a watched video's curve at most; a picture has no more columns
# Fonts for names in Chinese, Japanese and Korean that are installed; a letter that none has is drawn as a box.
CJK = {"Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Microsoft YaHei", "SimHei", "PingFang SC"}
matplotlib.rcParams["font.family"] = ["DejaVu Sans", *sorted(CJK & set(font_manager.get_font_names()))]
remark = functools.cache(warnings.warn)                # once; Matplotlib warns of every letter of every figure


def save_figure(figure: Figure, path: str | Path, dpi: int = 300, kinds: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write `<path>.png` and `<path>.pdf`, the same bytes for the same figure, and return the two paths."""
    paths = [Path(f"{path}.{kind}") for kind in kinds]
    with warnings.catch_warnings(record=True) as said:
        for target, kind in zip(paths, kinds):
            with replacing(target) as file:
                figure.savefig(file, format=kind, dpi=dpi, metadata={"CreationDate": None} if kind == "pdf" else {})
    for text in {str(w.message) for w in said}:
        remark("no font here has some letters; install Noto Sans CJK" if "missing from font" in text else text)
    return paths


def wrap(text: str, inches: float) -> str:
    """Break a text of 7 points into lines of about this length."""
    return textwrap.fill(visible(text), max(8, int(17 * inches)))


def curve_pages(videos: Videos, normal: Arrays, title: str = "", point: OperatingPoint | None = None) -> list[Figure]:
    """Fig. 5: draw the normality (n_v,) of each video, abnormal periods shaded, mistakes marked, twelve a page."""
    low, high = min(0.0, *map(np.min, normal)), max(1.0, *map(np.max, normal))
    room, pages = 0.02 * (high - low), []
    for start in range(0, len(videos), VIDEOS_PER_PAGE):
        shown = list(zip(videos, normal))[start:start + VIDEOS_PER_PAGE]
        columns = min(3, len(shown))
        rows, width = math.ceil(len(shown) / columns), COLUMN if columns == 1 else PAGE
        figure = Figure(figsize=(width, (0.8 + 0.24 * width / columns) * rows + 0.7), layout="constrained")
        for panel, ((name, frames, _, labels), x) in enumerate(shown, 1):
            axes = figure.add_subplot(rows, columns, panel)
            axes.plot(frames, x, color=BLUE, linewidth=0.9, label="normality")
            for first, end in stretches(labels == 1):
                axes.axvspan(frames[first] - 0.5, frames[end - 1] + 0.5, color=RED, alpha=0.25, lw=0, label="abnormal")
            if point:
                axes.axhline(point["threshold"], color="0.4", lw=0.6, ls=":", label="threshold of equal errors")
                for marker, label, wrong in zip("^v", ("false alarm", "miss"), mistakes(labels, x, point)):
                    axes.plot(frames[wrong], x[wrong], marker, color=RED, markersize=2, label=label)
            axes.set(title=visible(name), xlabel="frame", xlim=(frames[0], frames[-1] + 1),
                     ylim=(low - room, high + room))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        figure.suptitle(visible(title))
        legend_below(figure, columns=3 if columns == 1 else 5)
        pages.append(figure)
    return pages


def legend_below(figure: Figure, columns: int) -> None:
    """Put a legend below the panels, of every label once."""
    handles: dict = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.pop(label, None)                                  # what belongs to several curves comes last
            handles[label] = handle
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, alignment="left")


def plot_runs(axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]], label: str) -> Line2D:
    """Plot the next curve of a panel: that of a run, or the mean of several with a band of a standard deviation."""
    (x, y), sd = curves[0], np.array(0.0)
    if len(curves) > 1:
        every = np.unique(np.concatenate([x for x, _ in curves]))
        x = every[(every >= max(x[0] for x, _ in curves)) & (every <= min(x[-1] for x, _ in curves))]
        values = [np.interp(x, *curve) for curve in curves]
        y, sd = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
    (line,) = axes.plot(x, y, label=label)
    axes.fill_between(x, y - sd, y + sd, color=line.get_color(), alpha=0.2, linewidth=0)
    return line


def roc_figure(panels: Mapping[str, Mapping[str, Sequence[tuple]]]) -> Figure:
    """Fig. 4 and 8: draw a square panel for each title; the diagonal is chance.

    `panels` gives for each title and label of its legend the curves of its runs: false and true positive rates.
    """
    columns, rows = min(2, len(panels)), math.ceil(len(panels) / 2)
    figure = Figure(figsize=(columns * COLUMN, rows * (COLUMN + 0.2)), layout="constrained")
    for panel, (title, curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, panel, box_aspect=1)
        for label, of_runs in curves.items():
            plot_runs(axes, of_runs, wrap(label, COLUMN - 1))
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
        axes.set(xlim=(0, 1), ylim=(0, 1.01), title=title, xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(title="AUC (95 % interval over videos, or seeds)", loc="lower right", alignment="left")
    return figure


def draw_maps(maps: Sequence[FrameMap]) -> list[Figure]:
    """Fig. 6: draw rows of frame, prediction, squared error and both with the box, six a page, errors on one scale."""
    top, figures = loud(maps), []
    for start in range(0, len(maps), MAPS_PER_PAGE):
        shown = maps[start:start + MAPS_PER_PAGE]
        shapes = [1 / one.aspect for one in shown]
        figure = Figure(figsize=(PAGE, 1.4 * sum(shapes) + 0.1 * len(shown) + 0.25), layout="compressed")
        grid = figure.subplots(len(shown), 4, squeeze=False, height_ratios=shapes,
                               subplot_kw={"xticks": [], "yticks": [], "frame_on": False})
        for row, one in zip(grid, shown):
            for axes, (title, picture) in zip(row, pictures(one, top).items()):
                axes.imshow(picture[..., ::-1].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="none",
                            aspect=one.error.shape[1] / len(one.error) / one.aspect)          # from BGR, or grey
                axes.set_title(title if one is shown[0] else "")
            for k, (_, (x0, y0, x1, y1)) in enumerate(strong_regions(one.error)):
                row[3].add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="white",
                                           linestyle=":" if k else "-"))
            says = [wrap(one.video, 0.8), f"frame {one.frame}", one.kind, "abnormal" if one.label else "normal",
                    f"normality {one.normality:.2f}"]
            row[0].set_ylabel("\n".join(says), rotation=0, ha="right", va="center", fontsize=7)
        figure.colorbar(ScalarMappable(Normalize(0, top), "inferno"), ax=list(grid.flat), aspect=12 * len(shown),
                        pad=0.015, extend="max")
        figures.append(figure)
    return figures


def gap_figure(gaps: Mapping[str, Sequence[float]]) -> Figure:
    """Fig. 7: draw the gap of each run as it was evaluated, and below it, if there is one, that at lambda 1."""
    figure = Figure(figsize=(COLUMN, 0.5 * len(gaps) + 1), layout="constrained")
    axes = figure.subplots()
    for k, (colour, label) in enumerate([(BLUE, "as evaluated"), ("0.7", "at lambda 1: PSNR only")]):
        values = {place + 0.35 * k: of_run[k] for place, of_run in enumerate(gaps.values()) if len(of_run) > k}
        if values:
            bars = axes.barh([*values], [*values.values()], height=0.32, color=colour, label=label)
            axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=7)
    axes.set_yticks(np.arange(len(gaps)) + 0.17, [wrap(name, 1.2) for name in gaps])
    axes.invert_yaxis()
    axes.margins(x=0.25)                                                                           # for the numbers
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_xlabel("gap: mean normality of normal minus\nthat of abnormal frames")
    legend_below(figure, columns=2)
    return figure


def sweep_figure(knob: str, runs: Mapping[str, Sequence[tuple[Any, Any, float | None]]]) -> Figure:
    """Fig. 9 and 10: draw the AUC over "gamma", "lambda" or "epoch".

    `runs` gives for each name one or several runs: values (k,) of the knob, the AUC (k,) at each, a fraction or NaN,
    and the value of the run's configuration, which a ring marks; None: there is none.
    """
    label = {"gamma": "γ (threshold of regular scores)", "lambda": "λ (0: distance only, 1: PSNR only)"}.get(knob, knob)
    figure = Figure(figsize=(COLUMN, 2.5 + 0.14 * len(runs)), layout="constrained")
    axes = figure.subplots()
    for name, of_name in runs.items():
        curves = [(np.sort(x), 100 * y[np.argsort(x)]) for x, y, _ in of_name]
        line = plot_runs(axes, curves, wrap(name, COLUMN - 0.8))
        if (used := of_name[0][2]) is not None:
            x, y = map(np.asarray, line.get_data())
            axes.plot(used, np.interp(used, x, y, left=np.nan, right=np.nan), "o", markersize=7, markerfacecolor="none",
                      color=line.get_color(), label=f"{label[0]} of the configuration")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.grid(axis="y")
    axes.set(xlabel=label, ylabel="AUC %")
    legend_below(figure, columns=1)
    return figure


def plan_figure(title: str, runs: Sequence[Mapping]) -> Figure:
    """Draw every row of a plan on a line of its own: a dot for each seed, bars at the means, the published AUC."""
    groups = by_row(runs)
    figure = Figure(figsize=(COLUMN, 1.1 + 0.21 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for y, group in enumerate(groups.values()):
        aucs, alone = (list(by_seed(group, key).values()) for key in ("auc", "auc_psnr"))
        for values, colour, width, label in ((alone, "0.6", 1.0, "PSNR only, mean"), (aucs, BLUE, 1.8, "AUC, mean")):
            if values:
                axes.plot(np.mean(values), y, "|", color=colour, markersize=9, markeredgewidth=width, label=label)
        axes.plot(aucs, [y] * len(aucs), "o", color=BLUE, ms=3, alpha=0.6, markeredgewidth=0, label="AUC of a seed")
        if (published := group[0]["published_auc"]) is not None:
            axes.plot(published, y, "D", color=RED, markersize=4, markerfacecolor="none", label="published")
    figure.suptitle(wrap(title, COLUMN))
    axes.set(xlabel="AUC %", ylim=(len(groups) - 0.5, -0.5))
    axes.set_yticks(range(len(groups)), [wrap(name, 1.5) for name in groups])
    axes.tick_params(axis="y", length=0)
    axes.grid()
    legend_below(figure, columns=2)
    return figure


def plot_normality(path: Path, columns: Mapping[str, Any], threshold: float, title: str) -> None:
    """Plot normality over seconds, or over frame numbers where these are unknown, as `path`.png; alarms are shaded."""
    number, seconds, normality, alarm = map(np.array, columns.values())
    timed = bool(np.isfinite(seconds).all())
    x = (1000 * seconds).astype("datetime64[ms]") if timed else number
    # A gap breaks the line.
    steps = np.diff(number, prepend=number[:1])
    gaps = np.flatnonzero(steps > 2 * np.median(steps))
    x, normality, alarm = np.insert(x, gaps, x[gaps]), np.insert(normality, gaps, math.nan), np.insert(alarm, gaps, 0)

    # Join the frames of hours to at most POINTS points, of which the lowest normality is drawn.
    joined, holes = -(-len(x) // POINTS), gaps + np.arange(len(gaps))
    points = np.union1d(np.arange(0, len(x), joined), [holes, holes + 1])
    lowest = np.fmin.reduceat(normality, points)

    figure = Figure(figsize=(PAGE, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(x[points], lowest, color=BLUE, linewidth=0.8,
              label=f"normality, lowest of {joined} frames" if joined > 1 else "normality")
    if not math.isnan(threshold):
        axes.axhline(threshold, color="black", linestyle="--", linewidth=0.8, label=f"threshold {threshold:.2f}")
    for k, (first, end) in enumerate(stretches(alarm)):
        axes.axvspan(x[first], x[end - 1], color=RED, alpha=0.25, linewidth=0.8, label="" if k else "alarm")
    axes.set(xlabel="hours : minutes : seconds" if timed else "frame", ylabel="normality", title=title)
    axes.margins(x=0)
    if timed:
        axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))
    figure.legend(loc="outside lower center", ncols=3)
    save_figure(figure, path, dpi=150, kinds=("png",))
