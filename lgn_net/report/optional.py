"""Import the libraries that draw: a missing one costs its pictures and a sentence, never a run."""

import importlib
import warnings
from typing import Any


def optional(module: str, cost: str) -> Any:
    """Import a module that draws; where its library is missing, warn of the `cost` and return None."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        library = (missing.name or module).partition(".")[0]
        warnings.warn(f"{cost}: {library} is not installed; type pip install {library}")
        return None
