"""Score the frames of test videos and measure the frame-level AUC, under every protocol.

    python evaluate.py --checkpoint RUN/last.pt --dataset_path DATA
    python evaluate.py --dataset_type ped2 --dataset_path DATA --model_dir MODEL.pth --m_items_dir KEYS.pt
    torchrun --nproc_per_node 4 evaluate.py ... --score.memory_update reset      # on several GPUs, docs/scale.md
    python evaluate.py --scores scores.csv [--lambda 0.5] [--compare OTHER.csv] [--out FOLDER]
    python evaluate.py --scores THEIRS.npy --direction abnormal --drop-first 4 --dataset_type ped2

With a network: writes scores.csv (one line per scored frame), results.json, pictures and report.html. From a score file
alone: the same numbers in a second, written only with --out. Of the knobs below, those of data, model and score matter
here; loss and train are the training's.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from jsonargparse import Namespace

from lgn_net.cli import command_parser, network_arguments, parse_command
from lgn_net.config import Config, flatten
from lgn_net.data.labels import shipped_truths
from lgn_net.data.videos import find_split, index_videos
from lgn_net.errors import UserError
from lgn_net.files import check_writable, to_json, write_atomic
from lgn_net.inference.localize import (
    Localization,
    choose_frames,
    find_masks,
    judge_again,
    load_maps,
    parse_frames,
    save_maps,
)
from lgn_net.report.curves import plot_curves
from lgn_net.report.page import write_report
from lgn_net.report.tables import comparison, grid_table, padded_chance, percent, summary, video_table
from lgn_net.scores.evaluation import (
    Evaluation,
    LabelSource,
    is_ours,
    read_evaluation,
    read_foreign_evaluation,
    results_beside,
)
from lgn_net.scores.foreign import parse_rule
from lgn_net.scores.protocols import SCORING, Protocol, compare, grid, measure, normality_under, paper_weights
from lgn_net.scores.score_file import VideoScores, write_scores
from lgn_net.terminal import progress, run_command


def main(argv: list[str]) -> int:
    config, args = parse_arguments(argv)
    out = None
    if not args.scores or args.out:
        source = Path(args.checkpoint or args.model_dir or args.scores)
        out = Path(args.out or source.parent / f"evaluation_{source.stem}")
        check_writable(out)
    other = read_files(config, args, args.compare) if args.compare else None
    scored = (read_files(config, args, args.scores), None) if args.scores else score(config, args, out)
    if not scored:
        return 0                                                             # the first process has all the scores
    (videos, weights, training, about), draw = scored

    # From here on: a score file's content, wherever it came from.
    protocol = Protocol.configured(asdict(config.score))
    normal = normality_under(protocol, videos, weights, training)
    if draw:                                                                 # whatever comes, hours of scoring are kept
        write_scores(out / "scores.csv", with_normality(videos, normal))
    names, frames = [video.name for video in videos], [video.frames for video in videos]
    labels = [video.labels for video in videos]
    truths = shipped_truths(names, frames, labels, about["dataset"])
    label_source = ", ".join(name for name, truth in truths.items() if all(map(np.array_equal, truth, labels))) or None
    results = about | {
        "label_source": label_source,
        "protocol": describe(protocol, config, weights, about),
        "signals": weights,
        "scoring": {knob: getattr(config.score, knob) for knob in SCORING},
        **count_updates(videos),
        **measure(videos, weights, protocol, training),
    }
    judged = {label_source: videos} if args.protocol == "all" else {}        # label sets with a grid
    for name in truths if judged else ():
        if name not in (label_source or "").split(", "):                     # Avenue's other truth
            judged[name] = [video._replace(labels=truth) for video, truth in zip(videos, truths[name])]
    grids = {name: grid(relabelled, weights, training) for name, relabelled in judged.items()}
    results["grid"] = [{"labels": name, **cell._asdict(), "auc": value} for name, values in grids.items()
                       for cell, value in values.items()]
    results["padded_chance"] = {name or "": padded_chance([video.labels for video in relabelled])
                                for name, relabelled in judged.items()}
    misfit = None
    if other:
        try:
            scored_by = ", ".join(f"{name} {abs(weight):g}" for name, weight in other.weights.items())
            results["compared"] = {"other": args.compare + f" ({scored_by})" * (weights != other.weights)} | compare(
                videos, other.videos, (weights, other.weights), protocol, (training, other.training))
        except UserError as error:
            if not draw:
                raise
            misfit = error                                                   # said when all else is written
    if out:
        if draw:
            maps = draw(normal, choose_frames(videos, normal, args.maps) + parse_frames(args.frames, videos))
        else:
            beside = Path(args.scores).with_name("maps.npz")
            maps = judge_again(load_maps(beside) if beside.is_file() else [], videos, normal)
        write_scores(out / "scores.csv", with_normality(videos, normal))
        if training:
            write_scores(out / "calibration.csv", training, labelled=False)
        save_maps(out / "maps.npz", maps)
        write_atomic(out / "results.json", to_json(results))
        plot_curves(names, frames, normal, labels, f"{results['dataset'] or 'scores'}: normality", out)
        write_report(out / "report.html", results, videos, normal, maps)
    print(summary(results))
    for name, values in grids.items():
        chance = percent(results["padded_chance"][name or ""], 1)
        print(f"\nAUC % under other protocols, labels: {name or results['labels']} (bold: the paper's)\n\n"
              f"{grid_table(values)}\npadded is biased: scores drawn at random reach {chance} % there")
    if grids:
        print(f"\n{video_table(results)}")
    if "compared" in results:
        print("\n" + comparison(results["compared"], results["compared"]["other"]))
    if out:
        print(f"\nscores   {out / 'scores.csv'}\nresults  {out / 'results.json'}\ncurves   {out / 'curves_1.png'}\n"
              f"report   {out / 'report.html'}")
    if misfit:
        raise misfit
    if results["auc"] is None:
        raise UserError(f"the AUC is undefined: {results['abnormal_frames']} of {results['frames']} scored frames are "
                        f"abnormal, and it needs both classes"
                        + (f"; the scores are in {out / 'scores.csv'}" if out else ""))
    return 0


def parse_arguments(argv: list[str]) -> tuple[Config, Namespace]:
    """The command line; UserError for arguments that do not go together."""
    parser = command_parser(__doc__, "evaluate.py (--checkpoint CKPT | --model_dir MODEL --m_items_dir KEYS) "
                                     "--dataset_path DATA\n       evaluate.py --scores FILE", needs_data=False)
    network_arguments(parser)
    parser.add_argument("--scores", help="Instead of a network: its scores.csv, or with --direction another program's "
                                         "scores (.npy, .csv, .txt, or a folder with such a file per video).")
    parser.add_argument("--direction", choices=["normal", "abnormal"], help="What a high score of --scores means.")
    parser.add_argument("--drop-first", type=int,
                        help="With --direction: the first K frames of each video have no score.")
    parser.add_argument("--crop", help="With --direction: the scores are of these frames of each video, such as 8:-7.")
    parser.add_argument("--compare", help="A second score file like --scores (or like the one written): the "
                                          "difference, with a paired bootstrap over the videos.")
    parser.add_argument("--protocol", choices=["all", "paper"], default="all",
                        help="all: the AUC under every protocol, too; paper: the headline only.")
    parser.add_argument("--out", help="Folder for the results; default: evaluation_<name of the checkpoint>, beside "
                                      "it. With --scores nothing is written unless it is given.")
    parser.add_argument("--maps", type=int, help="Error maps of so many misses and so many false alarms (default: 4).")
    parser.add_argument("--frames", nargs="+", default=[], help="Error maps of these frames as well, VIDEO:FRAME.")
    parser.add_argument("--localize", choices=["auto", "off"],
                        help="auto (default): where there are pixel masks, compare the prediction errors with them.")
    parser.add_argument("--quality", action="store_true", help="SSIM and LPIPS of the predictions, too.")
    config, args = parse_command(parser, argv)
    if sum(map(bool, (args.checkpoint, args.model_dir, args.scores))) != 1 or (args.m_items_dir and not args.model_dir):
        raise UserError("give --checkpoint CKPT, or the authors' pair --model_dir MODEL.pth --m_items_dir KEYS.pt, or "
                        "--scores FILE")
    if not args.scores and not args.dataset_path:
        raise UserError("--dataset_path is missing: the folder that holds the data set's folder, or that folder itself")
    if args.scores and (args.frames or args.quality or args.localize or args.maps is not None):
        raise UserError("--maps, --frames, --localize and --quality need the network: give --checkpoint in place of "
                        "--scores")
    if not args.direction and (args.drop_first is not None or args.crop):
        raise UserError("--drop-first and --crop say which frames another program's scores are of; add --direction "
                        "normal|abnormal")
    if args.direction and all(map(is_ours, filter(None, (args.scores, args.compare)))):
        ours = args.scores or args.compare or "what a network scores"
        raise UserError(f"--direction is for another program's scores; {ours} says itself what its signals mean")
    if args.maps is not None and args.maps < 0:
        raise UserError(f"--maps {args.maps}: give 0 or more")
    args.maps = 4 if args.maps is None else args.maps
    words = {word.partition("=")[0] for word in argv}
    args.dataset_named = bool(words & {"--dataset_type", "--data.dataset"})
    args.lambda_named = bool(words & {"--lambda", "--score.psnr_weight"})
    return config, args


def read_files(config: Config, args: Namespace, path: str) -> Evaluation:
    """A score file, ours or another program's; it may be the second one, whose own lambda counts unless one was given.

    UserError as in `read_evaluation` and `read_foreign_evaluation`; without --direction for another program's; and for
    a knob that differs from that of the network's run.
    """
    saved = results_beside(path)
    named = config.data.dataset if args.dataset_named else None
    labels = LabelSource(named or saved.get("dataset"), args.dataset_path, args.labels, config.data.label_source)
    if not is_ours(path):
        if not args.direction:
            raise UserError(f"{path} holds no scores of this project (a CSV file with the columns video, frame, psnr, "
                            f"distance, label); those of another program need --direction normal|abnormal")
        return read_foreign_evaluation(path, args.direction, parse_rule(args.drop_first, args.crop), labels)
    psnr_weight = config.score.psnr_weight
    if path != args.scores and not args.lambda_named:
        psnr_weight = saved.get("scoring", {}).get("psnr_weight", psnr_weight)
    if path == args.scores and "config" in saved:
        ours, then = flatten(asdict(config)), flatten(saved["config"])
        settled = [knob for knob, value in ours.items() if then.get(knob, value) != value
                   and knob not in ("data.label_source", *(f"score.{name}" for name in SCORING))]
        if settled:
            raise UserError(f"{settled[0]} was {then[settled[0]]} when the network ran, and {path} cannot tell what "
                            f"{ours[settled[0]]} would have given; with --scores, choose lambda, "
                            f"{', '.join(SCORING[1:])} and labels")
    return read_evaluation(path, psnr_weight, labels)


def score(config: Config, args: Namespace, out: Path) -> tuple[Evaluation, Callable] | None:
    """Run the network over the test videos, and over some training windows to know how it sees normal frames.

    Returns the scores, and a function (normality, wanted) -> list[FrameMap] that draws the error maps of chosen frames
    by the memory of their time, see `lgn_net.inference.loop.draw_maps`; of several processes the first one has them, the
    others None. UserError for what is missing or does not fit.
    """
    from lgn_net.device import pick_device
    from lgn_net.distributed import processes  # only now: torch takes seconds to load

    with processes(pick_device(args.device)) as device:
        return score_share(config, args, out, device)


def score_share(config: Config, args: Namespace, out: Path, device) -> tuple[Evaluation, Callable] | None:
    """`score`, by one of the processes, on its torch.device."""
    from lgn_net.distributed import collect, rank, world_size
    from lgn_net.inference.inputs import load_network, load_test_set
    from lgn_net.inference.chosen import draw_maps, sample_normal
    from lgn_net.inference.loop import score_videos, to_scores, videos_of_process
    from lgn_net.inference.quality import Quality, summarize

    config, model, origin = load_network(config, args, device)
    if world_size() > 1 and config.score.memory_update == "carry" and model.memories:
        raise UserError("score.memory_update is carry, which hands the memory from video to video, and so cannot be "
                        "shared out; start without torchrun, or give --score.memory_update reset (or frozen)")
    videos, truth, about = load_test_set(config, args)
    before = config.model.window - 1                                          # frames that have none before them to see
    parse_frames(args.frames, [VideoScores(video.name, np.arange(before, len(video.frames)), {}, np.array([]))
                               for video in videos])                          # now, not after hours
    try:
        normal_videos = index_videos(find_split(args.dataset_path, config.data.dataset, "training"))
    except UserError:
        normal_videos = []                                                    # then there is no such normalisation
    mask_folder = find_split(args.dataset_path, config.data.dataset, "testing").with_name("masks")
    masks = find_masks(mask_folder, videos) if args.localize != "off" else []
    localization = Localization(masks) if any(masks) else None
    quality = Quality() if args.quality else None
    watches = [watch for watch in (localization, quality) if watch]
    windows = sum(len(videos[v].frames) - before for v in videos_of_process(videos, config))
    extra = min(sum(max(len(video.frames) - before, 0) for video in normal_videos), config.score.calibration)
    if config.score.normalize == "training" and not extra:
        raise UserError("score.normalize is training, and there are no training frames beside the test frames, or "
                        "score.calibration is 0; choose another normalisation")
    sweeps = [f"sweep_{knob}.{kind}" for knob in ("gamma", "lambda") for kind in ("csv", "png", "pdf")]
    for name in ("calibration.csv", "maps.npz", "quality.csv", *sweeps):
        (out / name).unlink(missing_ok=True)                                  # of an earlier evaluation
    with progress("evaluate", windows + extra, "frames") as bar:
        signals = score_videos(model, videos, config, device, bar, watches)
        for watch in watches:
            watch.merge(collect(watch.kept))
        if rank():
            return None
        scored = to_scores(signals, videos, truth)
        calibration, memories = sample_normal(model, normal_videos, config, extra, device, bar) if extra else ([], [])
    if memories:
        about |= {"memories": memories}
    if localization:
        about |= {"localization": localization.results()}
    if quality:
        measured = quality.scores(videos, truth)
        write_scores(out / "quality.csv", measured, labelled=False)
        about |= {"quality": summarize(measured)}
    weights = paper_weights(config.score.psnr_weight, len(model.memories))
    return (Evaluation(scored, weights, to_scores(calibration, normal_videos), about | origin),
            lambda normal, wanted: draw_maps(model, videos, config, signals, scored, normal, wanted, device))


def count_updates(videos: list[VideoScores]) -> dict[str, int]:
    """How many frames the memory learned from, where the scores are of a network with a memory."""
    flags = [video.signals["memory_updated"] for video in videos if "memory_updated" in video.signals]
    return {"memory_updates": int(sum(x.sum() for x in flags))} if flags else {}


def with_normality(videos: list[VideoScores], normal: list[np.ndarray]) -> list[VideoScores]:
    """The score file's rows with the normality beside the signals."""
    return [video._replace(signals=video.signals | {"normality": x}) for video, x in zip(videos, normal)]


def describe(protocol: Protocol, config: Config, weights: Mapping[str, float], about: dict) -> str:
    """What was measured, in a line."""
    if "direction" in about:
        return f"{protocol}, another program's scores"
    knobs, left_out = config.score, config.model.window - 1
    unscored = f"first {left_out} frames of a video not scored" if left_out else "every frame scored"
    if "config" not in about:                                                # a score file alone
        return f"{protocol}, lambda {knobs.psnr_weight:g}"
    update = {"frozen": "no test-time memory update",
              "carry": f"memory updated below gamma {knobs.gamma:g}, carried across videos",
              "reset": f"memory updated below gamma {knobs.gamma:g}, reset before each video"}[knobs.memory_update]
    scored_by = f"lambda {knobs.psnr_weight:g}, {update}" if len(weights) > 1 else "PSNR only, no memory"
    return f"{protocol}, {scored_by}, {unscored}, PSNR peak: {knobs.psnr_peak}"


if __name__ == "__main__":
    run_command(main)
