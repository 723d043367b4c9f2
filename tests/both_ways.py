"""Grades submissions in the two ways that there are: with forks on the CPU, and as on a GPU but for the GPU.

    python tests/both_ways.py ROOT ASSIGNMENT [--touched] < {"NAME": {"TASK": "source that takes the answer's place"}}

prints {"NAME": [result, result]} as JSON. One sandbox and one collection of the checks serve both.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from autograder.authoring import read_script, solved_notebook
from autograder.autograde import Branching, autograde, collected_checks, points_of
from autograder.course import load_course
from autograder.plugin import Check
from autograder.replay import with_checks
from autograder.results import SubmissionResult
from autograder.sandbox.room import Sandbox
from autograder.submission import Release, Submission, canonical_cells, imported_modules
from autograder.variants import load_variants
from autograder.worker import CHECKS_ENVIRONMENT

WAYS: tuple[tuple[str, Branching], ...] = (("cpu", "fork"), ("standin", "rerun"))
FOUND = "found: "
Answers = dict[str, dict[str, str]]


def graded_both_ways(
    root: Path, assignment: str, answers: Answers, *, touched_only: bool = False
) -> dict[str, tuple[SubmissionResult, SubmissionResult]]:
    """The results of submissions: by forking on the CPU, and by running the notebook again on the stand-in.

    Args:
        root: The course folder.
        assignment: Name of the assignment.
        answers: For each submission, what takes the place of the reference's answers.
        touched_only: Ask only the checks of tasks that this can change, which takes a fraction of the time.
    """
    options = ["--touched"] if touched_only else []
    done = subprocess.run(
        [sys.executable, "-P", __file__, str(root), assignment, *options],
        input=json.dumps(answers), capture_output=True, text=True,
        env={**os.environ, **CHECKS_ENVIRONMENT}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(FOUND)]
    found = json.loads(line.removeprefix(FOUND))
    return {name: tuple(map(SubmissionResult.model_validate, pair)) for name, pair in found.items()}


def variants_and_reference(root: Path, assignment: str) -> Answers:
    """What each variant of an assignment puts in its task's place; the reference nothing."""
    variants = load_variants(root / "tests" / "variants" / f"{assignment}.py")
    return {"reference": {}, **{variant.name: {variant.task: variant.source} for variant in variants}}


def verdicts(result: SubmissionResult) -> dict[str, bool]:
    """Which checks passed, by task and name."""
    return {f"{task.name}/{check.name}": check.passed for task in result.tasks for check in task.checks}


def touched(checks: list[Check], overrides: dict[str, str]) -> list[Check]:
    """The checks of the tasks that are answered otherwise, and those that use these tasks."""
    return [check for check in checks if overrides.keys() & {check.task.name, *check.needs}]


def main() -> None:
    """Grade what standard input holds."""
    root, assignment = Path(sys.argv[1]), sys.argv[2]
    course, answers = load_course(root), json.load(sys.stdin)
    script, release = read_script(root / "solutions" / f"{assignment}.py"), Release.read(root, assignment)
    preload = course.assignment(assignment).preload

    def grade(items: list[Any], sandbox: Sandbox) -> None:
        points = points_of(course.assignment(assignment), release.notebook)
        checks = collected_checks(items, points)
        found = {}
        for name, overrides in answers.items():
            notebook = json.loads(json.dumps(solved_notebook(script, overrides)))
            cells = canonical_cells(notebook, release.notebook)
            submission = Submission(assignment, name, cells, release.files)
            found[name] = []
            asked = touched(checks, overrides) if "--touched" in sys.argv and overrides else checks
            worth = {task: points[task] for task in points if task in {check.task.name for check in asked}}
            for device, branching in WAYS:
                for check in checks:
                    check.item.config.option.checks_device = device
                result = autograde(submission, asked, sandbox, course.limits, worth, device=device, branching=branching)
                found[name].append(result.model_dump(mode="json"))
        print(f"\n{FOUND}{json.dumps(found)}", flush=True)

    with Sandbox(
        course.sandbox, course.limits, root, preload=preload, imports=imported_modules(release.notebook)
    ) as sandbox:
        with_checks(root, assignment, lambda items: grade(items, sandbox))
    os._exit(0)


if __name__ == "__main__":
    main()
