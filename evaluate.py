"""Score the frames of test videos and measure the frame-level AUC.

    python evaluate.py --checkpoint RUN/last.pt --dataset_path DATA
    python evaluate.py --dataset_type ped2 --dataset_path DATA --model_dir MODEL.pth --m_items_dir KEYS.pt

Writes scores.csv (one line per scored frame), results.json and curves_<k>.png. Of the knobs below, those of data, model
and score matter here; loss and train are the training's.
"""

import csv
import io
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lgn_net.checkpoint import check_architecture, load_checkpoint, load_weights
from lgn_net.cli import command_parser, parse_command
from lgn_net.config import ScoreConfig
from lgn_net.data.datasets import BENCHMARKS, canonical_name, difference_from_published
from lgn_net.data.labels import find_labels, known_source, load_labels
from lgn_net.data.videos import find_split, index_videos
from lgn_net.errors import UserError
from lgn_net.model.build import build_model
from lgn_net.model.official import import_official
from lgn_net.report.curves import plot_curves
from lgn_net.runs import check_writable, pick_device, progress, provenance, run_command, to_json, write_atomic
from lgn_net.scoring.infer import score_videos
from lgn_net.scoring.metrics import auc
from lgn_net.scoring.score import normality


def main(argv: list[str]) -> int:
    parser = command_parser(__doc__, "evaluate.py (--checkpoint CKPT | --model_dir MODEL --m_items_dir KEYS) "
                                     "--dataset_path DATA")
    parser.add_argument("--checkpoint", help="Checkpoint written by train.py or scripts/import_official.py.")
    parser.add_argument("--model_dir", help="Instead of --checkpoint: the authors' <n>model.pth.")
    parser.add_argument("--m_items_dir", help="The authors' <n>keys.pt that belongs to --model_dir.")
    parser.add_argument("--labels", help="Label file (.npy, .mat, .m, .json, .csv); default: beside the frames, or those "
                                         "that ship with the project.")
    parser.add_argument("--out", help="Folder for the results; default: evaluation_<name of the checkpoint>, beside it.")
    config, args = parse_command(parser, argv)
    if bool(args.checkpoint) == bool(args.model_dir) or (args.checkpoint and args.m_items_dir):
        raise UserError("give --checkpoint CKPT, or the authors' pair --model_dir MODEL.pth --m_items_dir KEYS.pt")
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

    out = Path(args.out or Path(source).parent / f"evaluation_{Path(source).stem}")
    check_writable(out)
    folder = find_split(args.dataset_path, config.data.dataset, "testing")
    videos = index_videos(folder)
    lengths = [len(video.frames) for video in videos]
    if note := difference_from_published(config.data.dataset, "testing", lengths):
        warnings.warn(note)
    labels_file = args.labels or find_labels(args.dataset_path, config.data.dataset, folder, config.data.label_source)
    labels = load_labels(labels_file, videos)

    device = pick_device(args.device)
    model = build_model(config).to(device)
    load_weights(model, state, source)
    n = config.model.input_frames
    with progress("evaluate", sum(max(length - n, 0) for length in lengths), "frames") as bar:
        signals = score_videos(model, videos, config, device, bar)

    # From here on: plain arrays, one per scored video.
    scored = sorted({s.video for s in signals})
    frames, psnr, distance = ([np.array([s[k] for s in signals if s.video == v]) for v in scored] for k in (1, 2, 3))
    truth = [labels[v][f] for v, f in zip(scored, frames)]
    knobs = config.score
    normal = normality(psnr, distance, knobs.psnr_weight, knobs.normalize)
    results = {
        "auc": auc(truth, normal, knobs.average),
        "auc_psnr": auc(truth, normality(psnr, distance, 1.0, knobs.normalize), knobs.average),
        "auc_distance": auc(truth, normality(psnr, distance, 0.0, knobs.normalize), knobs.average),
        **{f"psnr_{name}": mean_where(psnr, truth, label) for label, name in enumerate(("normal", "abnormal"))},
        "frames": len(signals),
        "abnormal_frames": int(sum(y.sum() for y in truth)),
        "videos": len(scored),
        "memory_updates": sum(s.memory_updated for s in signals),
        "protocol": describe_protocol(knobs, n),
        "dataset": config.data.dataset,
        "labels": str(labels_file),
        "label_source": known_source(config.data.dataset, videos, labels),
        "complete_benchmark": note is None if canonical_name(config.data.dataset) in BENCHMARKS else None,
        "config": asdict(config),
        "checkpoint": str(source),
        "versions": provenance(device),
    }

    write_atomic(out / "scores.csv", score_table(signals, [v.name for v in videos], np.concatenate(normal),
                                                 np.concatenate(truth)))
    write_atomic(out / "results.json", to_json(results))
    title = f"{config.data.dataset}: normality, lambda {knobs.psnr_weight:g}"
    pictures = plot_curves([videos[v].name for v in scored], frames, normal, truth, title, out)
    print(summary(results, knobs))
    print(f"curves   {', '.join(map(str, pictures))}\nscores   {out / 'scores.csv'}\nresults  {out / 'results.json'}")
    if results["auc"] is None:
        raise UserError(f"the AUC is undefined: {results['abnormal_frames']} of {len(signals)} scored frames are abnormal, "
                        f"and it needs both classes; the scores are in {out / 'scores.csv'}")
    return 0


def mean_where(values: list[np.ndarray], labels: list[np.ndarray], label: int) -> float | None:
    """Mean over the frames of one class; None where there are none."""
    chosen = np.concatenate(values)[np.concatenate(labels) == label]
    return float(chosen.mean()) if len(chosen) else None


def score_table(signals: list, names: list[str], normal: np.ndarray, labels: np.ndarray) -> str:
    """scores.csv; floats in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "frame", "psnr", "distance", "regular_score", "memory_updated", "normality", "label"])
    for s, x, y in zip(signals, normal.tolist(), labels.tolist()):
        writer.writerow([names[s.video], s.frame, s.psnr, s.distance, s.regular_score, int(s.memory_updated), x, y])
    return text.getvalue()


def describe_protocol(knobs: ScoreConfig, n: int) -> str:
    """What was measured, in a line."""
    update = {"off": "no test-time memory update",
              "carry": f"memory updated below gamma {knobs.gamma:g}, carried across videos",
              "reset": f"memory updated below gamma {knobs.gamma:g}, reset before each video"}[knobs.memory_update]
    return (f"{knobs.average} AUC, min-max per {knobs.normalize}, lambda {knobs.psnr_weight:g}, {update}, no smoothing, "
            f"first {n} frames of a video not scored, PSNR peak: {knobs.psnr_peak}")


def summary(results: dict, knobs: ScoreConfig) -> str:
    """The printed table."""
    def show(key: str, factor: float = 1.0) -> str:
        return f"{'undefined':>9}" if results[key] is None else f"{factor * results[key]:9.2f}"

    return "\n".join([
        f"{results['dataset']}: {results['videos']} videos, {results['frames']} frames scored, "
        f"{results['abnormal_frames']} abnormal, {results['memory_updates']} memory updates",
        f"protocol: {results['protocol']}",
        f"labels:   {results['labels']}" + (f" ({results['label_source']})" if results["label_source"] else ""),
        "",
        f"  {f'AUC, normality (lambda {knobs.psnr_weight:g})':<28}{show('auc', 100)} %",
        f"  {'AUC, PSNR only':<28}{show('auc_psnr', 100)} %",
        f"  {'AUC, distance only':<28}{show('auc_distance', 100)} %",
        f"  {'mean PSNR, normal frames':<28}{show('psnr_normal')} dB",
        f"  {'mean PSNR, abnormal frames':<28}{show('psnr_abnormal')} dB",
        "",
    ])


if __name__ == "__main__":
    run_command(main)
