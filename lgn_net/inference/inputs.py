"""What scoring starts from: a trained network, and test videos with their labels."""

import warnings
from dataclasses import asdict

import numpy as np
import torch
from jsonargparse import Namespace
from torch import nn

from lgn_net.config import Config
from lgn_net.data.videos import Video, find_split, index_videos
from lgn_net.datasets import BENCHMARKS, canonical_name, difference_from_published
from lgn_net.device import provenance, set_kernels
from lgn_net.errors import UserError
from lgn_net.model.build import build_model
from lgn_net.official import import_official
from lgn_net.scores.evaluation import LabelSource
from lgn_net.training.checkpoint import check_architecture, load_checkpoint, load_weights


def load_network(config: Config, args: Namespace, device: torch.device) -> tuple[Config, nn.Module, dict]:
    """Load the network of `--checkpoint`, or of the authors' pair, onto the device.

    Returns the configuration with the network's sizes, the network, and where it is from, for results.json. UserError
    for a damaged file, or another network than the configuration's.
    """
    source = args.checkpoint or args.model_dir
    if args.checkpoint:
        saved_config, saved = load_checkpoint(args.checkpoint)
        check_architecture(config, saved_config, args.checkpoint)
        if config.data.dataset != saved_config.data.dataset and config.score == saved_config.score:
            warnings.warn(f"lambda {config.score.psnr_weight:g} and gamma {config.score.gamma:g} are those of "
                          f"{saved_config.data.dataset}, as the checkpoint; --config gives others")
        state = saved["model"]
    else:
        config, state = import_official(config, args.model_dir, args.m_items_dir)
    set_kernels(config.score.precision)
    model = build_model(config).to(device)
    load_weights(model, state, source)
    return config, model, {"config": asdict(config), "checkpoint": str(source), "versions": provenance(device)}


def load_test_set(config: Config, args: Namespace) -> tuple[list[Video], dict[str, np.ndarray], dict]:
    """Find the test videos of `--dataset_path`, with the labels of `--labels` or else those found.

    Returns the videos, the labels (T,) of each by its name, and where both are from, for results.json. UserError where
    there are no videos or no labels, or where they do not fit each other.
    """
    dataset = config.data.dataset
    videos = index_videos(find_split(args.dataset_path, dataset, "testing"))
    if note := difference_from_published(dataset, "testing", [len(video.frames) for video in videos]):
        warnings.warn(note)
    source = LabelSource(dataset, args.dataset_path, args.labels, config.data.label_source)
    truth, where = source.truth({video.name: len(video.frames) for video in videos})
    complete = note is None if canonical_name(dataset) in BENCHMARKS else None
    return videos, truth, {"dataset": dataset, "labels": where, "complete_benchmark": complete}


def training_videos(config: Config, args: Namespace) -> list[Video]:
    """Find the training videos beside the test videos; [] where there are none: then nothing is normalised by them."""
    try:
        return index_videos(find_split(args.dataset_path, config.data.dataset, "training"))
    except UserError:
        return []
