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
import itertools
import math
import re
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lgn_net.config import flatten
from lgn_net.errors import UserError
from lgn_net.files import check_writable
from lgn_net.report import figures
from lgn_net.report.tables import percent
from lgn_net.scores.evaluation import Evaluation, read_folder
from lgn_net.scores.maps import load_maps
from lgn_net.scores.metrics import auc, roc
from lgn_net.scores.protocols import Protocol, normality_under, paper_weights
from lgn_net.scores.score_file import VideoScores, read_table
from lgn_net.terminal import progress, run_command

LAMBDAS = [k / 50 for k in range(51)]
# Knobs that need no word when runs differ in them.
HARMLESS = ("seed", "data.workers", "data.cache", "train.log_every", "score.batch_size", "score.calibration")
# What a figure's function yields: the file's name without its ending, and the figure or why a run is not in it.
Drawn = Generator[tuple[str, Figure | str]]


class Run(NamedTuple):
    """An evaluation under the name that the figures give it."""

    name: str
    group: str                         # data set and labels: only within a group can runs be compared
    folder: Path
    config: dict                       # the configuration; {} where only scores were there
    protocol: Protocol                 # under which it was measured
    weights: Mapping[str, float]       # of the signals
    videos: list[VideoScores]
    training: list[VideoScores]        # scores of training frames; may be empty
    normality: list[np.ndarray]        # (n_v,) of each video, as it was measured
    auc: float | None                  # over all frames; None when a class is missing
    interval: tuple[float, float] | None     # 95 %, of this AUC
    gap: float | None

    @property
    def labels(self) -> list[np.ndarray]:
        """Return the labels (n_v,) of each video."""
        return [video.labels for video in self.videos]


def main(argv: list[str]) -> int:
    """Draw the figures that the command line asks for, write them, and list what was written and what was not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of an evaluation, or of a run with one in it")
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="FOLDER", help="default: figures")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the runs; default: their folders'")
    parser.add_argument("--figures", nargs="+", type=int, choices=DRAW, metavar="N", default=list(DRAW),
                        help="which; default: all, 4 to 10")
    parser.add_argument("--videos", nargs="+", metavar="VIDEO", help="which videos figure 5 shows; default: all")
    args = parser.parse_args(argv)
    runs = open_runs(args.runs, args.names)
    known = {video.name for run in runs for video in run.videos}
    if unknown := [name for name in args.videos or () if name not in known]:
        raise UserError(f"--videos {' '.join(unknown)}: no such video; there are {', '.join(sorted(known))}")

    # Nothing is written before everything is drawn.
    drawn = [one for number in dict.fromkeys(args.figures) for one in DRAW[number](runs, args)]
    check_writable(args.out)
    complete = {stem for stem, content in drawn if not isinstance(content, str)}
    lines = []
    with progress("write", len(drawn), "figures") as bar:
        for stem, content in drawn:
            if isinstance(content, str):
                partly = any(other.startswith(stem) for other in complete)
                lines.append(("without" if partly else "skipped", stem, content))
            else:
                png, pdf = figures.save_figure(content, args.out / stem)
                lines.append(("written", stem, f"{png}, {pdf.suffix}"))
            bar.update()
    width = max(len(stem) for _, stem, _ in lines)
    print("\n".join(f"{state}  {stem:<{width}}  {rest}" for state, stem, rest in lines))
    return 0 if complete else 1


# ------------------------------------------------------------------------------------------------------------- the runs

def open_runs(folders: Sequence[str], names: Sequence[str] | None) -> list[Run]:
    """Read the evaluations. Raise UserError for a folder without one, one given twice, names that do not fit."""
    if names and (len(names) != len(folders) or len(set(names)) < len(names)):
        raise UserError(f"--names {' '.join(names)}: give {len(folders)} different ones, one for each run")
    found = [read_folder(folder) for folder in folders]
    paths = [Path(evaluation.about["folder"]).resolve() for evaluation in found]
    if twice := [folder for folder, path in zip(folders, paths) if paths.count(path) > 1]:
        raise UserError(f"{' and '.join(twice)} are the same evaluation; give it once")
    kinds = {(evaluation.about.get("dataset"), evaluation.about.get("label_source")) for evaluation in found}
    datasets = [dataset for dataset, _ in kinds]
    return [make_run(name, evaluation, datasets.count(evaluation.about.get("dataset")) > 1)
            for name, evaluation in zip(names or short_names(paths), found)]


def make_run(name: str, evaluation: Evaluation, several_labels: bool) -> Run:
    """Collect what the figures show of an evaluation; `several_labels`: others have other labels of its data set."""
    videos, results = evaluation.videos, evaluation.about
    group = (results.get("dataset") or "scores") + (
        f", labels: {results.get('label_source') or 'own'}" if several_labels else "")
    protocol = Protocol.configured(results.get("scoring", {}))
    normality = [video.signals.get("normality", np.array(np.nan)) for video in videos]
    if not all(np.isfinite(x).all() for x in normality):
        normality = normality_under(protocol, videos, evaluation.weights, evaluation.training)
    area, interval = auc([video.labels for video in videos], normality), results.get("interval")
    if area is None or not math.isclose(area, results.get("auc") or 0):
        interval = None                                                           # that of a macro average, say
    return Run(name, group, Path(results["folder"]), results.get("config") or {}, protocol, evaluation.weights, videos,
               evaluation.training, normality, area, interval, results.get("gap"))


def short_names(paths: Sequence[Path]) -> list[str]:
    """Name folders by the shortest part that tells them apart, where possible without the evaluation's folder."""
    parts = [[part for part in path.parts if not part.startswith("evaluation")] for path in paths]
    if len(set(map(tuple, parts))) < len(paths):
        parts = [list(path.parts) for path in paths]
    while len(parts) > 1 and len({one[-1] for one in parts}) == 1:
        parts = [one[:-1] for one in parts]
    count = next(k for k in itertools.count(1) if len({tuple(one[-k:]) for one in parts}) == len(parts))
    return ["/".join(one[-count:]) for one in parts]


# ---------------------------------------------------------------------------------------------------------- the figures

def usable(stem: str, runs: Sequence[Run], obstacle: Callable[[Run], str | None]
           ) -> Generator[tuple[str, str], None, list[Run]]:
    """Yield what keeps runs out of a figure; return the others."""
    for run in runs:
        if why := obstacle(run):
            yield stem, f"{run.name}: {why}"
    return [run for run in runs if not obstacle(run)]


def one_class(run: Run) -> str | None:
    """Say that a run has no AUC, where it has none."""
    return "frames of one class only" if run.auc is None else None


def missing(run: Run, file: str, command: str) -> str | None:
    """Say that a run's evaluation lacks a file, where it does."""
    return None if (run.folder / file).is_file() else f"no {file} in the evaluation; {command} writes it"


def by_group(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Collect the runs that can be compared."""
    return {group: [run for run in runs if run.group == group] for group in dict.fromkeys(run.group for run in runs)}


def entry(name: str, runs: Sequence[Run]) -> figures.Entry:
    """Make a line of a legend: the AUC of a run with its interval, or the mean AUC of several with its range."""
    areas = [run.auc for run in runs if run.auc is not None]
    text = f"{name}: {percent(float(np.mean(areas)), 1)} %"
    if len(runs) > 1:
        text += f" (mean of {len(runs)} runs, {percent(min(areas), 1)} to {percent(max(areas), 1)})"
    elif runs[0].interval:
        text += " ({} to {})".format(*(percent(end, 1) for end in runs[0].interval))
    return figures.Entry(text, [curve for run in runs if (curve := roc(run.labels, run.normality))])


def fig4(runs: Sequence[Run], _: argparse.Namespace) -> Drawn:
    """Draw the ROC curves."""
    runs = yield from usable("fig4_roc", runs, one_class)
    if runs:
        yield "fig4_roc", figures.roc_figure({group: [entry(run.name, [run]) for run in members]
                                              for group, members in by_group(runs).items()}, "AUC (95 % interval)")


def fig5(runs: Sequence[Run], args: argparse.Namespace) -> Drawn:
    """Draw the normality of every video."""
    for run in runs:
        panels = [(video.name, video.frames, normality, video.labels) for video, normality in
                  zip(run.videos, run.normality) if not args.videos or video.name in args.videos]
        if panels:
            yield from number_pages("fig5_curves", run, runs, figures.curve_pages(panels, widths=figures.PRINT))
        else:
            yield "fig5_curves", f"{run.name} has none of the videos {', '.join(args.videos)}"


def fig6(runs: Sequence[Run], _: argparse.Namespace) -> Drawn:
    """Draw the error maps."""
    chosen = yield from usable("fig6_errors", runs, lambda run: missing(run, "maps.npz", "evaluate.py --checkpoint"))
    for run in chosen:
        if maps := load_maps(run.folder / "maps.npz"):
            yield from number_pages("fig6_errors", run, runs, figures.draw_maps(maps))
        else:
            yield "fig6_errors", f"{run.name}: maps.npz holds no frame"


def fig7(runs: Sequence[Run], _: argparse.Namespace) -> Drawn:
    """Draw the gap scores."""
    runs = yield from usable("fig7_gap", runs, one_class)
    if runs:
        yield "fig7_gap", figures.gap_figure({group: {run.name: run.gap or 0.0 for run in members}
                                              for group, members in by_group(runs).items()})


def fig8(runs: Sequence[Run], args: argparse.Namespace) -> Drawn:
    """Draw the ROC curves of variants; several seeds of one variant are drawn alike."""
    panels = {}
    for group, members in by_group([run for run in runs if run.config and not one_class(run)]).items():
        settings = [flatten(run.config) for run in members]
        differ = [knob for knob in dict.fromkeys(itertools.chain(*settings))
                  if any(one.get(knob) != settings[0].get(knob) for one in settings)]
        named = [knob for knob in differ if knob.startswith(("model.", "loss."))]
        others = [knob for knob in differ if knob not in (*named, *HARMLESS)]
        variants: dict[str, list[Run]] = {}
        for run, values in zip(members, settings):
            says = ", ".join(f"{knob.partition('.')[2]} {plain(values.get(knob))}" for knob in named)
            variants.setdefault(run.name if args.names else says, []).append(run)
        if named:
            panels[group] = [entry(name, same) for name, same in variants.items()]
        if named and others:
            warnings.warn(f"fig8_variants: the runs of {group} differ in {', '.join(others)}, too (not in its legend)")
    yield "fig8_variants", (figures.roc_figure(panels, "AUC (95 % interval)") if panels else
                            "no two runs of one data set differ in model or loss")


def fig9(runs: Sequence[Run], _: argparse.Namespace) -> Drawn:
    """Draw the AUC and the memory updates over gamma."""
    file, columns, sweeps = "sweep_gamma.csv", ("gamma", "auc", "memory_updates", "frames"), {}
    chosen = yield from usable("fig9_gamma", runs,
                               lambda run: missing(run, file, "scripts/sweep.py gamma") or one_class(run))
    for run in chosen:
        table = read_table(run.folder / file, columns)
        sweeps[full_name(run, runs)] = [dict(zip(columns, row)) for row in zip(*map(table.numbers, columns))]
    if chosen:
        used = {full_name(run, runs): run.config.get("score", {}).get("gamma") for run in chosen}
        yield "fig9_gamma", figures.gamma_figure(sweeps, used)


def fig10(runs: Sequence[Run], _: argparse.Namespace) -> Drawn:
    """Draw the AUC over lambda."""
    def obstacle(run: Run) -> str | None:
        if "psnr" in run.weights and len(run.weights) > 1:
            return one_class(run)
        return f"lambda weighs psnr against distance, it has only {', '.join(run.weights)}"

    def area(run: Run, value: float) -> float | None:
        weights = paper_weights(value, len(run.weights) - 1)
        return auc(run.labels, normality_under(run.protocol, run.videos, weights, run.training), run.protocol.average)

    chosen = yield from usable("fig10_lambda", runs, obstacle)
    if chosen:
        yield "fig10_lambda", figures.lambda_figure(
            {full_name(run, runs): [{"lambda": value, "auc": area(run, value)} for value in LAMBDAS] for run in chosen},
            {full_name(run, runs): run.weights["psnr"] for run in chosen})


DRAW = {4: fig4, 5: fig5, 6: fig6, 7: fig7, 8: fig8, 9: fig9, 10: fig10}


def number_pages(stem: str, run: Run, runs: Sequence[Run], pages: Sequence[Figure]) -> Drawn:
    """Name the pages of a run's figure: by the run where there are several, numbered where there are several pages."""
    if len(runs) > 1:
        stem += "_" + re.sub(r"[^\w.-]+", "_", run.name)                  # LaTeX and shells stumble over the rest
    for number, page in enumerate(pages, 1):
        yield f"{stem}_{number}" if len(pages) > 1 else stem, page


def full_name(run: Run, runs: Sequence[Run]) -> str:
    """Return the run's name, with its data set where there are several."""
    return f"{run.name} ({run.group})" if len({one.group for one in runs}) > 1 else run.name


def plain(value: object) -> str:
    """Write a knob's value as on the command line."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_command(main)
