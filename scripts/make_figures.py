"""Draw the paper's figures from evaluations that lie on disk: no network, no frames, a few seconds.

    python scripts/make_figures.py RUN... [--out FOLDER] [--names NAME...] [--figures 4 5 6] [--videos 02 04]

     4  fig4_roc       ROC curves of all runs, a panel per data set
     5  fig5_curves    normality over the frames of each video, abnormal periods shaded
     6  fig6_errors    frame, prediction and error, where the evaluation left maps.npz
     7  fig7_gap       gap scores
     8  fig8_variants  ROC curves of runs of one data set whose model or loss differ, named by what differs
     9  fig9_gamma     AUC and memory updates over gamma, where scripts/sweep.py left sweep_gamma.csv
    10  fig10_lambda   AUC over lambda

RUN is a folder that evaluate.py wrote, or a run's folder with one in it. Each figure is written as .png and .pdf; what
cannot be drawn is skipped, and the list at the end says why.
"""

import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lgn_net.config import flatten
from lgn_net.errors import UserError
from lgn_net.report import figures
from lgn_net.report.tables import percent
from lgn_net.scores.evaluation import Evaluation, open_evaluation
from lgn_net.scores.maps import load_maps
from lgn_net.scores.metrics import auc, roc
from lgn_net.scores.protocols import Protocol, normality_under, paper_weights
from lgn_net.scores.score_file import read_table
from lgn_net.terminal import run_command

STEMS = {4: "fig4_roc", 5: "fig5_curves", 6: "fig6_errors", 7: "fig7_gap", 8: "fig8_variants", 9: "fig9_gamma",
         10: "fig10_lambda"}
OWN_PAGES = (5, 6)                     # figures of which every run has pages of its own


class Run(NamedTuple):
    """An evaluation under the name that the figures give it."""

    name: str
    group: str                         # data set and labels: only within a group can runs be compared
    folder: Path
    evaluation: Evaluation
    results: dict[str, Any]
    labels: list[np.ndarray]           # (n_v,) of each video
    normality: list[np.ndarray]        # likewise, as it was measured
    auc: float | None                  # over all frames; None when a class is missing


def main(argv: list[str]) -> int:
    """Draw the figures that the command line asks for, write them, and list what was written and what was not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of an evaluation, or of a run with one in it")
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="FOLDER", help="default: figures")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the runs; default: their folders'")
    parser.add_argument("--figures", nargs="+", type=int, choices=STEMS, metavar="N", default=list(STEMS),
                        help="which; default: all, 4 to 10")
    parser.add_argument("--videos", nargs="+", metavar="VIDEO", help="which videos figure 5 shows; default: all")
    args = parser.parse_args(argv)
    runs = open_runs(args.runs, args.names)

    # Everything is drawn before anything is written.
    drawn: dict[str, Figure] = {}
    lines = []
    for number in args.figures:
        reasons = [why_not(number, run, args.videos) for run in runs]
        lines += [f"skipped  {STEMS[number]}  {run.name}: {why}" for run, why in zip(runs, reasons) if why]
        usable = [run for run, why in zip(runs, reasons) if not why]
        for shown in filter(None, [[run] for run in usable] if number in OWN_PAGES else [usable]):
            pages = draw(number, shown, args)
            own = "_" + re.sub(r"[^\w.-]+", "_", shown[0].name) if number in OWN_PAGES and len(runs) > 1 else ""
            drawn |= {f"{STEMS[number]}{own}" + f"_{k}" * (len(pages) > 1): page for k, page in enumerate(pages, 1)}
            if not pages:
                lines.append(f"skipped  {STEMS[number]}  no two runs of one data set differ in model or loss")
    for stem, figure in drawn.items():
        png, pdf = figures.save_figure(figure, args.out / stem)
        lines.append(f"written  {stem}  {png}, {pdf.suffix}")
    print("\n".join(lines))
    return 0 if drawn else 1


def open_runs(folders: Sequence[str], names: Sequence[str] | None) -> list[Run]:
    """Read the evaluations. UserError for a folder without one, and for names that do not fit."""
    opened = [open_evaluation(folder) for folder in folders]
    if not names:                                    # the folders' own, or where two have the same, as they were typed
        paths = [folder.resolve() for _, folder in opened]
        names = [path.parent.name if path.name.startswith("evaluation") else path.name for path in paths]
        names = names if len(set(names)) == len(names) else folders
    if not len(set(names)) == len(names) == len(folders):
        raise UserError(f"{len(folders)} runs are called {', '.join(names)}; give --names, a different one for each")
    runs = []
    for name, (evaluation, folder) in zip(names, opened):
        results, labels = evaluation.about, [video.labels for video in evaluation.videos]
        group = ", ".join(filter(None, (results["dataset"] or "scores", results["label_source"])))
        normality = normality_under(Protocol.configured(results.get("scoring", {})), *evaluation[:3])
        runs.append(Run(name, group, folder, evaluation, results, labels, normality, auc(labels, normality)))
    return runs


def why_not(number: int, run: Run, videos: Sequence[str] | None) -> str:
    """Say why a run is not in a figure; "" where it is."""
    file, command = {6: ("maps.npz", "evaluate.py --checkpoint"),
                     9: ("sweep_gamma.csv", "scripts/sweep.py gamma")}.get(number, ("scores.csv", ""))
    if not (run.folder / file).is_file() or (number == 6 and not load_maps(run.folder / file)):
        return f"no {file} in the evaluation, or an empty one; {command} writes it"
    if number == 5 and videos and not {video.name for video in run.evaluation.videos} & {*videos}:
        return f"none of the videos {', '.join(videos)}"
    if number == 10 and not {"psnr"} < {*run.evaluation.weights}:
        return f"lambda weighs psnr against distance, it has only {', '.join(run.evaluation.weights)}"
    return "frames of one class only" if run.auc is None and number not in OWN_PAGES else ""


def draw(number: int, runs: Sequence[Run], args: argparse.Namespace) -> list[Figure]:
    """Draw the pages of a figure."""
    groups = {group: [run for run in runs if run.group == group] for group in dict.fromkeys(run.group for run in runs)}
    named = {f"{run.name} ({run.group})" if len(groups) > 1 else run.name: run for run in runs}
    if number == 5:
        shown = [(video, x) for video, x in zip(runs[0].evaluation.videos, runs[0].normality)
                 if not args.videos or video.name in args.videos]
        return figures.curve_pages(*zip(*shown))
    if number == 6:
        return figures.draw_maps(load_maps(runs[0].folder / "maps.npz"))
    if number == 7:
        return [figures.gap_figure({group: {run.name: run.results["gap"] for run in members}
                                    for group, members in groups.items()})]
    if number == 9:
        columns, gammas = ("gamma", "auc", "memory_updates", "frames"), {}
        for name, run in named.items():
            table = read_table(run.folder / "sweep_gamma.csv", columns)
            rows = [dict(zip(columns, row)) for row in zip(*(table[column] for column in columns))]
            gammas[name] = rows, run.results.get("config", {}).get("score", {}).get("gamma")
        return [figures.sweep_figure("gamma", gammas)]
    if number == 10:
        return [figures.sweep_figure("lambda", {
            name: ([{"lambda": k / 50, "auc": auc_at(run, k / 50)} for k in range(51)], run.evaluation.weights["psnr"])
            for name, run in named.items()})]
    panels = {group: variants(members, args.names) if number == 8 else {run.name: [run] for run in members}
              for group, members in groups.items()}
    lines = {group: {entry(*one): [roc(run.labels, run.normality) for run in one[1]] for one in alike.items()}
             for group, alike in panels.items() if alike}
    return [figures.roc_figure(lines)] if lines else []


def entry(name: str, runs: Sequence[Run]) -> str:
    """Make a line of a legend: the AUC of a run with its interval, or the mean AUC of several."""
    areas, interval = [run.auc for run in runs], runs[0].results["interval"]
    text = f"{name}: {percent(float(np.mean(areas)), 1)} %"
    if len(runs) > 1:
        text += f" (mean of {len(runs)} runs, {percent(min(areas), 1)} to {percent(max(areas), 1)})"
    elif interval and math.isclose(areas[0], runs[0].results["auc"]):            # else it is of a macro average, say
        text += f" ({percent(interval[0], 1)} to {percent(interval[1], 1)})"
    return text


def variants(runs: Sequence[Run], keep_names: bool) -> dict[str, list[Run]]:
    """Group runs by the knobs of model and loss in which they differ; {} where they differ in none."""
    settings = {run.name: flatten({part: run.results["config"][part] for part in ("model", "loss")})
                for run in runs if "config" in run.results}
    differ = [knob for knob in next(iter(settings.values()), {})
              if len({json.dumps(knobs.get(knob)) for knobs in settings.values()}) > 1]
    alike: dict[str, list[Run]] = {}
    for run in (run for run in runs if run.name in settings):
        says = ", ".join(f"{knob.partition('.')[2]} {json.dumps(settings[run.name].get(knob))}" for knob in differ)
        alike.setdefault(run.name if keep_names else says.replace('"', ""), []).append(run)
    return alike if differ else {}


def auc_at(run: Run, psnr_weight: float) -> float | None:
    """Measure a run's scores with another lambda."""
    (videos, weights, training, _), protocol = run.evaluation, Protocol.configured(run.results["scoring"])
    weights = paper_weights(psnr_weight, len(weights) - 1)
    return auc(run.labels, normality_under(protocol, videos, weights, training), protocol.average)


if __name__ == "__main__":
    run_command(main)
