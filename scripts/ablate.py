"""Train, evaluate and tabulate the rows of a plan: another name for scripts/run_plan.py."""

import runpy

runpy.run_path(__file__.replace("ablate.py", "run_plan.py"), run_name="__main__")
