"""Where frames come from: a file or folder at its own speed, a camera or stream as it comes, the newest frames only."""

import contextlib
import math
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from lgn_net.data.footage import Footage, Frame, find_footage, open_footage, shown
from lgn_net.errors import UserError
from lgn_net.video.scoring import Numbered

FPS = 25.0                    # of a source that does not say it
GAP = 5.0                     # seconds (and ten frames) without a frame, after which what comes does not follow
KEEP = 16                     # frames of a live source that wait for the network; older ones are dropped
PAUSE = 0.5, 16.0             # seconds until a cut source is opened again: at first, and at most


class SourceLost(UserError):
    """A live source gives no picture any more."""


class Source:
    """An opened video, to iterate over once: its frames and their numbers, and None for a gap.

    A live source is read by a thread. Frames that the network is too slow for are dropped; they count in the numbers.
    After a cut the source is opened again, until for `patience` seconds there was no picture. `stop` and `seconds` of
    the source's time end it. Attributes: `length`, the frames to come, None where it is not known; `fps` (or None);
    `live`; `dropped`; `began`, the clock time of a live source's first frame (as in `time.time`).
    """

    def __init__(self, video: str | Path | int, channels: int = 3, fps: float | None = None, seconds: float = math.inf,
                 patience: float = 60.0, stop: Callable[[], bool] = lambda: False):
        place, self.name = find_footage(str(video))
        self.shown, self.seconds, self.patience, self.stop = shown(place), seconds, patience, stop
        self.waiting: deque[tuple[int, int, Frame]] = deque()          # connection, number, frame
        self.changed, self.ended, self.error = threading.Condition(), False, UserError()
        self.connection, self.received, self.dropped, self.began = 0, 0, 0, math.nan
        self.stack, self.opened, self.footage = contextlib.ExitStack(), time.monotonic(), Footage(iter(()), None, None)
        if isinstance(place, Path):
            self.footage = self.stack.enter_context(open_footage(place, channels, fps))
        else:
            threading.Thread(target=self.read, args=(place, channels, fps), daemon=True).start()
            while not (self.received or self.ended):
                time.sleep(0.02)
                if stop() or time.monotonic() - self.opened > min(seconds, patience):
                    self.ended, self.error = True, SourceLost(f"{self.shown} gave no picture; is it on?")
            if not self.received:
                raise self.error
        self.fps, self.live, length = self.footage.fps, self.footage.live, self.footage.length
        self.length = length and int(min(length, math.ceil(min(seconds, 1e9) * (self.fps or FPS))))

    def read(self, place: str | int, channels: int, fps: float | None) -> None:
        """Read a live source, in a thread of its own: FFmpeg may be silent for long. A stream of known length waits."""
        pause, live = PAUSE[0], True
        while live and not self.ended:
            try:
                with open_footage(place, channels, fps) as footage:
                    live = footage.live
                    for frame in footage.frames:
                        pause = PAUSE[0]
                        self.put(frame, footage)
                        if self.ended:
                            return
            except UserError as error:
                self.error, live = error, self.received > 0
            self.connection += live
            if live:
                time.sleep(pause)
                pause = min(2 * pause, PAUSE[1])
        self.ended = True

    def put(self, frame: Frame, footage: Footage) -> None:
        """Add a frame for the network and give a live one its time; drop the oldest one where too many wait."""
        with self.changed:
            self.changed.wait_for(lambda: footage.live or self.ended or len(self.waiting) < KEEP)
            if footage.live:
                self.began = self.began if self.received else time.time()
                self.opened = self.opened if self.received else time.monotonic()
                frame = frame._replace(seconds=round(time.monotonic() - self.opened, 6))
            self.waiting.append((self.connection, self.received, frame))
            self.received, self.footage = self.received + 1, footage
            if len(self.waiting) > KEEP:
                self.waiting.popleft()
                self.dropped += 1
            self.changed.notify_all()

    def __iter__(self) -> Iterator[Numbered | None]:
        """Yield numbered frames and gaps until the source, `seconds` or `stop` ends them. SourceLost: see the class."""
        before, longest = 0.0, max(GAP, 10 / (self.fps or FPS))
        try:
            for item in self.arriving() if self.received else enumerate(self.footage.frames):
                if item is not None:
                    moment = item[0] / (self.fps or FPS) if math.isnan(item[1].seconds) else item[1].seconds
                    if self.stop() or moment >= self.seconds:
                        return
                    if moment - before > longest:
                        yield None
                    before = moment
                yield item
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify_all()
            self.stack.close()

    def arriving(self) -> Iterator[Numbered | None]:
        """Yield what the thread reads, None at a cut and in a silence, until it is too long or the time is over."""
        last, connection, silent = time.monotonic(), 0, False
        while not self.stop():
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.ended, 0.1)
                ended, item = self.ended, self.waiting.popleft() if self.waiting else None
                self.changed.notify_all()
            now, cut = time.monotonic(), (item[0] if item else self.connection) != connection
            if cut or (item is None and now - last > min(GAP, self.patience) and not silent):
                if not ended:
                    warnings.warn(f"{self.shown} is {'cut' if cut else 'silent'} after frame {self.received - 1}; "
                                  f"waiting {self.patience:g} seconds for it to come back")
                connection, silent = item[0] if item else self.connection, True
                yield None
            if item:
                last, silent = now, False
                yield item[1:]
            elif ended or (self.live and now - self.opened >= self.seconds):
                return
            elif now - last > self.patience:
                raise SourceLost(f"{self.shown} gave no picture for {self.patience:g} seconds; is it still on?")
