"""Run DAGs in this process by `dag.test()`: scenarios as JSON on standard input, states of their tasks as the last line.

A separate program, because Airflow takes over logging and warnings of the process that runs tasks.
"""

import importlib
import json
import os
import sys
from pathlib import Path


def run(scenario):
    name = scenario["dag"]
    (Path(os.environ["ALCHEMIST_HOME"]) / "plan.json").write_text(json.dumps(scenario.get("plan", {})))
    done = getattr(importlib.import_module(f"alchemist_dags.{name}"), name)().test(run_conf=scenario["conf"])
    states = {}
    for task in done.get_task_instances():
        states.setdefault(task.task_id, []).append(str(task.state))
    return {"state": str(done.state), "tasks": states}


if __name__ == "__main__":
    print("\n" + json.dumps([run(scenario) for scenario in json.load(sys.stdin)]))
