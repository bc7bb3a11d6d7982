"""Tables of a plan's runs: means over the seeds with intervals, a line for each run, a row for each published run."""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from scipy.stats import t as student

from lgn_net.report.tables import markdown, percent

SIGNALS = ("auc", "auc_psnr", "auc_distance")
CONFIG = "configs/ped2.yaml"                # the configuration of the published Ped2 run
MEASURED = ("auc", "auc_psnr", "gap", "psnr_normal", "psnr_abnormal", "memory_updates")


class Outcome(NamedTuple):
    """Hold what a table needs of one run; `results` is the content of results.json, {} before the run is done."""

    row: str
    seed: int
    published: float | None                 # AUC in percent
    results: Mapping
    live_items: int | None = None           # of all memories, the nearest of some query of the last logged batch
    train_s: float | None = None
    evaluate_s: float | None = None


def distance_aucs(results: Mapping) -> list[float | None]:
    """Return the AUC of the distance to each memory alone, a fraction each; [] without a memory."""
    return [value for key, value in sorted(results.items()) if key.startswith("auc_distance")]


# ---------------------------------------------------------------------------------------------------- tables of a plan

def plan_table(title: str, question: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    """Return the plan's question, a row per system with mean, sd and 95 % interval, and the paired differences."""
    header = ["row", "n", "AUC %", "sd", "95 % interval", "PSNR only", "distance only", "gap", "live items",
              "PSNR normal / abnormal", "minutes", "published", "difference"]
    rows = []
    for name, group in by_row(outcomes).items():
        done = [one for one in group if one.results]
        mean = {key: average(one.results.get(key) for one in done) for key in MEASURED}
        aucs = percents(done, "auc").values()
        distances = [percent(average(values)) for values in zip(*(distance_aucs(one.results) for one in done))]
        published = group[0].published
        seconds = average(one.train_s for one in done)
        rows.append([
            name, f"{len(done)} of {len(group)}", percent(mean["auc"]), *spread(aucs),
            percent(mean["auc"] if mean["auc_psnr"] is None else mean["auc_psnr"]), " / ".join(distances) or "-",
            number(mean["gap"], 3), number(average(one.live_items for one in done), 1),
            f"{number(mean['psnr_normal'], 2)} / {number(mean['psnr_abnormal'], 2)}",
            number(None if seconds is None else seconds / 60, 1), number(published, 1),
            "-" if published is None or mean["auc"] is None else f"{100 * mean['auc'] - published:+.1f}"])
    paragraphs = [f"# {title}", *question, markdown(header, rows), difference_table(outcomes)]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def difference_table(outcomes: Sequence[Outcome]) -> str:
    """Return the differences of each row to the first row, seed by seed: n, mean and 95 % interval; "" without any."""
    first, *others = by_row(outcomes).items()
    rows = []
    for name, group in others:
        cells: list[str] = []
        for key in SIGNALS:
            base, own = percents(first[1], key), percents(group, key)
            gaps = [own[seed] - base[seed] for seed in own if seed in base]
            cells += [str(len(gaps)), f"{statistics.mean(gaps):+.2f}" if gaps else "-", spread(gaps, sign="+")[1]]
        rows.append([name, *cells])
    if not any(row[1] != "0" for row in rows):
        return ""
    header = ["row", *(word for name in ("AUC", "PSNR only", "distance only") for word in ("n", name, "95 % interval"))]
    return f"Each row less {first[0]}, in points, over their common seeds:\n\n{markdown(header, rows)}"


def plan_csv(outcomes: Sequence[Outcome]) -> str:
    """Return a line of comma-separated values for each run that is done."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "seed", *MEASURED, "auc_distance", "live_items", "train_s", "evaluate_s", "published_auc"])
    for one in outcomes:
        if one.results:
            writer.writerow([one.row, one.seed, *(one.results.get(name) for name in MEASURED),
                             " ".join(map(str, distance_aucs(one.results))), one.live_items, one.train_s,
                             one.evaluate_s, one.published])
    return text.getvalue()


def by_row(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Group the runs by their row, in the order of the plan."""
    return {name: [one for one in outcomes if one.row == name] for name in dict.fromkeys(one.row for one in outcomes)}


def percents(outcomes: Iterable[Outcome], key: str) -> dict[int, float]:
    """Return an AUC in percent by seed, of the runs that have it."""
    return {one.seed: 100 * one.results[key] for one in outcomes if one.results.get(key) is not None}


def spread(values: Iterable[float], sign: str = "") -> tuple[str, str]:
    """Return standard deviation and Student's 95 % interval of the mean; dashes for fewer than two values."""
    values = list(values)
    n = len(values)
    if n < 2:
        return "-", "-"
    mean, sd = statistics.mean(values), statistics.stdev(values)
    half = student.ppf(0.975, n - 1) * sd / math.sqrt(n)
    return f"{sd:.2f}", f"{mean - half:{sign}.1f} to {mean + half:{sign}.1f}"


def average(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None where there are none."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def number(value: float | None, digits: int) -> str:
    """Format a number with so many decimals; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


# -------------------------------------------------------------------------------------- rows of the published Ped2 run

def result_table(results: Sequence[Mapping]) -> str:
    """Return a Markdown row for each file of results/, as in docs/results.md; its status where it is not complete."""
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
