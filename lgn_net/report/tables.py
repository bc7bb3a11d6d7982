"""Write results as text: tables for a terminal, for Markdown, LaTeX and CSV, and the words of the templates.

A run of a plan is a mapping: `row` (its name in the plan), `seed`, and `published_auc` in percent, `live_items`, the
seconds `train_s` and `evaluate_s`, or None; once it is done, the content of its results.json, too.
"""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from scipy.stats import ttest_1samp

from lgn_net.config import flatten
from lgn_net.scores.metrics import AVERAGES, RESAMPLES
from lgn_net.scores.normality import SCOPES
from lgn_net.scores.protocols import PAPER, SIGMAS
from lgn_net.scores.score_file import safe
from lgn_net.terminal import visible

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]           # caption, header, rows
TEMPLATES = Path(__file__).parent / "templates"
PUBLISHED: dict[str, dict[str, float]] = yaml.safe_load((TEMPLATES / "published.yaml").read_text())
LATEX = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"})                # LaTeX's own characters, and how to write them
SIGNALS = {"AUC": "auc", "PSNR only": "auc_psnr", "distance only": "auc_distance"}
# What the caption of a table says, and the columns of the list of runs, by their keys.
FACTS = {"data set": "dataset", "pixels a side": "config.data.image_size", "channels": "config.data.channels",
         "epochs": "config.train.epochs", "protocol": "protocol", "device": "versions.device",
         "processor": "versions.processor", "commit": "versions.git"}
LISTED = ("row", "seed", "auc", "auc_psnr", "gap", "psnr_normal", "psnr_abnormal", "memory_updates", "auc_distance",
          "live_items", "train_s", "evaluate_s", "published_auc", "gap_psnr", "auc_copy", "auc_linear", "auc_skill",
          "auc_distance_1", "auc_distance_2", "auc_distance_3")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lay out an aligned Markdown table; the first `left` columns are text, the others numbers."""
    widths = [max(2, *map(len, column)) for column in zip(header, *rows)]                  # 2: for the rule -:
    rules = ["-" * width if k < left else "-" * (width - 1) + ":" for k, width in enumerate(widths)]
    lines = []
    for cells in (header, rules, *rows):
        aligned = (str.ljust if k < left else str.rjust for k in range(len(widths)))
        lines.append("| " + " | ".join(align(*cell) for align, cell in zip(aligned, zip(cells, widths))) + " |")
    return "\n".join(lines)


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str) -> str:
    """Write a table for LaTeX, as wide as the page, with the packages booktabs and graphicx; see `markdown`."""
    lines = [" & ".join(cell.translate(LATEX) for cell in cells) + r" \\" for cells in (header, *rows)]
    return "\n".join([r"\begin{table*}", rf"\caption{{{caption.translate(LATEX)}}}",
                      rf"\label{{tab:{label}}}", r"\resizebox{\textwidth}{!}{",
                      rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", lines[0], r"\midrule",
                      *lines[1:], r"\bottomrule", r"\end{tabular}}", r"\end{table*}", ""])


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Write some columns of rows as comma-separated values; what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: safe(cell) for name, cell in row.items()} for row in rows)
    return text.getvalue()


def percent(value: float | None, digits: int = 2) -> str:
    """Write a fraction in percent; a dash for None."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


# In HTML files every value is escaped.
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=jinja2.select_autoescape(["html"]), trim_blocks=True,
    lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    finalize=lambda value: visible(value) if type(value) is str else value)
ENVIRONMENT.filters |= {"percent": percent,
                        "share": lambda value: "undefined" if value is None else f"{percent(value)} %"}
ENVIRONMENT.globals.update(resamples=RESAMPLES, averages=AVERAGES, scopes=SCOPES, sigmas=SIGMAS, paper=PAPER)
WORDS: Any = ENVIRONMENT.get_template("words.txt").module                  # its macros, as functions


def plan_tables(runs: Sequence[Mapping], overrides: str) -> list[Table]:
    """Make a row per system with mean, sd and Student's 95 % interval; and the paired differences to the first row."""
    rows = []
    for name, group in by_row(runs).items():
        done = [run for run in group if "auc" in run]
        aucs, published = [*by_seed(done, "auc").values()], group[0]["published_auc"]
        distances = [key for run in done[:1] for key in run if key.startswith("auc_distance")]   # of each memory
        minutes = [seconds / 60 for seconds in by_seed(done, "train_s").values()]
        rows.append({
            "row": name, "n": f"{len(done)} of {len(group)}", "AUC %": mean(aucs),
            "sd": f"{statistics.stdev(aucs):.2f}" if len(aucs) > 1 else "-", "95 % interval": interval(aucs)[0],
            "PSNR only": means(done, "auc_psnr"), "distance only": means(done, *distances) or "-",
            "copy / linear / skill": means(done, "auc_copy", "auc_linear", "auc_skill"),
            "gap": means(done, "gap", digits=3), "gap, lambda 1": means(done, "gap_psnr", digits=3),
            "live items": means(done, "live_items", digits=1),
            "PSNR normal / abnormal": means(done, "psnr_normal", "psnr_abnormal"), "minutes": mean(minutes, 1),
            "published": "-" if published is None else f"{published:.1f}",
            "difference": f"{statistics.mean(aucs) - published:+.1f}" if aucs and published else "-"})

    # The caption says what the runs have in common, and which knobs all rows have changed.
    told = {name: dict.fromkeys(str(run[key]) for run in map(flatten, map(dict, runs)) if run.get(key) is not None)
            for name, key in FACTS.items()}
    caption = "; ".join([f"{name} {' or '.join(values)}" for name, values in told.items() if values] + [overrides])
    return [(caption, [*rows[0]], [[*row.values()] for row in rows]), *differences(runs)]


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


def by_row(runs: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    """Group the runs by their row, in the order of the plan."""
    return {name: [run for run in runs if run["row"] == name] for name in dict.fromkeys(run["row"] for run in runs)}


def by_seed(runs: Iterable[Mapping], key: str) -> dict[int, float]:
    """Return a number by seed, of the runs that have it; AUCs in percent."""
    values = {}
    for run in runs:
        # Without a memory the PSNR is all that there is.
        alone = key == "auc_psnr" and [*run.get("signals", ())] == ["psnr"]
        if (value := run.get("auc" if alone else key)) is not None:
            values[run["seed"]] = 100 * value if key.startswith("auc") else value
    return values


def mean(values: Sequence[float], digits: int = 2, sign: str = "") -> str:
    """Format the mean with so many decimals; a dash for no values."""
    return f"{statistics.mean(values):{sign}.{digits}f}" if values else "-"


def means(runs: Sequence[Mapping], *keys: str, digits: int = 2) -> str:
    """Format the means of some numbers over the runs."""
    return " / ".join(mean([*by_seed(runs, key).values()], digits) for key in keys)


def interval(values: Sequence[float], sign: str = "") -> tuple[str, str]:
    """Format Student's 95 % interval of the mean, and the p-value that it is 0; dashes without two different values."""
    if len(values) < 2 or max(values) - min(values) < 1e-9:                         # nothing varies
        return "-", "-"
    test = ttest_1samp(values, 0)
    low, high = test.confidence_interval(0.95)
    if not sign:                                                                     # an AUC
        low, high = max(low, 0.0), min(high, 100.0)
    return f"{low:{sign}.1f} to {high:{sign}.1f}", f"{test.pvalue:.3f}"
