"""Measure files of scores, ours or another program's: AUC under every protocol, comparison, report. No network.

    python scripts/measure.py scores.csv [--lambda 0.5] [--compare OTHER.csv] [--out FOLDER]
    python scripts/measure.py scores.csv --label_source official
    python scripts/measure.py THEIRS.npy --direction abnormal --drop-first 4 --dataset_type ped2

Nothing is written without --out. The knobs start from the results.json beside the file; data.label_source and those of
score (lambda, normalize, smoothing, average) can be chosen anew, the others are the network's.
"""

from lgn_net.cli import command_parser, measuring_arguments, show_help

PARSER = command_parser(__doc__, "measure.py --scores FILE", needs_data=False)
PARSER.add_argument("--scores", required=True, help="A scores.csv, or with --direction another program's scores (.npy, "
                                                    ".csv, .txt, or a folder with such a file per video).")
measuring_arguments(PARSER)
PARSER.add_argument("--out", help="Folder for the results; nothing is written unless it is given.")
show_help(__name__, PARSER, "data", "score")     # before slow imports

from dataclasses import asdict
from pathlib import Path

from lgn_net.cli import config_from_dict, given, parse_command, separate
from lgn_net.config import flatten
from lgn_net.errors import UserError
from lgn_net.report.outcome import finish
from lgn_net.scores.evaluation import read_any, results_beside, score_file
from lgn_net.scores.maps import judge_again, load_maps
from lgn_net.scores.protocols import SCORING, Protocol, normality_under
from lgn_net.terminal import run_command


def main(argv: list[str]) -> None:
    """Run the command."""
    # The command line, on top of the knobs of the evaluation that left the scores.
    argv = separate(argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--scores", *argv]
    named = dict(zip(argv, argv[1:])).get("--scores")
    scores = score_file(named) if named else Path()
    beside = results_beside(scores) if named else {}
    of_network = flatten(asdict(config_from_dict(beside["config"]))) if "config" in beside else {}
    of_scoring = {f"score.{knob}": value for knob, value in beside.get("scoring", {}).items()}
    config_from_dict(of_network | of_scoring)                               # refuses what is no knob or no value of it
    config, args = parse_command(PARSER, argv, of_network | of_scoring)
    for knob, value in flatten(asdict(config)).items():
        free = {"data.label_source", *(f"score.{name}" for name in SCORING)}
        if of_network.get(knob, value) != value and knob not in free:
            raise UserError(f"{knob} was {of_network[knob]} when the network ran, and {scores} cannot tell what "
                            f"{value} would give; choose lambda, {', '.join(SCORING[1:])} and labels")

    # The scores with their labels, and those to compare with. A second file of ours keeps its own lambda.
    dataset = config.data.dataset if given(argv, "--data.dataset") else None
    own_lambda = not given(argv, "--score.psnr_weight")
    evaluation = read_any(scores, config, args, dataset)
    other = read_any(args.compare, config, args, dataset, own_lambda, evaluation.videos) if args.compare else None

    # Normality, numbers, files; the error maps beside the scores follow their frames' new normality.
    normal = normality_under(Protocol.configured(asdict(config.score)), *evaluation[:3])
    maps, out = scores.with_name("maps.npz"), Path(args.out) if args.out else None
    drawn = judge_again(load_maps(maps), evaluation.videos, normal) if out and maps.is_file() else []
    finish(evaluation, normal, config, args, other, out, drawn)


if __name__ == "__main__":
    run_command(main)
