"""What a solved notebook and its hidden checks cost with nothing around them: no sandbox, no gradebook, one process.

    python benchmarks/plain.py information_theory

Prints {"cells": CPU seconds, "checks": CPU seconds} as JSON, the means of a stretch of runs, each in a fork of one warm
process: of the stretch that took least, as with submissions that are graded (see `measure.slope`). The checks ask the
solution through the same encode and decode as a submission, and pytest runs them: both are counted as theirs.
"""

import contextlib
import importlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import STRETCH

from autograder.worker import CHECKS_ENVIRONMENT

ROOT = Path(__file__).parents[1]
RUNS = 8


def measured(notebook: str, items: list[Any]) -> dict[str, float]:
    """Run the cells of a notebook, as source, and then checks; the CPU seconds of both."""
    from autograder.plugin import CONNECT, as_check, run_check
    from autograder.remote.client import loopback

    namespace: dict[str, Any] = {"__name__": "__main__"}
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(notebook, "notebook", "exec"), namespace)
    ran = time.process_time()
    student = loopback(namespace)
    for check in filter(None, map(as_check, items)):
        check.item.config.stash[CONNECT] = lambda: student
        assert run_check(check).passed, check.item.name
    return {"cells": ran - started, "checks": time.process_time() - ran}


def in_a_fork(function: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a function returns in a child, which so leaves no trace."""
    reading, writing = os.pipe()
    if not os.fork():
        os.write(writing, json.dumps(function()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found: dict[str, float] = json.loads(pipe.read())
    os.wait()
    return found


def main(assignment: str) -> None:
    """Measure and print."""
    import torch

    from autograder.authoring import read_script, without_markers
    from autograder.replay import with_checks
    from autograder.submission import imported_modules, read_released

    torch.set_num_threads(1)
    sys.path.append(str(ROOT / "solutions"))
    for name in imported_modules(read_released(ROOT, assignment)):
        with contextlib.suppress(ImportError):  # some are names in a module
            importlib.import_module(name)
    cells = [cell for cell in read_script(ROOT / "solutions" / f"{assignment}.py").cells if cell.kind == "code"]
    notebook = "\n\n".join(without_markers(cell.source) for cell in cells if not cell.demo)
    found: list[dict[str, float]] = []

    def measure(items: list[Any]) -> None:
        found.extend(in_a_fork(lambda: measured(notebook, items)) for _ in range(RUNS))

    with_checks(ROOT, assignment, measure)
    stretches = (found[i : i + STRETCH] for i in range(RUNS - STRETCH + 1))
    quickest = min(stretches, key=lambda stretch: sum(sum(run.values()) for run in stretch))
    print(json.dumps({what: round(fmean(run[what] for run in quickest), 3) for what in quickest[0]}))


if __name__ == "__main__":
    if not os.environ.keys() >= CHECKS_ENVIRONMENT.keys():  # libraries read it when they are loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **CHECKS_ENVIRONMENT})
    main(sys.argv[1])
