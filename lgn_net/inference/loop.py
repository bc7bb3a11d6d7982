"""Model over test videos -> raw signals of every predicted frame. The GPU ends here."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lgn_net.config import Config
from lgn_net.data.clips import long_enough, read_frames, to_float
from lgn_net.data.videos import Video
from lgn_net.data.windows import Windows
from lgn_net.device import autocast
from lgn_net.distributed import collect, rank, world_size
from lgn_net.errors import UserError
from lgn_net.inference.localize import FrameMap, frame_map
from lgn_net.inference.stream import Encoded, as_batch, for_inference, stream_windows, windows_at_once
from lgn_net.model.memory import PrototypeMemory, flatten_queries
from lgn_net.scores.protocols import distance_names
from lgn_net.scores.score_file import VideoScores


class FrameSignals(NamedTuple):
    """What the model says of one predicted frame."""

    video: int                # index of the video
    frame: int                # index of the predicted frame within its video, from 0
    psnr: float               # dB
    distance: tuple[float, ...]    # D of each memory: mean squared difference of queries and their nearest items
    regular_score: float      # R, on the scale of a squared error on [0, 1]
    memory_updated: bool      # whether R < gamma, and the memory learned from this frame


Watch = Callable[[int, int, Tensor, Tensor], None]      # its arguments: see `score_videos`


@torch.inference_mode()
def score_videos(model: nn.Module, videos: list[Video], config: Config, device: torch.device,
                 bar: tqdm | None = None, watches: Sequence[Watch] = ()) -> list[FrameSignals]:
    """Predict and judge every frame but the first n of each video, in order, with test-time memory updates.

    Signals of a frame are taken with the memory as it is before that frame's own update. What does not depend on the
    memory is computed for several windows at once (`score.batch_size`); scores depend on it by no more than rounding.
    Videos shorter than n + 1 frames are skipped with a warning. The model's memory is as before afterwards.

    Args:
        watches: each is called with every prediction: index of the video, index of the first predicted frame,
            predicted and true frames (B, C, H, W) in [-1, 1].

    Raises:
        UserError: a damaged frame, frames of differing size, no video long enough, or a prediction that is not finite.
    """
    return sweep_gamma(model, videos, config, [config.score.gamma], device, bar, watches)[config.score.gamma]


class History(NamedTuple):
    """Memories as test-time updates left them, and the gammas that lead there."""

    items: list[Tensor]       # of each memory (M, D)
    gammas: list[float]


def share_of(videos: list[Video], config: Config) -> list[int]:
    """Indices of the videos that this process scores, in their order; all that are long enough, where it is alone."""
    longest_first = sorted(long_enough(videos, config.model.window), key=lambda v: -len(videos[v].frames))
    return sorted(longest_first[rank()::world_size()])


@torch.inference_mode()
def sweep_gamma(model: nn.Module, videos: list[Video], config: Config, gammas: Sequence[float], device: torch.device,
                bar: tqdm | None = None, watches: Sequence[Watch] = ()) -> dict[float, list[FrameSignals]]:
    """`score_videos` for several gammas in one pass: the signals under each.

    The memory alone depends on gamma. What comes before it is computed once for all, and memory read and decoder once
    for all gammas that have updated on the same frames so far. `watches` see the predictions of every such group.

    Several processes share out the videos, which then must not depend on each other, and the first one returns the
    signals of all.
    """
    model = for_inference(model, config)
    updating = config.score.memory_update != "off" and bool(model.memories)
    reset = updating and config.score.memory_update == "reset"
    signals = {gamma: [] for gamma in gammas}
    at_start = [History(items_of(model), list(signals))]
    histories = defaultdict(lambda: at_start)                                 # of each owner, a video or all of them
    for encoded in stream_windows(model, videos, share_of(videos, config), config, device, reset):
        owners, judged = [v if reset else 0 for v, _ in encoded.windows], []
        rows = []                                                             # on the device until all are there
        # Windows of a turn are decoded together: none of them waits for what the memory learns from another.
        for turn in [[k] for k in range(len(owners))] if updating and not reset else [range(len(owners))]:
            after = defaultdict(list)
            for k, history, predicted, numbers in judge_cases(
                    model, encoded, [(k, history) for k in turn for history in histories[owners[k]]], config):
                judged.append((*encoded.windows[k], history.gammas))
                rows.append(numbers)
                for watch in watches:
                    watch(*encoded.windows[k], predicted, encoded.targets[k:k + 1])
                if updating:
                    after[owners[k]] += learn(model, history, [q[k:k + 1] for q in encoded.queries], numbers[:, 1])
            histories |= after
        for (v, t, shared), (p, r, *d) in zip(judged, torch.cat(rows).tolist()):
            if not all(map(math.isfinite, (p, r, *d))):
                raise UserError(f"video {videos[v].name}, frame {t}: the prediction is not finite; the checkpoint's "
                                f"weights are damaged")
            for gamma in shared:
                signals[gamma].append(FrameSignals(v, t, p, tuple(d), r, updating and r < as_float32(gamma)))
        if bar is not None:
            bar.update(len(owners))
    everyones = collect(signals)
    return {gamma: sorted(itertools.chain(*(each[gamma] for each in everyones))) for gamma in signals}


def judge_cases(model: nn.Module, encoded: Encoded, cases: Sequence[tuple[int, History]], config: Config) \
        -> Iterator[tuple[int, History, Tensor, Tensor]]:
    """Windows, by their index in `encoded`, each by the memory of a history; a batch of them is decoded at once.

    Yields:
        the case, and what `judge` says of it.
    """
    size = windows_at_once(config, encoded.targets.device)
    for some in (cases[start:start + size] for start in range(0, len(cases), size)):
        def pick(batch: Tensor) -> Tensor:
            return as_batch([batch[k:k + 1] for k, _ in some])

        answers = []
        for _, group in itertools.groupby(some, key=lambda case: id(case[1])):
            windows, (history, *_) = zip(*group)
            set_items(model, history.items)
            answers.append(consult(model, [as_batch([q[k:k + 1] for k in windows]) for q in encoded.queries]))
        consulted = tuple([as_batch(parts) for parts in zip(*of_memories)] for of_memories in zip(*answers))
        predicted, numbers = judge(model, [pick(q) for q in encoded.queries], {name: pick(x) for name, x in
                                   encoded.context.items()}, pick(encoded.targets), config, consulted)
        for case, *answer in zip(some, predicted.split(1), numbers.split(1)):
            yield *case, *answer


def learn(model: nn.Module, history: History, queries: list[Tensor], regular: Tensor) -> list[History]:
    """The histories after one frame of regular score `regular` (1,): each memory learns where that is below gamma.

    On an accelerator one gamma is decided there, without waiting for it.
    """
    items, gammas = history
    decided = len(gammas) > 1 or regular.device.type == "cpu"
    learning = [gamma for gamma in gammas if regular.item() < as_float32(gamma)] if decided else gammas
    if not learning:
        return [history]
    set_items(model, items)
    update_memories(model, queries)
    learned = items_of(model)
    if not decided:
        learned = [torch.where(regular < gammas[0], new, old) for new, old in zip(learned, items)]
    staying = [gamma for gamma in gammas if gamma not in learning]
    return [History(items, staying)] * bool(staying) + [History(learned, learning)]


def as_float32(gamma: float) -> float:
    """Gamma as a float32 tensor is compared with it, on any device."""
    return torch.tensor(gamma, dtype=torch.float32).item()


@torch.inference_mode()
def score_windows(model: nn.Module, videos: list[Video], config: Config, count: int, device: torch.device,
                  bar: tqdm | None = None) -> tuple[list[FrameSignals], list[dict]]:
    """Signals of `count` windows spread evenly over all of the videos' (all of them where there are fewer).

    Without memory updates: how the network sees frames that are known to be normal.

    Returns:
        the signals, and of each memory "queries_of_item", of how many queries each item was the nearest, "live_items",
        the number of items with one or more, and "item_cosine", the mean cosine between two items.
    """
    model = for_inference(model, config)
    usage = [0 for _ in model.memories]
    windows = Windows(videos, config.model.window, config.data.channels, config.data.image_size)
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(count, len(windows))).round().astype(int)).tolist()
    signals = []
    size = windows_at_once(config, device)
    for start in range(0, len(chosen), size):
        indices = chosen[start:start + size]
        clips = to_float(windows.__getitems__(indices).to(device))
        queries, context = encode(model, clips, config)
        _, numbers = judge(model, queries, context, clips[:, -1], config)
        usage = [so_far + memory.usage(q) for so_far, memory, q in zip(usage, model.memories, queries)]
        for i, (p, r, *d) in zip(indices, numbers.tolist()):
            v, first = windows.index[i]
            signals.append(FrameSignals(v, first + config.model.window - 1, p, tuple(d), r, False))
        if bar is not None:
            bar.update(len(indices))
    return signals, [{"live_items": int((counts > 0).sum()), "queries_of_item": counts.tolist(),
                      "item_cosine": memory.redundancy()} for counts, memory in zip(usage, model.memories)]


@torch.inference_mode()
def predict_frames(model: nn.Module, videos: list[Video], config: Config, signals: list[FrameSignals],
                   wanted: Collection[tuple[int, int]],
                   device: torch.device) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """The predictions of single frames again, each by the memory that it met when `signals` were taken.

    The memory's updates are repeated from the queries of the frames that made them; the rest of the network runs for
    the wanted frames only.

    Args:
        signals: what `score_videos` returned for the same model, videos and configuration.
        wanted: (index of the video, index of the frame) of frames in `signals`.

    Yields:
        index of the video, of the frame, predicted and true frame (C, H, W) in [-1, 1], in the order of `signals`.
    """
    model = for_inference(model, config)
    before, at_start, left, video = config.model.window - 1, items_of(model), len(set(wanted)), None
    for s in signals:
        if s.video != video and config.score.memory_update == "reset":
            set_items(model, at_start)
        video = s.video
        if left == 0:
            return
        if not s.memory_updated and (s.video, s.frame) not in wanted:
            continue
        paths = videos[s.video].frames[s.frame - before:s.frame + 1]
        clip = to_float(read_frames(paths, config.data.channels, config.data.image_size))[None].to(device)
        queries, context = encode(model, clip, config)
        if (s.video, s.frame) in wanted:
            predicted, _ = judge(model, queries, context, clip[:, -1], config)
            yield s.video, s.frame, predicted[0], clip[0, -1]
            left -= 1
        if s.memory_updated:
            update_memories(model, queries)


def draw_maps(model: nn.Module, videos: list[Video], config: Config, signals: list[FrameSignals],
              scored: list[VideoScores], device: torch.device, normal: Sequence[np.ndarray],
              wanted: Sequence[tuple[int, int, str]]) -> list[FrameMap]:
    """Error maps of chosen frames.

    Args:
        signals, scored: of all frames, and the same video by video.
        normal: normality (n_v,) of each of the `scored` videos.
        wanted: index in `scored`, index of the frame in its video, and why it was chosen.
    """
    index = {video.name: v for v, video in enumerate(videos)}
    reasons, maps = {}, {}
    for k, frame, kind in wanted:
        reasons.setdefault((index[scored[k].name], frame), (k, kind))
    for v, frame, predicted, target in predict_frames(model, videos, config, signals, reasons, device):
        k, kind = reasons[v, frame]
        i = np.searchsorted(scored[k].frames, frame)
        maps[v, frame] = frame_map(scored[k].name, frame, kind, normal[k][i], scored[k].labels[i], predicted, target)
    return [maps[key] for key in reasons]


def to_scores(signals: list[FrameSignals], videos: list[Video],
              truth: Mapping[str, np.ndarray] | None = None) -> list[VideoScores]:
    """Frame by frame -> video by video, with the labels (T,) that `truth` has for each video's name, else 0."""
    scored = []
    for v, group in itertools.groupby(signals, key=lambda s: s.video):
        rows, name = list(group), videos[v].name
        frames = np.array([s.frame for s in rows])
        columns = {"psnr": [s.psnr for s in rows]}
        columns |= dict(zip(distance_names(len(rows[0].distance)), zip(*(s.distance for s in rows))))
        columns |= {key: [getattr(s, key) for s in rows] for key in ("regular_score", "memory_updated")}
        columns = {key: np.array(values, float) for key, values in columns.items()}
        labels = truth[name][frames] if truth else np.zeros(len(rows))
        scored.append(VideoScores(name, frames, columns, labels.astype(np.uint8)))
    return scored


def items_of(model: nn.Module) -> list[Tensor]:
    """A copy of the items of each memory."""
    return [memory.items.clone() for memory in model.memories]


def set_items(model: nn.Module, items: list[Tensor]) -> None:
    """Give each memory the items that `items_of` returned."""
    for memory, values in zip(model.memories, items):
        memory.items.copy_(values)


def update_memories(model: nn.Module, queries: list[Tensor]) -> None:
    """Let each memory learn from its queries."""
    for memory, q in zip(model.memories, queries):
        memory.update_(q)


def encode(model: nn.Module, clips: Tensor, config: Config) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Windows (B, T, C, H, W) -> what of their prediction does not depend on the memory; see `LGNNet.encode`."""
    with autocast(clips.device, config.score.precision):
        return model.encode(clips[:, :config.model.input_frames])


def consult(model: nn.Module, queries: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What the memories as they are say of queries: the prototypes (see `LGNNet.read`), and D of each memory, (B,)."""
    return model.read(queries), [query_distance(q, memory) for memory, q in zip(model.memories, queries)]


def judge(model: nn.Module, queries: list[Tensor], context: dict[str, Tensor], target: Tensor, config: Config,
          consulted: tuple[list[Tensor], list[Tensor]] | None = None) -> tuple[Tensor, Tensor]:
    """Predicted frames (B, C, H, W); and PSNR, R, and D of each memory, (B, 2 + memories).

    `consulted`: what `consult` gave; by default it is asked now.
    """
    prototypes, distances = consulted or consult(model, queries)
    with autocast(target.device, config.score.precision):
        predicted = model.decode(prototypes, queries, context).float()
    return predicted, torch.stack([*judge_prediction(predicted, target, config.score.psnr_peak), *distances], dim=1)


def judge_prediction(predicted: Tensor, target: Tensor, peak: str = "one") -> tuple[Tensor, Tensor]:
    """PSNR in dB and regular score R of each predicted frame.

    Args:
        predicted, target: (B, C, H, W) in [-1, 1]; compared on [0, 1].
        peak: of the PSNR, "one" or the maximum of the "prediction" (eq. 13; docs/differences.md, 6). A perfect
            prediction scores 120 dB at peak one.

    Returns:
        psnr (B,), and R = sum((1 - exp(-e)) e) / sum(1 - exp(-e)) over the squared errors e of a frame (eq. 7-8;
        docs/differences.md, 7), (B,).
    """
    error = ((predicted - target) / 2).square()                               # (B, C, H, W)
    mse = error.mean(dim=(1, 2, 3)).clamp_min(1e-12)
    top = 1.0 if peak == "one" else ((predicted + 1) / 2).amax(dim=(1, 2, 3)).square().clamp_min(1e-12)
    weight = -torch.expm1(-error)                                             # 1 - exp(-e)
    total = weight.sum(dim=(1, 2, 3)).clamp_min(torch.finfo(weight.dtype).tiny)
    return 10 * torch.log10(top / mse), (weight * error).sum(dim=(1, 2, 3)) / total


def query_distance(queries: Tensor, memory: PrototypeMemory) -> Tensor:
    """D of each frame: queries (B, D, h, w) -> mean of (q - nearest item)^2 over all h*w*D entries, (B,).

    Eq. 14, with the squares that the authors' code has (docs/differences.md, 5).
    """
    nearest = memory.items[memory.nearest(queries)[:, 0]]                     # (B*h*w, D)
    return F.mse_loss(flatten_queries(queries), nearest, reduction="none").reshape(len(queries), -1).mean(dim=1)
