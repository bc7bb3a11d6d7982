"""Where frames come from: a file or folder."""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from lgn_net.data.footage import find_footage, open_footage
from lgn_net.video.scoring import Numbered

FPS = 25.0                    # of a source that does not say it
GAP = 5.0                     # seconds (and ten frames) without a frame, after which what comes does not follow


class Source:
    """An opened video, to iterate over once: its frames and their numbers, and None for a gap.

    `length` is the number of frames that are to come, None where it is not known; `fps` may be None, too.
    """

    def __init__(self, video: str | Path | int, channels: int = 3, fps: float | None = None, seconds: float = math.inf,
                 stop: Callable[[], bool] = lambda: False):
        self.place, self.name = find_footage(str(video))
        self.seconds, self.stop, self.stack = seconds, stop, contextlib.ExitStack()
        self.footage = self.stack.enter_context(open_footage(self.place, channels, fps))
        self.fps, self.live, length = self.footage.fps, self.footage.live, self.footage.length
        self.length = length and int(min(length, math.ceil(seconds * (self.fps or FPS) if seconds < 1e9 else length)))

    def __iter__(self) -> Iterator[Numbered | None]:
        """Yield numbered frames until the video, `seconds` or `stop` ends it."""
        before, longest = 0.0, max(GAP, 10 / (self.fps or FPS))
        with self.stack:
            for t, frame in enumerate(self.footage.frames):
                moment = t / (self.fps or FPS) if math.isnan(frame.seconds) else frame.seconds
                if self.stop() or moment >= self.seconds:
                    return
                if moment - before > longest:
                    yield None
                before = moment
                yield t, frame
