"""Draw the runs of a plan: the AUC of every seed, and of one run the AUC over its epochs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lgn_net.report.figures import COLUMN, STYLE, Seeds, look, save_figure, seeds_figure
from lgn_net.report.plan_tables import SIGNALS, by_row, percents
from lgn_net.report.tables import percent


def draw_plan(title: str, runs: Sequence[Mapping], path: Path) -> None:
    """Draw the AUC of every seed, their mean and the published value, a line per row, into `path`.png and .pdf."""
    rows = {name: Seeds([*percents(group, "auc").values()], [*percents(group, "auc_psnr").values()],
                        group[0]["published_auc"]) for name, group in by_row(runs).items()}
    save_figure(seeds_figure(title, rows), path)


@matplotlib.rc_context(STYLE)
def draw_curve(result: Mapping, path: Path) -> None:
    """Draw the AUC over the epochs, the published AUC as a line, and below them the live items."""
    figure = Figure(figsize=(COLUMN, 3.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
    # The AUC of the normality and of its two signals.
    epochs = [row["epoch"] for row in result["curve"]]
    for k, (key, label) in enumerate(zip(SIGNALS, ("AUC", "PSNR only", "distance only"))):
        values = [math.nan if row[key] is None else 100 * row[key] for row in result["curve"]]
        if not all(map(math.isnan, values)):
            top.plot(epochs, values, **look(k) | {"marker": "o^s"[k], "markersize": 3, "markevery": 1}, label=label)
    if result["published"]:
        top.axhline(100 * result["published"], color="0.5", linewidth=0.8, linestyle=(0, (1, 2)),
                    label=f"published, {percent(result['published'], 1)}")
    if best := result["oracle"]:
        top.plot(best["epoch"], 100 * best["auc"], linestyle="", marker="o", markersize=7, markerfacecolor="none",
                 color="black", label=f"oracle (test set): epoch {best['epoch']}")
    top.set(ylabel="AUC %", title=f"{result['name']}: {result['status']}")
    # The live items of every epoch.
    bottom.plot(range(1, len(result["live_items"]) + 1), result["live_items"], **look(0))
    bottom.set(ylabel="live items", xlabel="epoch", xlim=(0, None), ylim=(0, None))
    for axes in (top, bottom):
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=axes is bottom))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=2, alignment="left")
    save_figure(figure, path)
