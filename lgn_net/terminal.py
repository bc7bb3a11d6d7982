"""How every command shows its progress, warns, stops and ends. Needs no torch: what only reads files starts at once."""

import contextlib
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Self

from tqdm import tqdm

from lgn_net.errors import TrainingDiverged, UserError


def progress(title: str, total: int, unit: str, initial: int = 0) -> tqdm:
    """Make a bar with rate and time left on stderr; a line every half minute where stderr is no terminal.

    Of the processes of torchrun the first one shows it.
    """
    form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
    return tqdm(total=total, initial=initial, desc=title, unit=f" {unit}", bar_format=form, dynamic_ncols=True,
                smoothing=0.05, mininterval=0.2 if sys.stderr.isatty() else 30,
                disable=os.environ.get("RANK", "0") != "0")


def visible(text: str) -> str:
    """Write out control characters, such as the first one of an ANSI escape, by their codes; line ends stay."""
    return text if text.isprintable() else "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Print warnings as one line `warning: ...` on stderr, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: tqdm.write(visible(f"warning: {message}"), file=sys.stderr)
        yield


def optional(module: str, cost: str) -> Any:
    """Import a module that may be missing; where it is, warn of the `cost` and return None."""
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:                                 # RuntimeError: versions do not fit
        library = (getattr(error, "name", None) or module).partition(".")[0]
        warnings.warn(f"{cost}: {library} is missing or does not fit ({error}); type pip install {library}")
        return None


class StopOnSignal:
    """Turns the first SIGINT or SIGTERM into a flag to look at between steps; the second one ends the process.

    With `second_ends=False` it does not.
    """

    def __init__(self, second_ends: bool = True):
        self.received: int | None = None
        self.second_ends = second_ends

    def __enter__(self) -> Self:
        self.previous: dict[int, Any] = {s: signal.signal(s, self.receive) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def receive(self, signum: int, _frame: object) -> None:
        """Remember the first signal and give the next one back its usual meaning."""
        self.received = self.received or signum
        if self.second_ends:
            signal.signal(signum, self.previous[signum])

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Call `main(argv)` and exit: UserError, full disks and the like in one sentence with 2, divergence with 1."""
    out: Any = sys.stdout
    shown: Any = SimpleNamespace(write=lambda text: out.write(visible(text)), flush=out.flush, isatty=out.isatty)
    try:
        with plain_warnings(), contextlib.redirect_stdout(shown):
            sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:                                                      # the reader, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except (UserError, OSError, TrainingDiverged) as error:
        # A data worker's error arrives as the text of its traceback; the sentence is its last line.
        sentence = (str(error).strip() or repr(error)).splitlines()[-1].rpartition("UserError: ")[2]
        print(visible(f"error: {sentence}"), file=sys.stderr)
        sys.exit(1 if isinstance(error, TrainingDiverged) else 2)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":                           # PyTorch's
            raise
        print(f"error: the device's memory is full ({str(error).splitlines()[0]}); try a smaller --train.batch_size, "
              f"--score.batch_size or --data.image_size", file=sys.stderr)
        sys.exit(2)
