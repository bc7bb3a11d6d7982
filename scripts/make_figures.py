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
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lgn_net.config import flatten
from lgn_net.errors import UserError
from lgn_net.files import check_writable
from lgn_net.report.curves import PRINT, curve_pages
from lgn_net.report.figures import Entry, draw_maps, gamma_figure, gap_figure, lambda_figure, roc_figure, save_figure
from lgn_net.report.tables import percent
from lgn_net.scores.evaluation import Evaluation, read_folder
from lgn_net.scores.metrics import auc, roc
from lgn_net.scores.protocols import Protocol, normality_under, paper_weights
from lgn_net.scores.score_file import VideoScores, read_table
from lgn_net.terminal import progress, run_command

ONE_CLASS = "frames of one class only"
LAMBDAS = [k / 50 for k in range(51)]
HARMLESS = ("seed", "data.workers", "data.cache", "train.log_every", "score.batch_size", "score.calibration")
Drawn = Iterator[tuple[str, Figure | str]]       # name of the file without its ending; the figure, or why there is none


class Run(NamedTuple):
    """An evaluation under the name that the figures give it."""

    name: str
    evaluation: Evaluation
    normality: list[np.ndarray]        # (n_v,) of each video, as it was measured
    videos: list[VideoScores]
    group: str                         # data set and labels: only within a group can runs be compared

    @property
    def labels(self) -> list[np.ndarray]:
        """(n_v,) of each video."""
        return [video.labels for video in self.videos]

    @property
    def results(self) -> dict:
        """The content of results.json."""
        return self.evaluation.about

    @property
    def folder(self) -> Path:
        """Of the evaluation."""
        return Path(self.results["folder"])

    @property
    def config(self) -> dict:
        """The configuration; {} where only scores were there."""
        return self.results.get("config") or {}

    @property
    def both_classes(self) -> bool:
        """Whether there is a ROC curve."""
        return auc(self.labels, self.normality) is not None


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of an evaluation, or of a run with one in it")
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="FOLDER", help="default: figures")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the runs; default: their folders'")
    parser.add_argument("--figures", nargs="+", type=int, choices=DRAW, metavar="N", default=list(DRAW),
                        help="which; default: all, 4 to 10")
    parser.add_argument("--videos", nargs="+", metavar="VIDEO", help="which videos figure 5 shows; default: all")
    args = parser.parse_args(argv)
    runs = open_runs(args.runs, args.names)
    if args.videos:
        known = {video.name for run in runs for video in run.videos}
        if unknown := [name for name in args.videos if name not in known]:
            raise UserError(f"--videos {' '.join(unknown)}: no such video; there are {', '.join(sorted(known))}")

    drawn = [one for number in dict.fromkeys(args.figures) for one in DRAW[number](runs, args)]  # then they are written
    check_writable(args.out)
    lines = []
    with progress("write", len(drawn), "figures") as bar:
        for stem, content in drawn:
            if isinstance(content, str):
                partly = any(other.startswith(stem) and isinstance(figure, Figure) for other, figure in drawn)
                lines.append(("without" if partly else "skipped", stem, content))
            else:
                png, pdf = save_figure(content, args.out / stem)
                lines.append(("written", stem, f"{png}, {pdf.suffix}"))
            bar.update()
    widths = [max(len(line[k]) for line in lines) for k in (0, 1)]
    for state, stem, rest in lines:
        print(printable(f"{state:<{widths[0]}}  {stem:<{widths[1]}}  {rest}"))
    return 0 if any(state == "written" for state, *_ in lines) else 1


def open_runs(folders: Sequence[str], names: Sequence[str] | None) -> list[Run]:
    """The evaluations in the folders. UserError for a folder without one, one given twice, names that do not fit."""
    if names and (len(names) != len(folders) or len(set(names)) < len(names)):
        raise UserError(f"--names {' '.join(names)}: give {len(folders)} different ones, one for each run")
    found = [read_folder(folder) for folder in folders]
    paths = [Path(evaluation.about["folder"]).resolve() for evaluation in found]
    if twice := [folder for folder, path in zip(folders, paths) if paths.count(path) > 1]:
        raise UserError(f"{' and '.join(twice)} are the same evaluation; give it once")
    if not names:
        inside = [path.name.startswith("evaluation") for path in paths]
        short = [path.parent.name if it else path.name for path, it in zip(paths, inside)]
        longer = [f"{path.parent.name}/{path.name}" for path in paths]
        names = next(some for some in (short, longer, list(map(str, paths))) if len(set(some)) == len(some))
    sources = {evaluation.about.get("dataset"): set() for evaluation in found}
    for evaluation in found:
        sources[evaluation.about.get("dataset")].add(evaluation.about.get("label_source"))
    runs = []
    for name, evaluation in zip(names, found):
        dataset, source = evaluation.about.get("dataset"), evaluation.about.get("label_source")
        group = (dataset or "scores") + (f", labels: {source or 'own'}" if len(sources[dataset]) > 1 else "")
        videos = evaluation.videos
        measured = [video.signals.get("normality") for video in videos]
        if any(x is None or not np.isfinite(x).all() for x in measured):
            measured = normality_under(protocol_of(evaluation), videos, evaluation.weights, evaluation.training)
        runs.append(Run(printable(name), evaluation, measured, videos, group))
    return runs


def protocol_of(evaluation: Evaluation) -> Protocol:
    """The protocol under which the evaluation was measured; the paper's where its results.json does not say."""
    return Protocol.configured(evaluation.about.get("scoring", {}))


# ---------------------------------------------------------------------------------------------------------- the figures

def fig4(runs: Sequence[Run], _: argparse.Namespace) -> Drawn:
    panels, intervals = {}, False
    for run in runs:
        if not run.both_classes:
            yield "fig4_roc", f"{run.name}: {ONE_CLASS}"
            continue
        area, interval = auc(run.labels, run.normality), run.results.get("interval")
        text = f"{run.name}: {percent(area, 1)} %"
        if interval and math.isclose(area, run.results.get("auc") or 0):               # not that of a macro average
            text, intervals = f"{text} ({percent(interval[0], 1)} to {percent(interval[1], 1)})", True
        panels.setdefault(run.group, []).append(Entry(text, [roc(run.labels, run.normality)]))
    if panels:
        yield "fig4_roc", roc_figure(panels, "AUC (95 % interval)" if intervals else "AUC")


def fig5(runs: Sequence[Run], args: argparse.Namespace) -> Drawn:
    for run in runs:
        stem = stem_of("fig5_curves", run, runs)
        names = [video.name for video in run.videos]
        shown = [names.index(name) for name in args.videos if name in names] if args.videos else range(len(names))
        if not shown:
            yield stem, f"{run.name} has none of the videos {', '.join(args.videos)}"
            continue
        pages = curve_pages([printable(names[v]) for v in shown], [run.videos[v].frames for v in shown],
                            [run.normality[v] for v in shown], [run.labels[v] for v in shown], widths=PRINT)
        yield from number_pages(stem, pages)


def fig6(runs: Sequence[Run], _: argparse.Namespace) -> Drawn:
    yield from without("fig6_errors", runs, "maps.npz", "evaluate.py --checkpoint")
    for run in runs:
        path = run.folder / "maps.npz"
        if path.is_file():
            from lgn_net.inference.localize import load_maps

            if maps := [one._replace(video=printable(one.video)) for one in load_maps(path)]:
                yield from number_pages(stem_of("fig6_errors", run, runs), draw_maps(maps))
            else:
                yield "fig6_errors", f"{run.name}: {path} holds no frame"


def fig7(runs: Sequence[Run], _: argparse.Namespace) -> Drawn:
    groups = {}
    for run in runs:
        if run.results.get("gap") is None:
            yield "fig7_gap", f"{run.name}: {ONE_CLASS}"
        else:
            groups.setdefault(run.group, {})[run.name] = run.results["gap"]
    if groups:
        yield "fig7_gap", gap_figure(groups)


def fig8(runs: Sequence[Run], args: argparse.Namespace) -> Drawn:
    panels = {}
    for group in dict.fromkeys(run.group for run in runs):
        members = [run for run in runs if run.group == group and run.config and run.both_classes]
        knobs = differing([run.config for run in members])
        mine = [knob for knob in knobs if knob.startswith(("model.", "loss."))]
        if not mine:
            continue
        if others := [knob for knob in knobs if knob not in (*mine, *HARMLESS)]:
            warnings.warn(f"fig8_variants: the runs of {group} differ in {', '.join(others)}, too (not in its legend)")
        variants = {}                                                            # several seeds of one are drawn alike
        for run in members:
            settings = flatten(run.config)
            says = ", ".join(f"{knob.partition('.')[2]} {plain(settings.get(knob))}" for knob in mine)
            variants.setdefault(run.name if args.names else says, []).append(run)
        panels[group] = []
        for name, same in variants.items():
            areas = [auc(run.labels, run.normality) for run in same]
            text = f"{name}: {percent(float(np.mean(areas)), 1)} %"
            if len(same) > 1:
                text += f" (mean of {len(same)} runs, {percent(min(areas), 1)} to {percent(max(areas), 1)})"
            panels[group].append(Entry(text, [roc(run.labels, run.normality) for run in same]))
    yield "fig8_variants", (roc_figure(panels, "AUC") if panels else
                            "no two runs of one data set differ in model or loss")


def fig9(runs: Sequence[Run], _: argparse.Namespace) -> Drawn:
    yield from without("fig9_gamma", runs, "sweep_gamma.csv", "scripts/sweep.py gamma")
    sweeps, used, columns = {}, {}, ("gamma", "auc", "memory_updates", "frames")
    for run, name in zip(runs, full_names(runs)):
        if (path := run.folder / "sweep_gamma.csv").is_file():
            table = read_table(path, columns)
            rows = [dict(zip(columns, row)) for row in zip(*map(table.numbers, columns))]
            if not np.isfinite([row["auc"] for row in rows]).any():
                yield "fig9_gamma", f"{run.name}: {ONE_CLASS}"
                continue
            sweeps[name], used[name] = rows, run.config.get("score", {}).get("gamma")
    if sweeps:
        yield "fig9_gamma", gamma_figure(sweeps, used)


def fig10(runs: Sequence[Run], _: argparse.Namespace) -> Drawn:
    sweeps, used = {}, {}
    for run, name in zip(runs, full_names(runs)):
        weights, protocol = run.evaluation.weights, protocol_of(run.evaluation)
        if "psnr" not in weights or len(weights) == 1:
            yield "fig10_lambda", f"{run.name}: lambda weighs psnr against distance, it has only {', '.join(weights)}"
        elif not run.both_classes:
            yield "fig10_lambda", f"{run.name}: {ONE_CLASS}"
        else:
            sweeps[name] = []
            for value in LAMBDAS:
                normal = normality_under(protocol, run.videos, paper_weights(value, len(weights) - 1),
                                         run.evaluation.training)
                sweeps[name].append({"lambda": value, "auc": auc(run.labels, normal, protocol.average)})
            used[name] = weights["psnr"]
    if sweeps:
        yield "fig10_lambda", lambda_figure(sweeps, used)


def without(stem: str, runs: Sequence[Run], file: str, command: str) -> Drawn:
    """A sentence for the runs in whose evaluation a file is missing."""
    if missing := [run.name for run in runs if not (run.folder / file).is_file()]:
        yield stem, f"{', '.join(missing)}: no {file} in the evaluation; {command} writes it"


DRAW = {4: fig4, 5: fig5, 6: fig6, 7: fig7, 8: fig8, 9: fig9, 10: fig10}


# ---------------------------------------------------------------------------------------------------------------- names

def differing(configs: Sequence[Mapping]) -> list[str]:
    """The knobs, such as "model.read_grad", that are not the same in all configurations."""
    settings = [flatten(config) for config in configs]
    return [knob for knob in dict.fromkeys(key for one in settings for key in one)
            if any(one.get(knob) != settings[0].get(knob) for one in settings)]


def plain(value: object) -> str:
    """A knob's value as it is written on the command line."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def full_names(runs: Sequence[Run]) -> list[str]:
    """The runs' names, with their data set where there are several."""
    return [run.name + (f" ({run.group})" if len({one.group for one in runs}) > 1 else "") for run in runs]


def stem_of(stem: str, run: Run, runs: Sequence[Run]) -> str:
    """The file's name with the run's, where there are several; what LaTeX or a shell would stumble over becomes _."""
    words = [re.sub(r"[^\w.-]+", "_", one.name) for one in runs]
    if len(runs) == 1:
        return stem
    k = runs.index(run)
    return f"{stem}_{words[k]}" if words.count(words[k]) == 1 else f"{stem}_{words[k]}_{k + 1}"


def number_pages(stem: str, pages: Sequence[Figure]) -> Drawn:
    """The pages of a figure; numbered where there are several."""
    for number, page in enumerate(pages, 1):
        yield f"{stem}_{number}" if len(pages) > 1 else stem, page


def printable(text: str) -> str:
    """Names of folders may be no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


if __name__ == "__main__":
    run_command(main)
