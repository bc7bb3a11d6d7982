"""Draw the runs of a plan: the AUC of every seed, and of one run the AUC over its epochs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lgn_net.report.figures import BLUE, COLUMN, RED, STYLE, look, save_figure, wrap
from lgn_net.report.plan_tables import SIGNALS, by_row, percents


@matplotlib.rc_context(STYLE)
def plan_figure(title: str, runs: Sequence[Mapping]) -> Figure:
    """Draw every row of a plan on a line of its own: a dot for each seed, bars at the means, the published AUC."""
    groups = by_row(runs)
    figure = Figure(figsize=(COLUMN, 1.1 + 0.21 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for y, group in enumerate(groups.values()):
        aucs, alone = (list(percents(group, key).values()) for key in ("auc", "auc_psnr"))
        for values, colour, width, label in ((alone, "0.6", 1.0, "PSNR only, mean"), (aucs, BLUE, 1.8, "AUC, mean")):
            if values:
                axes.plot(np.mean(values), y, "|", color=colour, markersize=9, markeredgewidth=width, label=label)
        axes.plot(aucs, [y] * len(aucs), "o", color=BLUE, markersize=3, alpha=0.6, markeredgewidth=0,
                  label="AUC of a seed")
        if (published := group[0]["published_auc"]) is not None:
            axes.plot(published, y, "D", color=RED, markersize=4, markerfacecolor="none", label="published")
    figure.suptitle(wrap(title, COLUMN))
    axes.set(xlabel="AUC %", ylim=(len(groups) - 0.5, -0.5))
    axes.set_yticks(range(len(groups)), [wrap(name, 1.5) for name in groups])
    axes.tick_params(axis="y", length=0)
    axes.grid()
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))                     # one of each
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2)
    return figure


@matplotlib.rc_context(STYLE)
def draw_curve(result: Mapping, path: Path) -> None:
    """Draw the AUC over the epochs, the published AUC as a line, and below them the live items."""
    figure = Figure(figsize=(COLUMN, 3.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
    epochs = [row["epoch"] for row in result["curve"]]
    for k, (key, label) in enumerate(zip(SIGNALS, ("AUC", "PSNR only", "distance only"))):
        values = [math.nan if row[key] is None else 100 * row[key] for row in result["curve"]]
        top.plot(epochs, values, **look(k) | {"marker": "o^s"[k], "markersize": 3, "markevery": 1}, label=label)
    if result["published"]:
        top.axhline(100 * result["published"], color="0.5", linewidth=0.8, linestyle=(0, (1, 2)), label="published")
    top.set(ylabel="AUC %", title=f"{result['name']}: {result['status']}")
    bottom.plot(range(1, len(result["live_items"]) + 1), result["live_items"], **look(0))
    bottom.set(ylabel="live items", xlabel="epoch", xlim=(0, None), ylim=(0, None))
    for axes in (top, bottom):
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=2, alignment="left")
    save_figure(figure, path)
