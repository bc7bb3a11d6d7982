"""Many values of gamma in one pass over the test videos."""

from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm import tqdm

from lgn_net.config import Config
from lgn_net.data.videos import Video
from lgn_net.device import autocast
from lgn_net.inference.loop import FrameSignals, copy_items, restore_items, score_videos, to_signals, videos_of_process
from lgn_net.inference.signals import psnr, query_distance, regular_score
from lgn_net.inference.stream import SILENT, for_inference, stream_windows
from lgn_net.model.lgn_net import FramePredictor
from lgn_net.model.memory import Lookup


@torch.inference_mode()
def sweep_gamma(model: FramePredictor, videos: list[Video], config: Config, gammas: Iterable[float],
                device: torch.device, bar: tqdm = SILENT) -> dict[float, list[FrameSignals]]:
    """Score the videos as `score_videos` does, for several gammas at once: the signals for each.

    Windows are encoded once. Gammas that have updated on the same frames share a memory, and each window is decoded for
    all memories in one batch.
    """
    signals: dict[float, list[FrameSignals]] = {gamma: [] for gamma in gammas}
    if config.score.memory_update == "frozen" or not model.memories:
        return dict.fromkeys(signals, [*score_videos(model, videos, config, device, bar)])
    model, knobs = for_inference(model, config), config.score
    start: list[tuple[list[Tensor], list[float]]] = [(copy_items(model), list(signals))]
    histories, video = start, None                    # items of the memories, and the gammas that led to them
    ranges = [(v, range(len(videos[v].frames))) for v in videos_of_process(videos, config)]
    batches = stream_windows(model, videos, ranges, config, device)
    for window in (batch.part(k, k + 1) for batch in batches for k in range(len(batch.where))):
        if config.score.memory_update == "reset" and window.where[0][0] != video:
            histories = start
        video = window.where[0][0]

        # Read every memory, and score the frame at once with what was read.
        read, D = [], []
        for items, _ in histories:
            restore_items(model, items)
            read.append(model.read(window.queries))
            D.append([query_distance(lookup, memory) for lookup, memory in zip(read[-1], model.memories)])
        window, lookups = window.repeat(len(histories)), [Lookup(*map(torch.cat, zip(*parts))) for parts in zip(*read)]
        with autocast(device, knobs.precision):
            predicted = model.decode(lookups, window.context).float()
        R, PSNR = regular_score(predicted, window.target), psnr(predicted, window.target, knobs.psnr_peak)
        scored = to_signals(window, PSNR, R, [torch.cat(d) for d in zip(*D)], [False] * len(histories))

        # The gammas above a regular score go on with an updated memory.
        after = []
        for (items, members), lookups, signal in zip(histories, read, scored):
            below = [gamma for gamma in members if gamma > torch.tensor(signal.regular_score)]
            for gamma in members:
                signals[gamma].append(signal._replace(memory_updated=gamma in below))
            if len(below) < len(members):
                after.append((items, [gamma for gamma in members if gamma not in below]))
            if below:
                restore_items(model, items)
                for memory, lookup in zip(model.memories, lookups):
                    memory.update_(lookup)
                after.append((copy_items(model), below))
        histories = after
        bar.update()
    return signals
