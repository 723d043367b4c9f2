"""Where the time goes: what grading a solved notebook of each assignment costs, and how much of it is ours.

    python benchmarks/shares.py [NAME]... [--count 12]

For each assignment, in CPU seconds of the whole machine per submission: its cells and its checks with nothing around
them (`plain.py`), grading with everything included, the difference, and what of it recording in the gradebook takes.
The start of the command does not count (see `bench.py` for it). The last line is the largest overhead.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from light import keep_empty_gradebook, start_over
from measure import slope

from autograder.authoring import read_script, solved_notebook
from autograder.course import load_course
from autograder.release import release

ROOT = Path(__file__).parents[1]
TO_RECORD = 40


@dataclass(frozen=True)
class Share:
    """CPU seconds per submission of one assignment."""

    assignment: str
    cells: float
    checks: float
    all: float
    recording: float
    feedback: float

    @property
    def overhead(self) -> float:
        """What is neither the student's code nor the checks."""
        return self.all - self.cells - self.checks


def copy_of_course(root: Path) -> None:
    """This course in another folder, with a gradebook of its own."""
    for name in ("solutions", "source", "tests/checks"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("course_config.py", "nbgrader_config.py", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    release(root, load_course(root))
    keep_empty_gradebook(root)


def hand_in(root: Path, assignment: str, count: int) -> None:
    """Hand the solved notebook in this many times."""
    shutil.rmtree(root / "submitted", ignore_errors=True)
    notebook = json.dumps(solved_notebook(read_script(root / "solutions" / f"{assignment}.py")))
    for number in range(count):
        folder = root / "submitted" / f"student{number:04}" / assignment
        shutil.copytree(root / "release" / assignment, folder)
        (folder / f"{assignment}.ipynb").write_text(notebook)


def share_of(root: Path, assignment: str, count: int) -> Share:
    """Measure one assignment."""
    plain = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "plain.py"), assignment], capture_output=True, text=True, check=True
    )
    alone = json.loads(plain.stdout.splitlines()[-1])
    grade = ["course", "grade", assignment, "--jobs", "1", "--json"]
    start_over(root)
    hand_in(root, assignment, count)
    graded = slope(grade, root, leave_out=2)
    # The same result for a larger class: all that is left to do is to record it.
    text = (root / "results" / assignment / "student0000.json").read_text()
    start_over(root)
    hand_in(root, assignment, TO_RECORD)
    (root / "results" / assignment).mkdir(parents=True)
    for number in range(TO_RECORD):
        name = f"student{number:04}"
        (root / "results" / assignment / f"{name}.json").write_text(text.replace("student0000", name))
    recorded = slope(grade, root, leave_out=2)
    feedback = slope(["course", "feedback", assignment, "--jobs", "1"], root, leave_out=2)
    return Share(assignment, alone["cells"], alone["checks"], graded.cpu, recorded.cpu, feedback.cpu)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="assignments; all of them by default")
    parser.add_argument("--count", type=int, default=12, help="submissions that are graded")
    options = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = options.names or [assignment.name for assignment in load_course(ROOT).assignments]
    shares = []
    with tempfile.TemporaryDirectory(prefix="course-bench-", dir="/var/tmp") as folder:
        root = Path(folder, "course")
        root.mkdir()
        copy_of_course(root)
        columns = ("all", "cells", "checks", "overhead", "recording", "feedback")
        print(f"{'CPU s per submission':24}{''.join(f'{column:>11}' for column in columns)}")
        for name in names:
            share = share_of(root, name, options.count)
            shares.append(share)
            values = [getattr(share, column) for column in columns]
            print(f"{name:24}{''.join(f'{value:11.3f}' for value in values)}", flush=True)
    print(f"overhead_cpu_s_max={max(share.overhead for share in shares):.2f} "
          f"recording_cpu_s_max={max(share.recording for share in shares):.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
