"""A plan's runs as tables and pictures: means over the seeds with intervals, a line for each run, published runs.

A run is a mapping: `row` (its name in the plan), `seed`, `published_auc` in percent, `results` (the content of
results.json, {} before the run is done), `live_items` (the nearest of some query of the last logged batch), and the
seconds `train_s` and `evaluate_s`; the last four may be None.
"""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import t as student

from lgn_net.report.figures import BLUE, COLUMN, RED, STYLE, look, save_figure, wrap
from lgn_net.report.tables import markdown, percent

SIGNALS = ("auc", "auc_psnr", "auc_distance")
CONFIG = "configs/ped2.yaml"                # the configuration of the published Ped2 run
MEASURED = ("auc", "auc_psnr", "gap", "psnr_normal", "psnr_abnormal", "memory_updates")


def distance_aucs(results: Mapping) -> list[float | None]:
    """Return the AUC of the distance to each memory alone, a fraction each; [] without a memory."""
    return [value for key, value in sorted(results.items()) if key.startswith("auc_distance")]


def plan_table(title: str, question: Sequence[str], runs: Sequence[Mapping]) -> str:
    """Return the plan's question, a row per system with mean, sd and 95 % interval, and the paired differences."""
    rows = []
    for name, group in by_row(runs).items():
        done = [run for run in group if run["results"]]
        aucs, alone = ([*percents(done, key).values()] for key in ("auc", "auc_psnr"))
        distances = [mean([100 * value for value in known(values)], 2)
                     for values in zip(*(distance_aucs(run["results"]) for run in done))]
        gap, normal, abnormal = (known(run["results"].get(key) for run in done)
                                 for key in ("gap", "psnr_normal", "psnr_abnormal"))
        live, seconds = (known(run[key] for run in done) for key in ("live_items", "train_s"))
        published = known([group[0]["published_auc"]])
        rows.append([
            name, f"{len(done)} of {len(group)}", mean(aucs, 2), *spread(aucs), mean(alone or aucs, 2),
            " / ".join(distances) or "-", mean(gap, 3), mean(live, 1), f"{mean(normal, 2)} / {mean(abnormal, 2)}",
            mean([one / 60 for one in seconds], 1), mean(published, 1),
            f"{statistics.mean(aucs) - published[0]:+.1f}" if aucs and published else "-"])
    header = ["row", "n", "AUC %", "sd", "95 % interval", "PSNR only", "distance only", "gap", "live items",
              "PSNR normal / abnormal", "minutes", "published", "difference"]
    return "\n\n".join(filter(None, [f"# {title}", *question, markdown(header, rows), difference_table(runs)])) + "\n"


def difference_table(runs: Sequence[Mapping]) -> str:
    """Return the differences of each row to the first row, seed by seed: n, mean and 95 % interval; "" without any."""
    (first, base), *others = by_row(runs).items()
    rows = []
    for name, group in others:
        cells: list[str] = []
        for key in SIGNALS:
            theirs, own = percents(base, key), percents(group, key)
            gaps = [own[seed] - theirs[seed] for seed in own if seed in theirs]
            cells += [str(len(gaps)), mean(gaps, 2, "+"), spread(gaps, "+")[1]]
        rows.append([name, *cells])
    if all(row[1] == "0" for row in rows):
        return ""
    header = ["row", *(word for name in ("AUC", "PSNR only", "distance only") for word in ("n", name, "95 % interval"))]
    return f"Each row less {first}, in points, over their common seeds:\n\n{markdown(header, rows)}"


def plan_csv(runs: Sequence[Mapping]) -> str:
    """Return a line of comma-separated values for each run that is done."""
    text, others = io.StringIO(), ("live_items", "train_s", "evaluate_s", "published_auc")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "seed", *MEASURED, "auc_distance", *others])
    writer.writerows([run["row"], run["seed"], *(run["results"].get(name) for name in MEASURED),
                      " ".join(map(str, distance_aucs(run["results"]))), *(run[name] for name in others)]
                     for run in runs if run["results"])
    return text.getvalue()


def by_row(runs: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    """Group the runs by their row, in the order of the plan."""
    return {name: [run for run in runs if run["row"] == name] for name in dict.fromkeys(run["row"] for run in runs)}


def percents(runs: Iterable[Mapping], key: str) -> dict[int, float]:
    """Return an AUC in percent by seed, of the runs that have it."""
    return {run["seed"]: 100 * run["results"][key] for run in runs if run["results"].get(key) is not None}


def known(values: Iterable[float | None]) -> list[float]:
    """Return the values that are not None."""
    return [value for value in values if value is not None]


def mean(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Format the mean with so many decimals; a dash for no values."""
    return f"{statistics.mean(values):{sign}.{digits}f}" if values else "-"


def spread(values: Sequence[float], sign: str = "") -> tuple[str, str]:
    """Return standard deviation and Student's 95 % interval of the mean; dashes for fewer than two values."""
    if len(values) < 2:
        return "-", "-"
    sd = statistics.stdev(values)
    low, high = student.interval(0.95, len(values) - 1, statistics.mean(values), sd / math.sqrt(len(values)))
    return f"{sd:.2f}", f"{low:{sign}.1f} to {high:{sign}.1f}"


def result_table(results: Sequence[Mapping]) -> str:
    """Return a Markdown row for each file of results/, as in docs/results.md; its status where it is not complete."""
    rows = []
    for one in results:
        words = [f"`{one['configuration']}`"] * (one["configuration"] != CONFIG)
        words += [f"`{knob} {json.dumps(value).strip(chr(34))}`" for knob, value in one["changed"].items()]
        row = [", ".join([one["system"], *words, f"seed {one['seed']}"]), percent(one["published"], 1)]
        if one["status"] == "complete":
            auc, published, interval, best = one["auc"], one["published"], one["interval"], one["oracle"]
            row += [percent(auc), f"{percent(interval[0], 1)} to {percent(interval[1], 1)}" if interval else "-",
                    f"{100 * (auc - published):+.2f}" if published and auc is not None else "-",
                    *(percent(one[key]) for key in SIGNALS[1:]), f"{percent(best['auc'])} (epoch {best['epoch']})"]
        else:
            row += [one["status"], "-", "-", "-", "-", "-"]
        rows.append([*row, f"`{one['command']}`"])
    return markdown(["run", "published AUC", "measured here", "95 % interval", "difference", "PSNR only",
                     "distance only", "oracle", "command"], rows, left=9)


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
