"""From the normality of frames to alarms: low frames that stay, with short gaps bridged."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def with_alarms(frames: Iterable[T], normality_of: Callable[[T], float], threshold: float, length: int,
                gap: int) -> Iterator[tuple[T, float, bool]]:
    """Yield each frame with its normality and whether it is in an alarm, at most `length` + `gap` frames later.

    A frame is low when its normality is below the threshold; NaN never is. Low frames with at most `gap` other frames
    between them belong together. They are an alarm, from the first to the last of them, if that is `length` frames or
    more.
    """
    waiting: list[tuple[T, float]] = []        # undecided frames; outside an alarm the first of them is low
    lows = 0                                   # of these, the frames up to the last low one
    on = False                                 # the frame before them is in an alarm
    for frame in frames:
        waiting.append((frame, normality_of(frame)))
        if waiting[-1][1] < threshold:
            lows = len(waiting)
            on = on or lows >= length
            decided = on
        else:
            decided = len(waiting) - lows > gap or not (on or lows)
            on = on and not decided
        if decided:
            yield from ((*item, on) for item in waiting)
            waiting, lows = [], 0
    yield from ((*item, False) for item in waiting)
