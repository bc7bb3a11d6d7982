"""A run of `scripts/reproduce.py` beside the published one: a row of docs/results.md, and its AUC over the epochs."""

import json
import math
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lgn_net.config import load_yaml
from lgn_net.datasets import canonical_name
from lgn_net.files import ROOT
from lgn_net.report.figures import COLUMN, STYLE, look
from lgn_net.report.tables import markdown, percent

CONFIG = "configs/ped2.yaml"                # of the published run
SIGNALS = ("auc", "auc_psnr", "auc_distance")


def published(dataset: str) -> dict[str, tuple[str, float | None]]:
    """model.name -> the system's name, and its published AUC (a fraction) where there is one, from Table I's plan."""
    rows = load_yaml((ROOT / "plans" / "table1.yaml").read_text())["rows"]
    aucs = {name: (row.get("published") or {}).get(canonical_name(dataset)) for name, row in rows.items()}
    return {row["set"]["model.name"]: (name, aucs[name] and round(aucs[name] / 100, 6)) for name, row in rows.items()}


def table(results: Sequence[Mapping]) -> str:
    """A Markdown row per result, as in docs/results.md; an unfinished run has its status in place of an AUC."""
    rows = []
    for one in results:
        done, interval = one["status"] == "complete", one["interval"]
        gap = None if one["auc"] is None or one["published"] is None else 100 * (one["auc"] - one["published"])
        words = [f"`{one['configuration']}`"] * (one["configuration"] != CONFIG)
        words += [f"`{knob} {json.dumps(value).strip(chr(34))}`" for knob, value in one["changed"].items()]
        oracle = f"{percent(one['oracle']['auc'])} (epoch {one['oracle']['epoch']})" if one["oracle"] else "-"
        rows.append([", ".join([one["system"], *words, f"seed {one['seed']}"]), percent(one["published"], 1),
                     percent(one["auc"]) if done else one["status"],
                     f"{percent(interval[0], 1)} to {percent(interval[1], 1)}" if done and interval else "-",
                     f"{gap:+.2f}" if done and gap is not None else "-",
                     *(percent(one[key]) if done else "-" for key in SIGNALS[1:]), oracle, f"`{one['command']}`"])
    return markdown(["run", "published AUC", "measured here", "95 % interval", "difference", "PSNR only",
                     "distance only", "oracle", "command"], rows, left=9)


@matplotlib.rc_context(STYLE)
def curve_figure(result: Mapping) -> Figure:
    """AUC over the epochs, the published one as a line, and below it the live items."""
    figure = Figure(figsize=(COLUMN, 3.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
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
    bottom.plot(range(1, len(result["live_items"]) + 1), result["live_items"], **look(0))
    items = max(result["config"]["model"]["memory_items"], *result["live_items"], 0)      # MSN-Net has three memories
    bottom.set(ylabel="live items", xlabel="epoch", xlim=(0, result["epochs"] + 0.5), ylim=(0, 1.06 * items))
    for axes in (top, bottom):
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=axes is bottom))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y", color="0.9", linewidth=0.5)
        axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2, alignment="left")
    return figure
