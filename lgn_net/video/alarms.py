"""From the normality of frames to alarms: low frames that stay, with short gaps bridged."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Alarms:
    """Decides of every frame whether it is in an alarm, at most `length` + `gap` frames later.

    Low frames with at most `gap` other frames between them belong together. They are an alarm, from the first to the
    last of them, if that is `length` frames or more.
    """

    def __init__(self, length: int, gap: int):
        self.length, self.gap = length, gap
        self.undecided = self.after = 0        # undecided frames up to the last low one; frames behind that one
        self.on = False

    def add(self, low: bool) -> list[bool]:
        """Take a frame. Return what is decided by now, frame by frame from the first undecided one."""
        if low:
            self.undecided, self.after = self.undecided + self.after + 1, 0
            self.on = self.on or self.undecided >= self.length
            decided = [True] * self.undecided * self.on
            self.undecided -= len(decided)
            return decided
        self.after += 1
        return [] if (self.on or self.undecided) and self.after <= self.gap else self.finish()

    def finish(self) -> list[bool]:
        """End the run of low frames: the undecided frames are in no alarm."""
        decided = [False] * (self.undecided + self.after)
        self.undecided, self.after, self.on = 0, 0, False
        return decided


def with_alarms(frames: Iterable[T], normality_of: Callable[[T], float], threshold: float, length: int,
                   gap: int) -> Iterator[tuple[T, float, bool]]:
    """Yield each frame with its normality and whether it is in an alarm.

    Args:
        frames: anything, one item a frame.
        normality_of: NaN for a frame without score.
        threshold: normality below which a frame is low.
        length: number of frames of the shortest alarm.
        gap: number of frames that do not end an alarm although they are not low.
    """
    alarms = Alarms(length, gap)
    waiting: deque[tuple[T, float]] = deque()
    for frame in frames:
        waiting.append((frame, normality_of(frame)))
        for alarm in alarms.add(waiting[-1][1] < threshold):
            yield *waiting.popleft(), alarm
    for alarm in alarms.finish():
        yield *waiting.popleft(), alarm
