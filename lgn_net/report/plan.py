"""A plan's runs as tables and pictures: means over the seeds with intervals, a line for each run, published runs.

A run is a mapping: `row` (its name in the plan), `seed`, `published_auc` in percent, `results` (the content of
results.json, {} before the run is done), `live_items` (the nearest of some query, in the last logged batch of each
epoch), and the seconds `train_s` and `evaluate_s`; these two and the published AUC may be None.
"""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp

from lgn_net.config import flatten
from lgn_net.report.figures import BLUE, COLUMN, RED, STYLE, save_figure, sweep_figure, wrap
from lgn_net.report.tables import Table

SIGNALS = {"AUC": "auc", "PSNR only": "auc_psnr", "distance only": "auc_distance"}
# Columns of the list of runs, and what the caption of a table says, by their keys in results.json.
MEASURED = ("auc", "auc_psnr", "gap", "psnr_normal", "psnr_abnormal", "memory_updates")
FACTS = {"data set": "dataset", "pixels a side": "config.data.image_size", "channels": "config.data.channels",
         "epochs": "config.train.epochs", "protocol": "protocol", "device": "versions.device",
         "processor": "versions.processor", "commit": "versions.git"}


def plan_tables(runs: Sequence[Mapping], overrides: str) -> list[Table]:
    """Make a row per system with mean, sd and Student's 95 % interval; and the paired differences to the first row.

    `overrides` names the knobs that all rows have changed, for the caption.
    """
    rows = []
    for name, group in by_row(runs).items():
        done = [run for run in group if run["results"]]
        aucs, published = [*by_seed(done, "auc").values()], group[0]["published_auc"]
        distances = [f"auc_{signal}" for run in done[:1] for signal in run["results"]["signals"] if signal != "psnr"]
        live = [run["live_items"][-1] for run in done if run["live_items"] and distances]
        rows.append([
            name, f"{len(done)} of {len(group)}", mean(aucs), f"{statistics.stdev(aucs):.2f}" if len(aucs) > 1 else "-",
            interval(aucs)[0], means(done, "auc_psnr"), means(done, *distances) or "-",
            means(done, "auc_copy", "auc_linear", "auc_skill"), means(done, "gap", digits=3),
            means(done, "gap_psnr", digits=3), mean(live, 1), means(done, "psnr_normal", "psnr_abnormal"),
            mean([run["train_s"] / 60 for run in done if run["train_s"]], 1),
            "-" if published is None else f"{published:.1f}",
            f"{statistics.mean(aucs) - published:+.1f}" if aucs and published else "-"])
    header = ["row", "n", "AUC %", "sd", "95 % interval", "PSNR only", "distance only", "copy / linear / skill", "gap",
              "gap, lambda 1", "live items", "PSNR normal / abnormal", "minutes", "published", "difference"]

    # The caption says what the runs have in common.
    of_memory = [run for run in runs if len(run["results"].get("signals", ())) > 1]            # others say: PSNR only
    told = {name: dict.fromkeys(str(value) for run in of_memory or runs
                                if (value := flatten(run["results"]).get(key)) is not None)
            for name, key in FACTS.items()}
    caption = "; ".join([f"{name} {' or '.join(values)}" for name, values in told.items() if values] + [overrides])
    return [(caption, header, rows), *differences(runs)]


def differences(runs: Sequence[Mapping]) -> list[Table]:
    """Make the differences of each row to the first row, seed by seed: n, mean, 95 % interval, p; [] without any."""
    (first, base), *others = by_row(runs).items()
    rows = []
    for name, group in others:
        cells: list[str] = []
        for key in SIGNALS.values():
            theirs, own = by_seed(base, key), by_seed(group, key)
            gaps = [own[seed] - theirs[seed] for seed in own if seed in theirs]
            cells += [str(len(gaps)), mean(gaps, sign="+"), *interval(gaps, "+")]
        rows.append([name, *cells])
    header = ["row", *(word for name in SIGNALS for word in ("n", name, "95 % interval", "p"))]
    caption = f"Each row less {first}, in points, over their common seeds, with the p-value of a paired t-test"
    return [] if all(row[1] == "0" for row in rows) else [(caption, header, rows)]


def plan_csv(runs: Sequence[Mapping]) -> str:
    """Return a line of comma-separated values for each run that is done."""
    text, others = io.StringIO(), ("train_s", "evaluate_s", "published_auc")
    beside = ("gap_psnr", "auc_copy", "auc_linear", "auc_skill")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "seed", *MEASURED, "auc_distance", "live_items", *others, *beside])
    for run in runs:
        if results := run["results"]:
            distances = [str(results.get(f"auc_{name}")) for name in results["signals"] if name != "psnr"]
            writer.writerow([run["row"], run["seed"], *map(results.get, MEASURED), " ".join(distances),
                             run["live_items"][-1] if run["live_items"] and distances else None,
                             *(run[name] for name in others), *map(results.get, beside)])
    return text.getvalue()


def by_row(runs: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    """Group the runs by their row, in the order of the plan."""
    return {name: [run for run in runs if run["row"] == name] for name in dict.fromkeys(run["row"] for run in runs)}


def by_seed(runs: Iterable[Mapping], key: str) -> dict[int, float]:
    """Return a number of results.json by seed, of the runs that have it; AUCs in percent."""
    values = {}
    for run in runs:
        # Without a memory the PSNR is all that there is.
        alone = key == "auc_psnr" and [*run["results"].get("signals", ())] == ["psnr"]
        if (value := run["results"].get("auc" if alone else key)) is not None:
            values[run["seed"]] = 100 * value if key.startswith("auc") else value
    return values


def mean(values: Sequence[float], digits: int = 2, sign: str = "") -> str:
    """Format the mean with so many decimals; a dash for no values."""
    return f"{statistics.mean(values):{sign}.{digits}f}" if values else "-"


def means(runs: Sequence[Mapping], *keys: str, digits: int = 2) -> str:
    """Format the means of some numbers of results.json over the runs."""
    return " / ".join(mean([*by_seed(runs, key).values()], digits) for key in keys)


def interval(values: Sequence[float], sign: str = "") -> tuple[str, str]:
    """Format Student's 95 % interval of the mean, and the p-value that it is 0; dashes for fewer than two values."""
    if len(values) < 2:
        return "-", "-"
    test = ttest_1samp(values, 0)
    low, high = test.confidence_interval(0.95)
    if not sign:                                                                     # an AUC
        low, high = max(low, 0.0), min(high, 100.0)
    return f"{low:{sign}.1f} to {high:{sign}.1f}", f"{test.pvalue:.3f}"


@matplotlib.rc_context(STYLE)
def plan_figure(title: str, runs: Sequence[Mapping]) -> Figure:
    """Draw every row of a plan on a line of its own: a dot for each seed, bars at the means, the published AUC."""
    # Bars at the means behind a dot for each seed, a diamond at the published AUC.
    groups = by_row(runs)
    figure = Figure(figsize=(COLUMN, 1.1 + 0.21 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for y, group in enumerate(groups.values()):
        aucs, alone = (list(by_seed(group, key).values()) for key in ("auc", "auc_psnr"))
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


def draw_curve(curve: Sequence[Mapping], path: Path) -> None:
    """Draw the AUCs over the epochs; `curve` has a row per epoch with the keys of `SIGNALS`."""
    epochs = np.array([row["epoch"] for row in curve])
    save_figure(sweep_figure("epoch", {name: [(epochs, np.array([row[key] for row in curve], float), None)]
                                       for name, key in SIGNALS.items()}), path)
