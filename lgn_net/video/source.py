"""Where frames come from: a file or folder at its own speed, a camera or stream as it comes, the newest frames only."""

import contextlib
import itertools
import math
import queue
import threading
import time
import warnings
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
    end it. Attributes: `length`, the frames of a file, and `fps`, or None; `live`; `dropped`; `began`, the clock time
    of a live source's first frame (as in `time.time`); `lost`, the error that ended it; `on_silence`, called when a
    live one is cut or silent. UserError for no picture.
    """

    def __init__(self, video: str | Path | int, channels: int = 3, fps: float | None = None, seconds: float = math.inf,
                 patience: float = 60.0, stop: Callable[[], bool] = lambda: False):
        place, self.name = find_footage(str(video))
        self.shown, self.seconds, self.patience, self.stop = shown(place), seconds, patience, stop
        self.footage = Footage(iter(()), None, None)
        self.waiting: queue.Queue[Numbered | None] = queue.Queue(KEEP)           # None: the source was cut
        self.error: Exception | None = None
        self.lost: Exception | None = None
        self.on_silence: Callable[[], None] = lambda: None
        self.ended, self.received, self.dropped = False, 0, 0
        self.began, self.opened = math.nan, time.monotonic()
        threading.Thread(target=self.read, args=(place, channels, fps), daemon=True).start()
        while not (self.received or self.ended):                                 # a file is waited for
            time.sleep(0.005)
            if stop() or (time.monotonic() - self.opened > min(seconds, patience) and not isinstance(place, Path)):
                self.ended, self.error = True, SourceLost(f"{self.shown} gave no picture")
        if self.error and not self.received:
            raise self.error
        self.live, self.fps, self.length = self.footage.live, self.footage.fps, self.footage.length

    def read(self, place: Path | str | int, channels: int, fps: float | None) -> None:
        """Read the source, in a thread of its own: FFmpeg may be silent for long. A live one is opened again."""
        pause, going = PAUSE[0], True
        while going and not self.ended:
            try:
                with open_footage(place, channels, fps) as self.footage:
                    going = self.footage.live
                    for frame in itertools.takewhile(lambda _: not self.ended, self.footage.frames):
                        if going and not self.received:
                            self.began, self.opened = time.time(), time.monotonic()
                        clock = round(time.monotonic() - self.opened, 6)
                        self.put((self.received, frame._replace(seconds=clock) if going else frame))
                        self.received, pause = self.received + 1, PAUSE[0]
            except Exception as error:                       # the main thread raises it
                self.error, going = error, isinstance(error, UserError) and self.footage.live
            if going:
                if pause == PAUSE[0]:
                    self.put(None)
                time.sleep(pause)
                pause = min(2 * pause, PAUSE[1])
        self.ended = True

    def put(self, item: Numbered | None) -> None:
        """Let a frame, or None for a cut, wait for the network; a live source's oldest one makes room."""
        if self.footage.live and self.waiting.full():
            with contextlib.suppress(queue.Empty):
                self.dropped += self.waiting.get_nowait() is not None
        self.waiting.put(item)

    def __iter__(self) -> Iterator[Numbered | None]:
        """Yield numbered frames and gaps until the source, `seconds` or `stop` ends them."""
        rate, before, last, silent = self.fps or FPS, 0.0, time.monotonic(), False
        try:
            while not self.stop():
                ended, now, what = self.ended, time.monotonic(), "cut"
                try:
                    item = self.waiting.get(timeout=0.1)
                except queue.Empty:
                    # The end: of a file, of the patience, of the time.
                    if ended:
                        self.lost = self.error
                    elif self.live and now - last > self.patience:
                        self.lost = SourceLost(f"{self.shown} gave no picture for {self.patience:g} seconds")
                    if ended or self.lost or (self.live and now - self.opened >= self.seconds):
                        return
                    if not self.live or now - last <= GAP:
                        continue
                    item, what = None, "silent"

                # A gap: a cut or a silence, of which the user hears once, or a hole in the time stamps.
                if item is None:
                    if not silent:
                        warnings.warn(f"{self.shown} is {what} after frame {self.received - 1}; waiting "
                                      f"{self.patience:g} s")
                        self.on_silence()
                        yield None
                    silent = True
                    continue
                number, frame = item
                moment = number / rate if math.isnan(frame.seconds) else frame.seconds
                if moment >= self.seconds:
                    return
                if moment - before > max(GAP, 10 / rate):
                    yield None
                before, last, silent = moment, now, False
                yield number, frame
        finally:
            self.ended = True
            with contextlib.suppress(queue.Empty):
                self.waiting.get_nowait()                    # the thread may wait for room
