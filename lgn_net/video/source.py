"""Where frames come from: a file or folder at its own speed, a camera or stream as it comes, the newest frames only."""

import math
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from lgn_net.data.footage import Footage, Frame, find_footage, open_footage, shown
from lgn_net.errors import UserError

Numbered = tuple[int, Frame]   # number of a frame in its video, from 0, and the frame
FPS = 25.0                    # of a source that does not say it
GAP = 5.0                     # seconds (and ten frames) without a frame, after which what comes does not follow
KEEP = 16                     # frames that wait for the network; a live source's older ones are dropped
PAUSE = 0.5, 16.0             # seconds until a cut source is opened again: at first, and at most


class SourceLost(UserError):
    """Raised when a live source gives no picture any more."""


class Source:
    """An opened video, to iterate over once: its frames and their numbers, and None for a gap. A thread reads it.

    Frames of a live source that the network is too slow for are dropped; they count in the numbers. After a cut the
    source is opened again, until for `patience` seconds there was no picture. `stop` and `seconds` of the source's time
    end it. Attributes: `length`, the frames to come, None where it is not known; `fps` (or None); `live`; `dropped`;
    `began`, the clock time of a live source's first frame (as in `time.time`). UserError when no picture comes.
    """

    def __init__(self, video: str | Path | int, channels: int = 3, fps: float | None = None, seconds: float = math.inf,
                 patience: float = 60.0, stop: Callable[[], bool] = lambda: False):
        place, self.name = find_footage(str(video))
        self.shown, self.seconds, self.patience, self.stop = shown(place), seconds, patience, stop
        self.footage = Footage(iter(()), None, None)
        self.waiting: deque[Numbered | None] = deque()                 # None: the source was cut
        self.error: Exception | None = None
        self.changed, self.ended, self.received, self.dropped = threading.Condition(), False, 0, 0
        self.began, self.opened = math.nan, time.monotonic()
        threading.Thread(target=self.read, args=(place, channels, fps), daemon=True).start()
        while not (self.received or self.ended):                       # a file is waited for
            time.sleep(0.005)
            if stop() or (time.monotonic() - self.opened > min(seconds, patience) and not isinstance(place, Path)):
                self.ended, self.error = True, SourceLost(f"{self.shown} gave no picture; is it on?")
        if self.error and not self.received:
            raise self.error
        self.live, self.fps, length = self.footage.live, self.footage.fps, self.footage.length
        self.length = length and int(min(length, math.ceil(min(seconds, 1e9) * (self.fps or FPS))))

    def read(self, place: Path | str | int, channels: int, fps: float | None) -> None:
        """Read the source, in a thread of its own: FFmpeg may be silent for long. A live one is opened again."""
        pause, going = PAUSE[0], True
        while going and not self.ended:
            try:
                with open_footage(place, channels, fps) as self.footage:
                    going = self.footage.live
                    for frame in self.footage.frames:
                        pause = PAUSE[0]
                        self.put(frame)
                        if self.ended:
                            return
            except Exception as error:                       # the main thread raises it
                self.error, going = error, isinstance(error, UserError) and self.footage.live
            if going:
                self.waiting.append(None)
                time.sleep(pause)
                pause = min(2 * pause, PAUSE[1])
        self.ended = True

    def put(self, frame: Frame) -> None:
        """Add a frame for the network and give a live one its time; wait, or drop the oldest, where too many wait."""
        with self.changed:
            self.changed.wait_for(lambda: self.footage.live or self.ended or len(self.waiting) < KEEP)
            if self.footage.live:
                if not self.received:
                    self.began, self.opened = time.time(), time.monotonic()
                frame = frame._replace(seconds=round(time.monotonic() - self.opened, 6))
            self.waiting.append((self.received, frame))
            self.received += 1
            if self.footage.live and len(self.waiting) > KEEP:
                self.dropped += self.waiting.popleft() is not None
            self.changed.notify_all()

    def __iter__(self) -> Iterator[Numbered | None]:
        """Yield numbered frames and gaps until the source, `seconds` or `stop` ends them. SourceLost: see the class."""
        rate, before, last, silent = self.fps or FPS, 0.0, time.monotonic(), False
        try:
            while not self.stop():
                with self.changed:
                    self.changed.wait_for(lambda: self.waiting or self.ended, 0.1)
                    ended, items = self.ended, [self.waiting.popleft()] if self.waiting else []
                    self.changed.notify_all()
                now = time.monotonic()

                # A frame; a hole in the time stamps before it is a gap.
                if items and items[0]:
                    number, frame = items[0]
                    moment = number / rate if math.isnan(frame.seconds) else frame.seconds
                    if moment >= self.seconds:
                        return
                    if moment - before > max(GAP, 10 / rate):
                        yield None
                    before, last, silent = moment, now, False
                    yield number, frame

                # A cut and a silence are gaps, too, of which the user hears at once.
                elif not silent and (items or (self.live and not ended and now - last > min(GAP, self.patience))):
                    if not ended:
                        warnings.warn(f"{self.shown} is {'cut' if items else 'silent'} after frame {self.received - 1};"
                                      f" waiting {self.patience:g} seconds for it to come back")
                    silent = True
                    yield None

                # The end: of a file, of the time, of the patience.
                elif ended and self.error:
                    raise self.error
                elif ended or (self.live and now - self.opened >= self.seconds):
                    return
                elif self.live and now - last > self.patience:
                    raise SourceLost(f"{self.shown} gave no picture for {self.patience:g} seconds; is it still on?")
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify_all()
