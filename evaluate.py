"""Score the frames of test videos with a network and measure the frame-level AUC, under every protocol.

    python evaluate.py --checkpoint RUN/last.pt --dataset_path DATA
    python evaluate.py --dataset_type ped2 --dataset_path DATA --model_dir MODEL.pth --m_items_dir KEYS.pt
    torchrun --nproc_per_node 4 evaluate.py ... --score.memory_update reset      # on several GPUs, docs/scale.md

Writes scores.csv (one line per scored frame), results.json, pictures and report.html. One that was killed goes on where
it was when it is started again. From a score file alone, without the network, scripts/measure.py gives the same in a
second (`evaluate.py --scores FILE ...` calls it). Of the knobs below, those of data, model and score matter here.
"""

from lgn_net.cli import command_parser, given, measuring_arguments, network_arguments, parse_command, show_help

PARSER = command_parser(__doc__, "evaluate.py (--checkpoint CKPT | --model_dir MODEL --m_items_dir KEYS) "
                                 "--dataset_path DATA\n       evaluate.py --scores FILE")
network_arguments(PARSER)
measuring_arguments(PARSER)
PARSER.add_argument("--out", help="Folder for the results; default: evaluation_<checkpoint>, beside that (for weights/ "
                                  "in the working folder).")
PARSER.add_argument("--maps", type=int, default=4, help="Error maps of so many misses, false alarms, detections.")
PARSER.add_argument("--frames", nargs="+", default=[], help="Error maps of these frames as well, VIDEO:FRAME.")
PARSER.add_argument("--localize", choices=["auto", "off"], default="auto",
                    help="auto: where there are pixel masks, compare the prediction errors with them.")
PARSER.add_argument("--quality", action="store_true", help="SSIM and LPIPS of the predictions, too.")
show_help(__name__, PARSER, "data", "score")     # before slow imports

import runpy
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jsonargparse import Namespace

from lgn_net.config import Config
from lgn_net.data.videos import Video, find_split
from lgn_net.device import pick_device
from lgn_net.distributed import collect, processes, rank, world_size
from lgn_net.errors import UserError
from lgn_net.files import ROOT, check_writable, results_folder
from lgn_net.inference.around import find_masks, load_data, load_network, make_maps, sample_normal, to_scores
from lgn_net.inference.loop import score_videos, videos_of_process
from lgn_net.inference.observers import Localization, Quality, summarize
from lgn_net.inference.part import Part
from lgn_net.model.lgn_net import FramePredictor
from lgn_net.report.outcome import finish
from lgn_net.scores.evaluation import Evaluation, read_any
from lgn_net.scores.maps import choose_frames, parse_frames
from lgn_net.scores.protocols import SCORING, Protocol, common_frames, normality_under, paper_weights
from lgn_net.scores.score_file import VideoScores, write_scores
from lgn_net.terminal import progress, run_command


def main(argv: list[str]) -> None:
    """Run the command."""
    if given(argv, "--scores"):
        runpy.run_path(str(ROOT / "scripts" / "measure.py"))["main"](argv)
        return
    config, args = parse_command(PARSER, argv)
    out = Path(args.out or results_folder(Path(args.checkpoint or args.model_dir)))
    check_writable(out)
    own_lambda = not given(argv, "--score.psnr_weight")
    other = read_any(args.compare, config, args, config.data.dataset, own_lambda) if args.compare else None
    with processes(pick_device(args.device)) as device:
        evaluate(config, args, out, other, device)


def evaluate(config: Config, args: Namespace, out: Path, other: Evaluation | None, device: torch.device) -> None:
    """Score, measure, write and print, as one of the processes; all but the first one only score."""
    # The network, the test videos with their masks, and the training videos beside them where there are any.
    config, model, state, origin = load_network(config, args, device)
    videos, truth, normal_videos, about = load_data(config, args)
    before = config.model.window - 1                                          # frames that have none before them to see
    extra = min(sum(max(len(video.frames) - before, 0) for video in normal_videos), config.score.calibration)
    refuse_mistakes(config, args, model, videos, truth, extra, other)
    split = find_split(args.dataset_path, config.data.dataset, "testing")
    masks = find_masks(split, videos) if args.localize != "off" else []
    localization = Localization(masks) if any(masks) else None
    quality = Quality() if args.quality else None

    # Frames to signals: the test videos, shared out among the processes, then some training windows.
    score = {knob: value for knob, value in asdict(config.score).items() if knob not in (*SCORING, "kernels")}
    versions = origin["versions"] | {"kernels": None}                        # a trial may choose others next time
    facts = [asdict(config.data), asdict(config.model), score, versions, args.quality, masks]
    part = Part(out / f".part{rank()}of{world_size()}", facts, state, videos,
                [localization.pixels] if localization else [])
    windows = sum(len(videos[v].frames) - before for v in videos_of_process(videos, config))
    with progress("evaluate", windows + extra, "frames") as bar:
        signals = score_videos(model, videos, config, device, bar, [o for o in (localization, quality) if o], part)
        scored = [video for each in collect(to_scores(signals, videos, truth)) for video in each]
        if localization:
            localization.pixels = sum(collect(localization.pixels))
        if rank():
            return
        order = {video.name: v for v, video in enumerate(videos)}
        scored.sort(key=lambda video: order[video.name])
        located, likeness = (take(scored, observer.measures) for observer in (Localization, Quality))
        for pattern in ("calibration.csv", "maps.npz", "quality.csv", "sweep_*.*", "curves_*.png", "report.html"):
            for old in out.glob(pattern):                                    # of an earlier evaluation
                old.unlink()
        write_scores(out / "scores.csv", scored)                             # whatever comes, hours of scoring are kept
        calibration, memories = sample_normal(model, normal_videos, config, extra, device, bar) if extra else ([], [])

    # What else is known of the network and its predictions.
    about |= origin
    if memories:
        about["memories"] = memories
    if localization:
        about["localization"] = localization.results(located)
    if quality:
        write_scores(out / "quality.csv", likeness, labelled=False)
        about["quality"] = summarize(likeness)

    # Signals to normality; the worst frames are predicted again, each by the memory that it met.
    weights = paper_weights(config.score.psnr_weight, len(model.memories))
    training = to_scores(calibration, normal_videos)
    normal = normality_under(Protocol.configured(asdict(config.score)), scored, weights, training)
    wanted = choose_frames(scored, normal, args.maps) + parse_frames(args.frames, scored)
    maps = make_maps(model, videos, config, scored, normal, wanted, device)

    # Normality to AUC, tables, files and report.
    finish(Evaluation(scored, weights, training, about), normal, config, args, other, out, maps)
    for path in out.glob(".part*"):
        path.unlink()


def take(scored: list[VideoScores], names: tuple[str, ...]) -> list[VideoScores]:
    """Move the columns of these names, as far as there are, from scored videos to a list of their own."""
    return [video._replace(signals={name: video.signals.pop(name) for name in names if name in video.signals})
            for video in scored]


def refuse_mistakes(config: Config, args: Namespace, model: FramePredictor, videos: list[Video],
                    truth: Mapping[str, np.ndarray], extra: int, other: Evaluation | None) -> None:
    """Raise UserError now, not after hours, where arguments fit neither each other nor the data."""
    if world_size() > 1 and config.score.memory_update == "carry" and model.memories:
        raise UserError("score.memory_update carry hands the memory from video to video, which several processes "
                        "cannot; start without torchrun, or give --score.memory_update reset (or frozen)")
    if config.score.normalize == "training" and not extra:
        raise UserError("score.normalize is training, and there are no training frames beside the test frames, or "
                        "score.calibration is 0; choose another normalisation")
    before = config.model.window - 1
    to_come = [VideoScores(video.name, np.arange(before, len(video.frames)), {}, truth[video.name][before:])
               for video in videos]
    parse_frames(args.frames, to_come)
    if other:
        common_frames(to_come, other.videos)


if __name__ == "__main__":
    run_command(main)
