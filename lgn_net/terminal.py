"""How every command shows its progress, warns, stops and ends. Needs no torch: what only reads files starts at once."""

import contextlib
import importlib
import os
import shutil
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

from tqdm import tqdm

from lgn_net.errors import TrainingDiverged, UserError


def progress(title: str, total: int, unit: str, initial: int = 0) -> tqdm:
    """Make a bar with rate and time left on stderr; a line every half minute where stderr is no terminal."""
    form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
    if sys.stderr.isatty() and shutil.get_terminal_size().columns < 130:         # too narrow for the bar
        form = "{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    return tqdm(total=total, initial=initial, desc=title, unit=f" {unit}", bar_format=form, dynamic_ncols=True,
                smoothing=0.05, mininterval=0.2 if sys.stderr.isatty() else 30,
                disable=os.environ.get("RANK", "0") != "0")           # the first process of torchrun shows it


def visible(text: str) -> str:
    """Write out control characters, such as the first one of an ANSI escape, by their codes; line ends stay."""
    return text if text.isprintable() else "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


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

    With `second_ends=False` a second signal is ignored. With `patience`, the process ends so many seconds after
    SIGTERM, whatever it does: it may hang, or a step may take longer than torchrun and the like wait before they kill.
    """

    def __init__(self, second_ends: bool = True, patience: float | None = None):
        self.received: int | None = None
        self.second_ends, self.patience, self.left = second_ends, patience, threading.Event()

    def __enter__(self) -> Self:
        self.previous: dict[int, Any] = {s: signal.signal(s, self.receive) for s in (signal.SIGINT, signal.SIGTERM)}
        if self.patience:
            # Python runs `receive` only between two calls of the main thread; the socket gets the signal at once.
            reader, self.writer = socket.socketpair()
            self.writer.setblocking(False)
            signal.set_wakeup_fd(self.writer.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self.watch, args=(reader,), daemon=True).start()
        return self

    def receive(self, signum: int, _frame: object) -> None:
        """Remember the first signal and give the next one back its usual meaning."""
        self.received = self.received or signum
        if self.second_ends:
            signal.signal(signum, self.previous[signum])

    def watch(self, reader: socket.socket) -> None:
        """Wait for SIGTERM, then for the end of the block; end the process where that is late."""
        with reader:
            while reader.recv(1) not in (b"", bytes([signal.SIGTERM])):
                pass
        if not self.left.wait(self.patience):
            os.write(2, f"error: not saved within {self.patience:g} s of SIGTERM; --resume auto goes on\n".encode())
            os._exit(128 + signal.SIGTERM)

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
        self.left.set()
        if self.patience:
            signal.set_wakeup_fd(-1)
            self.writer.close()


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Call `main(argv)` and exit: UserError, full disks and the like in one sentence with 2, divergence with 1."""
    out: Any = sys.stdout
    with contextlib.suppress(AttributeError, OSError):                           # no terminal or pipe
        out.reconfigure(errors="backslashreplace")                               # for a terminal without some letters
    shown: Any = SimpleNamespace(write=lambda text: out.write(visible(text)), flush=out.flush, isatty=out.isatty)
    # The full disk of a writer's thread reaches the main thread, too.
    threading.excepthook = lambda args: isinstance(args.exc_value, OSError) or threading.__excepthook__(args)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(shown):
            # Warnings are one line on stderr, without their place in the code.
            warnings.showwarning = lambda message, *_: tqdm.write(visible(f"warning: {message}"), file=sys.stderr)
            sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:                                                      # the reader, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + getattr(signal, "SIGPIPE", 13))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except (UserError, OSError, RuntimeError, MemoryError, TrainingDiverged) as error:
        lines = (str(error).strip() or repr(error)).splitlines()
        sentence = lines[-1]
        if isinstance(error, FileNotFoundError) and error.filename:
            sentence = f"{error.filename}: no such file or folder"
        elif isinstance(error, MemoryError) or {"OutOfMemoryError:", "DefaultCPUAllocator:"} & {       # PyTorch's
                f"{type(error).__name__}:", *lines[0].split()}:
            sentence = f"memory is full ({lines[0]}); try a smaller network, batch_size or --data.image_size"
        elif isinstance(error, RuntimeError):
            raise
        print(visible(f"error: {sentence}"), file=sys.stderr)
        sys.exit(1 if isinstance(error, TrainingDiverged) else 2)
