"""Many values of gamma in one pass over the test videos."""

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm import tqdm

from lgn_net.config import Config, with_knobs
from lgn_net.data.videos import Video
from lgn_net.inference.loop import FrameSignals, copy_items, predict, restore_items, videos_of_process
from lgn_net.inference.stream import for_inference, one_by_one, stream_windows, updates_memory
from lgn_net.model.lgn_net import FramePredictor


@torch.inference_mode()
def sweep_gamma(model: FramePredictor, videos: list[Video], config: Config, gammas: Iterable[float],
                device: torch.device, bar: tqdm | None = None) -> dict[float, list[FrameSignals]]:
    """Score the videos as `score_videos` does, for several gammas at once: the signals for each.

    Windows are encoded once for all gammas; memory and decoder, the only ones to depend on gamma, run once for all
    gammas that have updated on the same frames so far.
    """
    model, frozen = for_inference(model, config), with_knobs(config, {"score.memory_update": "frozen"})
    updating = updates_memory(model, config)
    signals: dict[float, list[FrameSignals]] = {gamma: [] for gamma in gammas}
    start: list[tuple[list[Tensor], list[float]]] = [(copy_items(model), list(signals))]
    histories, video = start, None                    # items of the memories, and the gammas that led to them
    ranges = [(v, range(len(videos[v].frames))) for v in videos_of_process(videos, config)]
    batches = stream_windows(model, videos, ranges, config, device)
    for window in itertools.chain.from_iterable(map(one_by_one, batches)):
        if config.score.memory_update == "reset" and window.where[0][0] != video:
            histories = start
        video, after = window.where[0][0], []
        for items, members in histories:
            # Score the frame once for all gammas with this memory.
            restore_items(model, items)
            scored, = predict(model, [window], frozen)
            signal, = scored.signals
            R = torch.tensor(signal.regular_score)
            below = [gamma for gamma in members if updating and gamma > R]
            for gamma in members:
                signals[gamma].append(signal._replace(memory_updated=gamma in below))

            # The gammas above its regular score go on with an updated memory.
            if staying := [gamma for gamma in members if gamma not in below]:
                after.append((items, staying))
            if below:
                for memory, lookup in zip(model.memories, scored.lookups):
                    memory.update_(lookup)
                after.append((copy_items(model), below))
        histories = after
        if bar is not None:
            bar.update()
    return signals
