"""Score the frames of test videos and measure the frame-level AUC, under every protocol.

    python evaluate.py --checkpoint RUN/last.pt --dataset_path DATA
    python evaluate.py --dataset_type ped2 --dataset_path DATA --model_dir MODEL.pth --m_items_dir KEYS.pt
    python evaluate.py --scores scores.csv [--lambda 0.5] [--compare OTHER.csv] [--out FOLDER]
    python evaluate.py --scores THEIRS.npy --direction abnormal --drop-first 4 --dataset_type ped2

With a network: writes scores.csv (one line per scored frame), results.json, pictures and report.html. From a score file
alone: the same numbers in a second, written only with --out. Of the knobs below, those of data, model and score matter
here; loss and train are the training's.
"""

import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jsonargparse import Namespace

from lgn_net.cli import command_parser, parse_command
from lgn_net.config import Config, config_from_dict
from lgn_net.data.datasets import BENCHMARKS, canonical_name, difference_from_published
from lgn_net.data.labels import shipped_truths
from lgn_net.data.videos import find_split, index_videos
from lgn_net.errors import UserError
from lgn_net.files import check_writable, to_json, write_atomic
from lgn_net.report.curves import plot_curves
from lgn_net.report.tables import comparison, grid_table, padded_chance, percent, summary, video_table
from lgn_net.scoring.evaluation import Evaluation, LabelSource, read_evaluation, read_foreign_evaluation, results_beside
from lgn_net.scoring.foreign import parse_rule
from lgn_net.scoring.protocols import Protocol, compare, grid, measure, normality_under, paper_weights
from lgn_net.scoring.score_file import VideoScores, write_scores
from lgn_net.terminal import progress, run_command


def main(argv: list[str]) -> int:
    config, args = parse_arguments(argv)
    out = None
    if not args.scores or args.out:
        source = Path(args.checkpoint or args.model_dir or args.scores)
        out = Path(args.out or source.parent / f"evaluation_{source.stem}")
        check_writable(out)
    videos, weights, training, about = read_files(config, args) if args.scores else score(config, args)

    # From here on: a score file's content, wherever it came from.
    protocol = Protocol(config.score.normalize, config.score.smoothing, config.score.average)
    normal = normality_under(protocol, videos, weights, training)
    labels = [video.labels for video in videos]
    truths = shipped_truths([video.name for video in videos], [video.frames for video in videos], labels)
    source = ", ".join(name for name, truth in truths.items() if all(map(np.array_equal, truth, labels))) or None
    results = about | {"label_source": source, "protocol": describe(protocol, config, foreign="direction" in about),
                       "signals": weights, **count_updates(videos)} | measure(videos, weights, protocol, training)
    grids = {}
    if args.protocol == "all":
        grids[source] = grid(videos, weights, training)
        for other in (name for name in truths if name not in (source or "").split(", ")):         # Avenue's other truth
            relabelled = [video._replace(labels=truth) for video, truth in zip(videos, truths[other])]
            grids[other] = grid(relabelled, weights, training)
    results["grid"] = [{"labels": name, **cell._asdict(), "auc": value} for name, values in grids.items()
                       for cell, value in values.items()]
    if args.compare:
        theirs, other_weights, other_training, _ = read_files(config, args, args.compare)
        results["compared"] = {"other": args.compare} | compare(videos, theirs, (weights, other_weights), protocol,
                                                                (training, other_training))

    if out:
        write_scores(out / "scores.csv", with_normality(videos, normal))
        if training:
            write_scores(out / "calibration.csv", training, labelled=False)
        write_atomic(out / "results.json", to_json(results))
        pictures = plot_curves([video.name for video in videos], [video.frames for video in videos], normal, labels,
                               f"{results['dataset'] or 'scores'}: normality", out)
    print(summary(results))
    for name, values in grids.items():
        print(f"\nAUC % under other protocols, labels: {name or results['labels']} (bold: the paper's)\n\n{grid_table(values)}")
    if grids:
        print(f"padded is biased: scores drawn at random reach {percent(padded_chance(labels), 1)} % there\n\n{video_table(results)}")
    if args.compare:
        print("\n" + comparison(results["compared"], args.compare))
    if out:
        print(f"\ncurves   {', '.join(map(str, pictures))}\nscores   {out / 'scores.csv'}\nresults  {out / 'results.json'}")
    if results["auc"] is None:
        raise UserError(f"the AUC is undefined: {results['abnormal_frames']} of {results['frames']} scored frames are abnormal, "
                        f"and it needs both classes" + (f"; the scores are in {out / 'scores.csv'}" if out else ""))
    return 0


def parse_arguments(argv: list[str]) -> tuple[Config, Namespace]:
    """The command line; UserError for arguments that do not go together."""
    parser = command_parser(__doc__, "evaluate.py (--checkpoint CKPT | --model_dir MODEL --m_items_dir KEYS) "
                                     "--dataset_path DATA\n       evaluate.py --scores FILE", needs_data=False)
    parser.add_argument("--checkpoint", help="Checkpoint written by train.py or scripts/import_official.py.")
    parser.add_argument("--model_dir", help="Instead of --checkpoint: the authors' <n>model.pth.")
    parser.add_argument("--m_items_dir", help="The authors' <n>keys.pt that belongs to --model_dir.")
    parser.add_argument("--scores", help="Instead of a network: its scores.csv, or with --direction another program's "
                                         "scores (.npy, .csv, .txt, or a folder with such a file per video).")
    parser.add_argument("--direction", choices=["normal", "abnormal"], help="What a high score of --scores means.")
    parser.add_argument("--drop-first", type=int, help="With --direction: the first K frames of each video have no score.")
    parser.add_argument("--crop", help="With --direction: the scores are of these frames of each video, such as 8:-7.")
    parser.add_argument("--compare", help="A second score file like --scores (or like the one written): the difference, "
                                          "with a paired bootstrap over the videos.")
    parser.add_argument("--labels", help="Label file (.npy, .mat, .m, .json, .csv) or folder of <video>.npy; default: "
                                         "beside the frames, or those that ship with the project.")
    parser.add_argument("--protocol", choices=["all", "paper"], default="all",
                        help="all: the AUC under every protocol, too; paper: the headline only.")
    parser.add_argument("--out", help="Folder for the results; default: evaluation_<name of the checkpoint>, beside it. "
                                      "With --scores nothing is written unless it is given.")
    config, args = parse_command(parser, argv)
    if sum(map(bool, (args.checkpoint, args.model_dir, args.scores))) != 1 or (args.m_items_dir and not args.model_dir):
        raise UserError("give --checkpoint CKPT, or the authors' pair --model_dir MODEL.pth --m_items_dir KEYS.pt, or "
                        "--scores FILE")
    if not args.scores and not args.dataset_path:
        raise UserError("--dataset_path is missing: the folder that holds the data set's folder, or that folder itself")
    if not args.direction and (args.drop_first is not None or args.crop):
        raise UserError("--drop-first and --crop say which frames another program's scores are of; add --direction "
                        "normal|abnormal")
    args.dataset_named = any(word.partition("=")[0] in ("--dataset_type", "--data.dataset") for word in argv)
    return config, args


def read_files(config: Config, args: Namespace, path: str | None = None) -> Evaluation:
    """The score file of the command line, or a second one of the same kind."""
    labels = LabelSource(config.data.dataset if args.dataset_named or args.dataset_path else None, args.dataset_path,
                         args.labels, config.data.label_source)
    path = path or args.scores
    if args.direction:
        return read_foreign_evaluation(path, args.direction, parse_rule(args.drop_first, args.crop), labels)
    if path == args.compare and (saved := results_beside(path).get("config")):
        config = config_from_dict(saved)
    return read_evaluation(path, config.score.psnr_weight, labels)


def score(config: Config, args: Namespace) -> Evaluation:
    """Run the network over the test videos, and over some training windows to know how it sees normal frames."""
    from lgn_net.checkpoint import check_architecture, load_checkpoint, load_weights      # torch: seconds to load
    from lgn_net.model.build import build_model
    from lgn_net.model.official import import_official
    from lgn_net.runs import pick_device, provenance
    from lgn_net.scoring.infer import score_videos, score_windows, to_scores

    source = args.checkpoint or args.model_dir
    if args.checkpoint:
        saved_config, saved = load_checkpoint(args.checkpoint)
        check_architecture(config, saved_config, args.checkpoint)
        if config.data.dataset != saved_config.data.dataset and config.score == saved_config.score:
            warnings.warn(f"the checkpoint is of {saved_config.data.dataset}, and so are lambda {config.score.psnr_weight:g} "
                          f"and gamma {config.score.gamma:g}; --config gives those of {config.data.dataset}")
        state = saved["model"]
    else:
        config, state = import_official(config, args.model_dir, args.m_items_dir)

    dataset = config.data.dataset
    folder = find_split(args.dataset_path, dataset, "testing")
    videos = index_videos(folder)
    lengths = [len(video.frames) for video in videos]
    if note := difference_from_published(dataset, "testing", lengths):
        warnings.warn(note)
    truth, where = LabelSource(dataset, args.dataset_path, args.labels, config.data.label_source).truth(videos)
    try:
        normal_videos = index_videos(find_split(args.dataset_path, dataset, "training")) if config.score.calibration else []
    except UserError:
        normal_videos = []                                                    # then there is no such normalisation
    device = pick_device(args.device)
    model = build_model(config).to(device)
    load_weights(model, state, source)
    n = config.model.input_frames
    windows = [sum(max(len(video.frames) - n, 0) for video in some) for some in (videos, normal_videos)]
    with progress("evaluate", windows[0] + min(windows[1], config.score.calibration), "frames") as bar:
        scored = to_scores(score_videos(model, videos, config, device, bar), videos, truth)
        training = to_scores(score_windows(model, normal_videos, config, config.score.calibration, device, bar),
                             normal_videos) if windows[1] else []
    return Evaluation(scored, paper_weights(config.score.psnr_weight), training, {
        "dataset": dataset, "labels": where,
        "complete_benchmark": note is None if canonical_name(dataset) in BENCHMARKS else None,
        "config": asdict(config), "checkpoint": str(source), "versions": provenance(device)})


def count_updates(videos: list[VideoScores]) -> dict[str, int]:
    """How many frames the memory learned from, where the scores are of a network with a memory."""
    flags = [video.signals["memory_updated"] for video in videos if "memory_updated" in video.signals]
    return {"memory_updates": int(sum(x.sum() for x in flags))} if flags else {}


def with_normality(videos: list[VideoScores], normal: list[np.ndarray]) -> list[VideoScores]:
    """The score file's rows with the normality beside the signals."""
    return [video._replace(signals=video.signals | {"normality": x}) for video, x in zip(videos, normal)]


def describe(protocol: Protocol, config: Config, foreign: bool) -> str:
    """What was measured, in a line."""
    if foreign:
        return f"{protocol}, another program's scores"
    knobs = config.score
    update = {"off": "no test-time memory update",
              "carry": f"memory updated below gamma {knobs.gamma:g}, carried across videos",
              "reset": f"memory updated below gamma {knobs.gamma:g}, reset before each video"}[knobs.memory_update]
    return (f"{protocol}, lambda {knobs.psnr_weight:g}, {update}, first {config.model.input_frames} frames of a video not "
            f"scored, PSNR peak: {knobs.psnr_peak}")


if __name__ == "__main__":
    run_command(main)
