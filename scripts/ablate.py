"""Train, evaluate and tabulate the rows of a plan: another name for scripts/run_plan.py."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("run_plan.py")), run_name="__main__")
