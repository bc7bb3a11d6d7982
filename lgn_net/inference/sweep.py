"""Many values of gamma in one pass over the test videos."""

from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm import tqdm

from lgn_net.config import Config, with_knobs
from lgn_net.data.videos import Video
from lgn_net.inference.loop import FrameSignals, copy_items, predict, restore_items, score_videos, videos_of_process
from lgn_net.inference.stream import SILENT, for_inference, stream_windows, updates_memory
from lgn_net.model.lgn_net import FramePredictor


@torch.inference_mode()
def sweep_gamma(model: FramePredictor, videos: list[Video], config: Config, gammas: Iterable[float],
                device: torch.device, bar: tqdm = SILENT) -> dict[float, list[FrameSignals]]:
    """Score the videos as `score_videos` does, for several gammas at once: the signals for each.

    Windows are encoded once; memory and decoder run once for all gammas that have updated on the same frames so far.
    """
    signals: dict[float, list[FrameSignals]] = {gamma: [] for gamma in gammas}
    if not updates_memory(model, config):
        return dict.fromkeys(signals, [*score_videos(model, videos, config, device, bar)])
    model, frozen = for_inference(model, config), with_knobs(config, {"score.memory_update": "frozen"})
    start: list[tuple[list[Tensor], list[float]]] = [(copy_items(model), list(signals))]
    histories, video = start, None                    # items of the memories, and the gammas that led to them
    ranges = [(v, range(len(videos[v].frames))) for v in videos_of_process(videos, config)]
    batches = stream_windows(model, videos, ranges, config, device)
    for window in (batch.part(k, k + 1) for batch in batches for k in range(len(batch.where))):
        if config.score.memory_update == "reset" and window.where[0][0] != video:
            histories = start
        video, after = window.where[0][0], []
        for items, members in histories:
            # Score the frame once for all gammas with this memory.
            restore_items(model, items)
            scored, = predict(model, [window], frozen)
            signal, = scored.signals
            below = [gamma for gamma in members if gamma > torch.tensor(signal.regular_score)]
            for gamma in members:
                signals[gamma].append(signal._replace(memory_updated=gamma in below))

            # The gammas above its regular score go on with an updated memory.
            if len(below) < len(members):
                after.append((items, [gamma for gamma in members if gamma not in below]))
            if below:
                for memory, lookup in zip(model.memories, scored.lookups):
                    memory.update_(lookup)
                after.append((copy_items(model), below))
        histories = after
        bar.update()
    return signals
