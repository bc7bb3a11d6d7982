"""Draw the paper's figures from evaluations that lie on disk: no network, no frames, a few seconds.

    python scripts/make_figures.py RUN... [--out FOLDER] [--names NAME...] [--figures 4 5 6] [--videos 02 04]

     4  fig4_roc       ROC curves of all runs, a panel per data set
     5  fig5_curves    normality over the frames of each video, abnormal periods shaded
     6  fig6_errors    frame, prediction and error, where the evaluation left maps.npz
     7  fig7_gap       gap scores, as evaluated and at lambda 1
     8  fig8_variants  ROC curves of runs of one data set whose model or loss differ, named by what differs
     9  fig9_gamma     AUC over gamma, where scripts/sweep.py left sweep_gamma.csv
    10  fig10_lambda   AUC over lambda

RUN is a folder that evaluate.py wrote, or a run's folder with one in it. Without --names, runs that differ in nothing
but the seed are one curve or bar: their mean, in a band of one standard deviation to either side. Each figure is
written as .png and .pdf; what cannot be drawn is skipped, and the list at the end says why.
"""

import argparse
import json
import os
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lgn_net.config import flatten
from lgn_net.errors import UserError
from lgn_net.report import figures
from lgn_net.report.outcome import lambda_rows, psnr_gap
from lgn_net.report.plan import interval
from lgn_net.report.tables import percent
from lgn_net.scores.evaluation import Evaluation, open_evaluation
from lgn_net.scores.maps import load_maps
from lgn_net.scores.metrics import auc, roc
from lgn_net.scores.protocols import Protocol, normality_under
from lgn_net.scores.score_file import read_table
from lgn_net.terminal import run_command

STEMS = {4: "fig4_roc", 5: "fig5_curves", 6: "fig6_errors", 7: "fig7_gap", 8: "fig8_variants", 9: "fig9_gamma",
         10: "fig10_lambda"}


class Run(NamedTuple):
    """An evaluation under the name that the figures give it."""

    name: str
    group: str                         # data set and labels: only within a group can runs be compared
    row: str                           # equal for runs that are drawn as one
    folder: Path
    evaluation: Evaluation
    labels: list[np.ndarray]           # (n_v,) of each video
    normality: list[np.ndarray]        # likewise, as it was measured


def main(argv: list[str]) -> int:
    """Draw the figures that the command line asks for, write them, and list what was written and what was not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of an evaluation, or of a run with one in it")
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="FOLDER", help="default: figures")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the runs; default: what differs in their paths")
    parser.add_argument("--figures", nargs="+", type=int, choices=STEMS, metavar="N", default=list(STEMS),
                        help="which; default: all, 4 to 10")
    parser.add_argument("--videos", nargs="+", metavar="VIDEO", help="which videos figure 5 shows; default: all")
    args = parser.parse_args(argv)
    # Figure after figure: what each run gives to it, its pages, its files.
    runs, drawn = open_runs(args.runs, args.names), 0
    for number in args.figures:
        parts = []
        for run in runs:
            try:
                parts.append((run, part(number, run, args.videos)))
            except (UserError, OSError) as why:
                print(f"skipped  {STEMS[number]}  {run.name}: {why}")
        pages = draw(number, parts) if parts else {}
        if parts and not pages:
            print(f"skipped  {STEMS[number]}  no two runs of one data set differ in model or loss")
        for name, figure in pages.items():
            png, pdf = figures.save_figure(figure, args.out / (STEMS[number] + name))
            print(f"written  {STEMS[number]}  {png}, {pdf.suffix}")
            drawn += 1
    return 0 if drawn else 1


def open_runs(folders: Sequence[str], given: Sequence[str] | None) -> list[Run]:
    """Read the evaluations. UserError for a folder without one, and for names that do not fit."""
    opened = [open_evaluation(folder) for folder in folders]
    names = given or short_names([folder.resolve() for _, folder in opened])
    if not len(set(names)) == len(names) == len(folders):
        raise UserError(f"{len(folders)} runs are called {', '.join(names)}; give --names, a different one for each")
    runs = []
    for name, (evaluation, folder) in zip(names, opened):
        results, config = evaluation.about, evaluation.about.get("config")
        group = ", ".join(filter(None, (results["dataset"] or "scores", results["label_source"])))
        row = json.dumps([group, config | {"seed": None}]) if config and not given else name
        normality = normality_under(Protocol.configured(results["scoring"]), *evaluation[:3])
        runs.append(Run(name, group, row, folder, evaluation, [video.labels for video in evaluation.videos], normality))
    return runs


def short_names(paths: Sequence[Path]) -> list[str]:
    """Name folders by the part of their paths in which they differ; evaluation_last goes without saying."""
    parts = [[*(path.parent if path.name == "evaluation_last" else path).parts] for path in paths]
    for end in (0, -1):
        while min(map(len, parts)) > 1 and len({one[end] for one in parts}) == 1:
            for one in parts:
                del one[end]
    return ["/".join(one) for one in parts]


def part(number: int, run: Run, videos: Sequence[str] | None) -> Any:
    """Collect what a run gives to a figure, see `draw`. UserError or OSError saying why when it gives nothing."""
    results = run.evaluation.about
    if number == 5:
        shown = [(video, x) for video, x in zip(run.evaluation.videos, run.normality)
                 if not videos or video.name in videos]
        if not shown:
            raise UserError(f"none of the videos {', '.join(videos or ())}")
        return figures.curve_pages(*zip(*shown), point=results.get("at_eer"))
    if number == 6:
        if not (maps := load_maps(run.folder / "maps.npz")):
            raise UserError("maps.npz holds no frames")
        return figures.draw_maps(maps)
    if auc(run.labels, run.normality) is None:
        raise UserError("frames of one class only")
    if number == 7:
        gaps = results["gap"], psnr_gap(run.evaluation, Protocol.configured(results["scoring"]))
        return [gap for gap in gaps if gap is not None]
    if number == 8 and "config" not in results:
        raise UserError("the network is not known")
    if number == 9:
        table = read_table(run.folder / "sweep_gamma.csv", ("gamma", "auc"))
        return table["gamma"], table["auc"], results["config"]["score"]["gamma"]
    if number == 10:
        rows = lambda_rows(run.evaluation, 50)
        return *(np.array([row[key] for row in rows]) for key in ("lambda", "auc")), run.evaluation.weights["psnr"]
    return roc(run.labels, run.normality)


def draw(number: int, parts: Sequence[tuple[Run, Any]]) -> dict[str, Figure]:
    """Draw the pages of a figure of what `part` gives; their keys are added to the figure's name."""
    if number in (5, 6):
        return {re.sub(r"[^\w.-]+", "_", f"_{run.name}_{k}"): page for run, pages in parts
                for k, page in enumerate(pages, 1)}
    # Runs of one row, under what their names have in common.
    rows: dict[str, list[tuple[Run, Any]]] = {}
    for run, value in parts:
        rows.setdefault(run.row, []).append((run, value))
    named = {}
    for row in rows.values():
        names = [run.name for run, _ in row]
        common = os.path.commonpath(names) + (f", {len(row)} runs" if len(row) > 1 else "")
        named[" ".join(names) if common in named or common.startswith(",") else common] = row
    if number in (9, 10):
        return {"": figures.sweep_figure("gamma" if number == 9 else "lambda",
                                         {name: [value for _, value in row] for name, row in named.items()})}
    if number == 7:
        bars = {f"{name} ({row[0][0].group})": [gaps for _, gaps in row] for name, row in named.items()}
        return {"": figures.gap_figure({name: [*map(statistics.mean, zip(*gaps))] for name, gaps in bars.items()})}

    # A panel for each group.
    panels: dict[str, dict[str, list]] = {}
    for group in dict.fromkeys(run.group for run, _ in parts):
        inside = {name: row for name, row in named.items() if row[0][0].group == group}
        labels = differences(inside) if number == 8 else [*inside]
        if labels:
            panels[group] = {legend(label, [run for run, _ in row]): [value for _, value in row]
                             for label, row in zip(labels, inside.values())}
    return {"": figures.roc_figure(panels)} if panels else {}


def legend(name: str, runs: Sequence[Run]) -> str:
    """Make a line of a legend: the AUC of a run with its interval, or the mean of several with Student's."""
    aucs = [100 * (auc(run.labels, run.normality) or 0) for run in runs]
    text, results = f"{name}: {statistics.mean(aucs):.1f} %", runs[0].evaluation.about
    if len(runs) > 1:
        return f"{text} ({interval(aucs)[0]})"
    if results["interval"] and abs(aucs[0] - 100 * (results["auc"] or 0)) < 1e-9:         # else of a macro average, say
        text += f" ({percent(results['interval'][0], 1)} to {percent(results['interval'][1], 1)})"
    return text


def differences(rows: dict[str, list[tuple[Run, Any]]]) -> list[str]:
    """Name rows by the knobs of model and loss in which they differ; [] where they differ in none."""
    configs = [row[0][0].evaluation.about["config"] for row in rows.values()]
    settings = [flatten({part: config[part] for part in ("model", "loss")}) for config in configs]
    differ = [knob for knob in settings[0] if any(knobs.get(knob) != settings[0][knob] for knobs in settings)]
    return [", ".join(f"{knob.partition('.')[2]} {json.dumps(knobs.get(knob))}" for knob in differ).replace('"', "")
            + f" ({name})" for name, knobs in zip(rows, settings)] if differ else []


if __name__ == "__main__":
    run_command(main)
