"""How many epochs fit into a given time (`train.fit_minutes`)."""

import math
import time
from collections.abc import Callable

from lgn_net.config import Config
from lgn_net.datasets import BENCHMARKS, canonical_name

WARM_UP, MEASURED = 10, 40      # steps before the measured ones, and measured ones
START, SCORED = 30.0, 32        # seconds that an evaluation takes to start and to write; frames scored to measure it


class EpochFitter:
    """Measures the first steps of a run and chooses its number of epochs, `train.epochs` at most.

    `score` scores so many frames, to measure how long the evaluation of the benchmark's test frames takes.
    """

    def __init__(self, config: Config, steps_per_epoch: int, score: Callable[[int], object]):
        self.config, self.steps_per_epoch, self.score = config, steps_per_epoch, score
        self.times = [time.monotonic()]

    def after_step(self) -> int | None:
        """Count a step. After the measured ones return how many epochs fit, and say so; None at all other steps."""
        self.times.append(time.monotonic())
        steps, now = len(self.times) - 1, self.times[-1]
        if steps != WARM_UP + MEASURED:
            return None
        a_step, minutes = (now - self.times[WARM_UP]) / MEASURED, self.config.train.fit_minutes or 0.0
        self.score(SCORED)
        benchmark = BENCHMARKS.get(canonical_name(self.config.data.dataset))
        reserve = START + (time.monotonic() - now) / SCORED * (benchmark.test[1] if benchmark else 0)
        left = 60 * minutes - (time.monotonic() - self.times[0]) - reserve
        epochs = min(self.config.train.epochs, int((steps + left / a_step) / self.steps_per_epoch))
        epochs = max(math.ceil(steps / self.steps_per_epoch), epochs)                      # of them, these have begun
        print(f"{epochs} epochs fit into {minutes:g} minutes: {a_step:.3f} s a step, {self.steps_per_epoch} steps an "
              f"epoch, {reserve:.0f} s for the evaluation", flush=True)
        return epochs
