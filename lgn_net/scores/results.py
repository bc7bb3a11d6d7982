"""What an evaluation found, as it stands in results.json: a dictionary with the keys in docs/protocols.md."""

import json
from pathlib import Path
from typing import Any

from lgn_net.errors import UserError
from lgn_net.files import to_json, write_atomic

# Keys that say what the scores are of; measuring them again takes over what the results.json beside them says.
PROVENANCE = ("dataset", "labels", "complete_benchmark", "scores", "direction", "checkpoint", "versions", "config",
              "memories", "localization", "quality")


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write results.json."""
    write_atomic(path, to_json(results))


def results_beside(scores: str | Path) -> dict[str, Any] | None:
    """Read the results.json that an evaluation wrote beside its score file; None where there is none.

    UserError for a file that is damaged, or holds something else.
    """
    path = Path(scores).with_name("results.json")
    if not path.is_file():
        return None
    try:
        results = json.loads(path.read_text())
        return results | {"signals": dict(results["signals"])}
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is damaged, or was not written by evaluate.py; evaluate again, or move it away and "
                        f"give --lambda") from None
