"""Around the loop over test frames: the network and its data before it, single windows and error maps after it."""

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import Namespace
from tqdm import tqdm

from lgn_net.config import Config, with_knobs
from lgn_net.data.clips import long_enough, read_image
from lgn_net.data.videos import Video, find_split, image_names, index_videos
from lgn_net.datasets import BENCHMARKS, canonical_name, difference_from_published
from lgn_net.device import provenance, set_kernels, settle_precision
from lgn_net.errors import UserError
from lgn_net.inference.loop import FrameSignals, observe, predict
from lgn_net.inference.stream import SILENT, for_inference, stream_windows
from lgn_net.model.build import build_model
from lgn_net.model.lgn_net import FramePredictor
from lgn_net.official import import_official
from lgn_net.scores.evaluation import labels_of
from lgn_net.scores.maps import FrameMap, error_map, to_image
from lgn_net.scores.results import Results
from lgn_net.scores.score_file import VideoScores
from lgn_net.training.checkpoint import check_network, load_checkpoint, load_weights


def load_network(config: Config, args: Namespace, device: torch.device) -> tuple[Config, Any, dict, Results]:
    """Load the network of `--checkpoint`, or of the authors' pair.

    Returns its configuration, the network `for_inference`, its weights as they were saved, and where it is from.
    """
    if args.checkpoint:
        saved_config, saved = load_checkpoint(args.checkpoint)
        check_network(config, saved_config, args.checkpoint)
        state = saved["model"]
    else:
        config, state = import_official(config, args.model_dir, args.m_items_dir)
    config = settle_precision(config, "score", device)
    set_kernels(config.score.precision)
    model: Any = build_model(config).to(device)
    load_weights(model, state, args.checkpoint or args.model_dir)
    parameters = sum(weight.numel() for weight in model.parameters())
    model = for_inference(model, config)
    return config, model, state, {"config": asdict(config), "checkpoint": str(args.checkpoint or args.model_dir),
                                  "parameters": parameters,
                                  "versions": provenance(device) | {"kernels": model.kernels}}


def load_data(config: Config, args: Namespace) -> tuple[list[Video], dict[str, np.ndarray], list[Video], Results]:
    """Find the test videos, the labels (T,) of each by its name, the training videos, and where all are from."""
    dataset, normal = config.data.dataset, list[Video]()
    videos = index_videos(find_split(args.dataset_path, dataset, "testing"))
    if note := difference_from_published(dataset, "testing", [len(video.frames) for video in videos]):
        warnings.warn(note)
    truth, where = labels_of({video.name: len(video.frames) for video in videos}, dataset, args.dataset_path,
                             args.labels, config.data.label_source)
    complete = note is None if canonical_name(dataset) in BENCHMARKS else None
    with contextlib.suppress(UserError):
        normal = index_videos(find_split(args.dataset_path, dataset, "training"))
    return videos, truth, normal, {"dataset": dataset, "labels": where, "complete_benchmark": complete}


def to_scores(signals: Iterable[FrameSignals], videos: list[Video],
              truth: Mapping[str, np.ndarray] | None = None) -> list[VideoScores]:
    """Gather signals video by video, with the labels (T,) that `truth` has for each video's name, else 0."""
    scored = []
    for v, group in itertools.groupby(signals, key=lambda s: s.video):
        rows, name = list(group), videos[v].name
        frames, table = np.array([s.frame for s in rows]), [s.columns() for s in rows]
        columns = {key: np.array([row[key] for row in table], float) for key in table[0]}
        labels = truth[name][frames] if truth else np.zeros(len(rows))
        scored.append(VideoScores(name, frames, columns, labels.astype(np.uint8)))
    return scored


def find_masks(split: Path, videos: Sequence[Video]) -> list[tuple[str, ...]]:
    """Find the masks of each test video, one per frame, or () where there are none; UserError for another count."""
    folder, masks = (split.parent if split.name.lower() == "frames" else split) / "masks", []
    for video in videos:
        home = folder / video.name
        names = image_names(home) if home.is_dir() else []
        if names and len(names) != len(video.frames):
            raise UserError(f"{home} holds {len(names)} masks, but video {video.name} has {len(video.frames)} frames")
        masks.append(tuple(str(home / name) for name in names))
    return masks


@torch.inference_mode()
def sample_normal(model: FramePredictor, videos: list[Video], config: Config, count: int, device: torch.device,
                  bar: tqdm = SILENT, observers: Sequence[Callable] = ()) -> tuple[list[FrameSignals], list[dict]]:
    """Score `count` windows, spread evenly, as `score_videos` does with a frozen memory; count how items are used."""
    config, window = with_knobs(config, {"score.memory_update": "frozen"}), config.model.window
    every = [(v, range(t, t + window)) for v in long_enough(videos, window)
             for t in range(len(videos[v].frames) - window + 1)]
    picked = np.unique(np.linspace(0, len(every) - 1, min(count, len(every))).round().astype(int))
    ready = for_inference(model, config)
    usage = [torch.zeros(len(memory.items), dtype=torch.long, device=device) for memory in model.memories]
    signals: list[FrameSignals] = []
    backwards = [every[i] for i in picked[::-1]]                        # so that no window continues the one before it
    for scored in predict(ready, stream_windows(ready, videos, backwards, config, device), config):
        signals += [observe(observers, frame) for frame in zip(scored.signals, scored.predicted, scored.target)]
        for counts, lookup in zip(usage, scored.lookups):
            counts += torch.bincount(lookup.nearest[:, 0], minlength=len(counts))
        bar.update(len(scored.signals))
    return signals[::-1], [{"live_items": int((counts > 0).sum()), "queries_of_item": counts.tolist(),
                            "item_cosine": memory.redundancy()} for counts, memory in zip(usage, model.memories)]


@torch.inference_mode()
def make_maps(model: FramePredictor, videos: list[Video], config: Config, scored: Sequence[VideoScores],
              normal: Sequence[np.ndarray], wanted: Sequence[tuple[int, int, str]],
              device: torch.device) -> list[FrameMap]:
    """Make the error maps of `wanted` frames: index in `scored`, in the video, and why, of which the first counts.

    The frames are predicted again, each with the memory that it met in `score_videos`.
    """
    reasons = {(k, frame): kind for k, frame, kind in reversed(wanted)}
    names, maps = [video.name for video in videos], {}
    index = [names.index(video.name) for video in scored]                     # in `videos`

    # Up to the last wanted frame, the others that updated the memory are needed, too.
    where = [(k, t) for k, video in enumerate(scored) for t, updated in
             zip(video.frames.tolist(), video.signals["memory_updated"]) if updated or (k, t) in reasons]
    last = max((n for n, place in enumerate(where) if place in reasons), default=-1)
    ranges = [(index[k], range(t - config.model.window + 1, t + 1)) for k, t in where[:last + 1]]
    model = for_inference(model, config)
    for again in predict(model, stream_windows(model, videos, ranges, config, device), config):
        for (v, t, *_), predicted, target in zip(again.signals, again.predicted, again.target):
            k = index.index(v)
            if (k, t) in reasons:
                name, frames, _, labels = scored[k]
                i, (H, W, _) = np.searchsorted(frames, t), read_image(videos[v].frames[t], config.data.channels).shape
                maps[k, t] = FrameMap(name, t, reasons[k, t], float(normal[k][i]), int(labels[i]), to_image(target),
                                      to_image(predicted), error_map(predicted, target), W / H)
    return [maps[key] for key in dict.fromkeys((k, frame) for k, frame, _ in wanted)]
