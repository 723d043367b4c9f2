"""Where the time goes: what grading a solved notebook of each assignment costs, and how much of it is ours.

    python benchmarks/shares.py [NAME]... [--count 12] [--rounds 3] [--picture FILE]

For each assignment, in CPU seconds of the whole machine per submission: its cells and its checks with nothing around
them (`plain.py`), grading with everything included, the difference, and what of it recording in the gradebook takes.
The start of the command does not count (see `bench.py` for it). All are measured in turns, round after round, and the
least of all stretches counts, of runs of cells and checks as of submissions: what else a processor does makes either
longer, never shorter. Then a profile of recording, by library. The last line is
the largest overhead.
"""

import argparse
import cProfile
import json
import os
import pstats
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from light import keep_empty_gradebook, start_over
from measure import STRETCH, slope

from autograder.authoring import read_script, solved_notebook
from autograder.course import load_course
from autograder.release import release
from autograder.results import load_result, result_path

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

    @property
    def sandbox(self) -> float:
        """What of that is not recording: rooms, forks, what crosses, reading and writing files."""
        return self.overhead - self.recording


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


def share_of(root: Path, assignment: str, count: int, rounds: int) -> Share:
    """Measure one assignment: the least of each part in several rounds."""
    found = [astuple(_share_once(root, assignment, count))[1:] for _ in range(rounds)]
    return Share(assignment, *map(min, zip(*found, strict=True)))


def _share_once(root: Path, assignment: str, count: int) -> Share:
    plain = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "plain.py"), assignment], capture_output=True, text=True, check=True
    )
    alone = json.loads(plain.stdout.splitlines()[-1])
    grade = ["course", "grade", assignment, "--jobs", "1", "--json"]
    start_over(root)
    hand_in(root, assignment, count)
    graded = slope(grade, root, leave_out=2, stretch=STRETCH)
    # The same result for a larger class: all that is left to do is to record it.
    text = (root / "results" / assignment / "student0000.json").read_text()
    start_over(root)
    hand_in(root, assignment, TO_RECORD)
    (root / "results" / assignment).mkdir(parents=True)
    for number in range(TO_RECORD):
        name = f"student{number:04}"
        (root / "results" / assignment / f"{name}.json").write_text(text.replace("student0000", name))
    recorded = slope(grade, root, leave_out=2, stretch=TO_RECORD // 2)
    feedback = slope(["course", "feedback", assignment, "--jobs", "1"], root, leave_out=2, stretch=TO_RECORD // 2)
    return Share(assignment, alone["cells"], alone["checks"], graded.cpu, recorded.cpu, feedback.cpu)


def recording_by_library(root: Path, assignment: str) -> dict[str, float]:
    """The share of recording's computing time that each library takes by itself, largest first.

    What is built into Python counts for the library that called it.
    """
    from autograder.gradebook import ready_to_record, record

    course = load_course(root)
    found = (load_result(result_path(root, assignment, f"student{number:04}")) for number in range(TO_RECORD))
    results = [result for result in found if result is not None]
    config = ready_to_record(root, course, assignment)
    record(root, course, results[0], config)  # compiles the statements
    profile = cProfile.Profile()
    for result in results[1:]:
        profile.runcall(record, root, course, result, config)
    spent: Counter[str] = Counter()
    functions: dict[tuple[str, int, str], tuple[int, int, float, float, dict[tuple[str, int, str], tuple[float, ...]]]]
    functions = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    for (file, _, _), (_, _, own, _, callers) in functions.items():
        if file == "~":
            for (caller, _, _), times in callers.items():
                spent[_library(caller)] += times[2]
        else:
            spent[_library(file)] += own
    whole = sum(spent.values())
    return {name: seconds / whole for name, seconds in spent.most_common()}


def _library(file: str) -> str:
    installed = re.search(r"-packages/(\w+)", file)
    return installed[1] if installed else "autograder" if "/autograder/" in file else "Python's own"


def draw(shares: Sequence[Share], path: Path) -> None:
    """Draw a bar for each assignment, made of what its submissions' computing time goes to."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.5 * len(shares) + 1.6), layout="constrained")
    left = [0.0] * len(shares)
    for what, color in (
        ("cells", "#1b6ca8"), ("checks", "#7fb3d5"), ("sandbox and the rest", "#d98e32"), ("recording", "#8e5ea2")
    ):  # fmt: skip
        widths = [one.sandbox if what == "sandbox and the rest" else getattr(one, what) for one in shares]
        axes.barh([one.assignment for one in shares], widths, left=left, label=what, color=color)
        left = [before + width for before, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("CPU seconds for one submission")
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="assignments; all of them by default")
    parser.add_argument("--count", type=int, default=12, help="submissions that are graded")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the table into a .png or .svg file")
    options = parser.parse_args()
    if options.picture:
        options.picture = options.picture.absolute()
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
            share = share_of(root, name, options.count, options.rounds)
            shares.append(share)
            values = [getattr(share, column) for column in columns]
            print(f"{name:24}{''.join(f'{value:11.3f}' for value in values)}", flush=True)
        by_library = recording_by_library(root, names[-1]).items()
    print(f"recording {names[-1]}: {', '.join(f'{name} {share:.0%}' for name, share in by_library if share > 0.01)}")
    if options.picture:
        draw(shares, options.picture)
    print(f"overhead_cpu_s_max={max(share.overhead for share in shares):.2f} "
          f"recording_cpu_s_max={max(share.recording for share in shares):.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
