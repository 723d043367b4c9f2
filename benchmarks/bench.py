"""How this package compares with stock nbgrader: the same light class graded by both, in turns, on this machine.

    python benchmarks/bench.py [--runs 3] [--ours 200] [--stock 10]

Each of the two grades a small and a larger class; the slope between them is what one more submission costs, the rest
is what every run costs. Everything counts: sandbox, checks, the executed notebook, recording in the gradebook. Medians
over the runs; progress goes to stderr, the table to stdout, and the last line holds the ratios.

Where otter-grader is installed, `otter run` grades three of the submissions too, with the one command for each that it
is made for.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).parents[1]))

from light import (
    NAME,
    hand_in,
    keep_empty_gradebook,
    start_over,
    write_otter_autograder,
    write_our_course,
    write_stock_course,
)
from measure import Cost, run

from autograder.results import load_result

CLASS = 30
BY_OTTER = 3


@dataclass(frozen=True)
class Line:
    """A cost that grows with the class: what every run takes, and what each submission takes."""

    fixed: float
    each: float

    @staticmethod
    def through(few: int, cost_of_few: float, many: int, cost_of_many: float) -> "Line":
        """The line through two measured points."""
        each = (cost_of_many - cost_of_few) / (many - few)
        return Line(cost_of_few - few * each, each)

    def at(self, count: int) -> float:
        """What a class of this size takes."""
        return self.fixed + count * self.each


@dataclass(frozen=True)
class Found:
    """Medians over all runs of one grader."""

    wall: Line
    cpu: Line
    memory: int


class Contestant:
    """One of the two graders, with its course folder."""

    def __init__(self, name: str, root: Path, ours: Path, command: list[str], sizes: tuple[int, int]) -> None:
        self.name, self.root, self.ours, self.command, self.sizes = name, root, ours, command, sizes
        self.costs: dict[int, list[Cost]] = {size: [] for size in sizes}
        self.memory = 0

    def grade(self, size: int, *, memory: bool = False) -> Cost:
        """Grade a class of a size from nothing."""
        hand_in(self.root, self.ours, size)
        start_over(self.root)
        cost = run(self.command, self.root, memory=memory)
        recorded = len(list(self.root.glob(f"autograded/*/{NAME}/{NAME}.ipynb")))
        assert recorded == size, f"{self.name}: {recorded} of {size} were recorded"
        return cost

    def take_turns(self) -> None:
        """One timed run for each size."""
        for size in self.sizes:
            self.costs[size].append(self.grade(size))
            cost = self.costs[size][-1]
            print(f"  {self.name}: {size} submissions in {cost.wall:.1f} s, {cost.cpu:.1f} CPU s", file=sys.stderr)

    def found(self) -> Found:
        """What the runs come to."""
        few, many = self.sizes
        wall, cpu = (
            Line.through(
                few, median(getattr(one, what) for one in self.costs[few]),
                many, median(getattr(one, what) for one in self.costs[many]),
            )
            for what in ("wall", "cpu")
        )  # fmt: skip
        return Found(wall, cpu, self.memory)


def otter_run(folder: Path, ours: Path) -> Cost | None:
    """What `otter run` takes for a submission, the median of some; None where it is not installed."""
    if not shutil.which("otter"):
        return None
    print("Otter:", file=sys.stderr)
    write_otter_autograder(folder / "autograder.zip", ours)
    hand_in(folder, ours, BY_OTTER)
    costs = []
    for notebook in sorted(folder.glob(f"submitted/*/{NAME}/{NAME}.ipynb")):
        costs.append(run(["otter", "run", str(notebook), "--autograder", "autograder.zip"], folder))
        marks = [test.get("score", 0) for test in json.loads((folder / "results.json").read_text())["tests"]]
        assert sum(marks) == 2, f"Otter gave {marks}"
        print(f"  one submission in {costs[-1].wall:.1f} s, {costs[-1].cpu:.1f} CPU s", file=sys.stderr)
    return Cost(median(one.wall for one in costs), median(one.cpu for one in costs))


def student_seconds(root: Path) -> float:
    """CPU seconds of student code, on average, as the results of the last run say."""
    results = [load_result(path) for path in (root / "results" / NAME).glob("*.json")]
    return mean(one.cpu_seconds for one in results if one is not None)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="how often each class is graded")
    parser.add_argument("--ours", type=int, default=200, help="submissions in our larger class")
    parser.add_argument("--stock", type=int, default=10, help="submissions in nbgrader's larger class")
    options = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(prefix="course-bench-", dir="/var/tmp") as folder:
        ours, stock = Path(folder, "ours"), Path(folder, "stock")
        print("Making both courses ...", file=sys.stderr)
        write_our_course(ours)
        write_stock_course(stock, ours)
        for root in (ours, stock):
            keep_empty_gradebook(root)
        few = max(2, options.ours // 10)
        contestants = (
            Contestant("this package", ours, ours, ["course", "grade", NAME], (few, options.ours)),
            Contestant("stock nbgrader", stock, ours, ["nbgrader", "autograde", NAME], (2, options.stock)),
        )
        print("Memory, which also reads in from the disk what both need:", file=sys.stderr)
        for contestant in contestants:
            contestant.memory = contestant.grade(contestant.sizes[0], memory=True).memory
        for number in range(options.runs):
            print(f"Run {number + 1} of {options.runs}:", file=sys.stderr)
            for contestant in contestants:
                contestant.take_turns()
        in_students_code = student_seconds(ours)
        otter = otter_run(Path(folder), ours)
        tell(contestants[0].found(), contestants[1].found(), otter, in_students_code, options.runs)


def tell(ours: Found, stock: Found, otter: Cost | None, in_students_code: float, runs: int) -> None:
    """Print the table and the ratios."""
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {runs} runs, medians; nbgrader "
          f"{version('nbgrader')}, torch {version('torch')}")  # fmt: skip
    print(f"{'':32}{'this package':>14}{'stock nbgrader':>16}{'ratio':>8}")
    rows = [
        ("wall s for one more submission", ours.wall.each, stock.wall.each),
        ("CPU s for one more submission", ours.cpu.each, stock.cpu.each),
        ("wall s to start", ours.wall.fixed, stock.wall.fixed),
        ("CPU s to start", ours.cpu.fixed, stock.cpu.fixed),
        (f"wall s for a class of {CLASS}", ours.wall.at(CLASS), stock.wall.at(CLASS)),
        ("peak memory, MiB", ours.memory / 2**20, stock.memory / 2**20),
    ]
    for what, mine, theirs in rows:
        print(f"{what:32}{mine:14.3f}{theirs:16.3f}{theirs / mine if mine > 0 else float('nan'):8.1f}")
    print(f"CPU s in student code, per submission: {in_students_code:.3f}")
    if otter:
        wall, cpu = otter.wall / ours.wall.each, otter.cpu / ours.cpu.each
        print(f"otter run {version('otter-grader')}, without a gradebook: {otter.wall:.2f} wall s for a submission "
              f"({wall:.1f} times ours), {otter.cpu:.2f} CPU s ({cpu:.1f} times ours)")  # fmt: skip
    else:
        print("otter run: otter-grader is not installed")
    print(
        f"throughput_ratio={stock.wall.each / ours.wall.each:.1f} cpu_ratio={stock.cpu.each / ours.cpu.each:.1f} "
        f"class30_ratio={stock.wall.at(CLASS) / ours.wall.at(CLASS):.1f} "
        f"overhead_cpu_s={ours.cpu.each - in_students_code:.3f}"
    )


if __name__ == "__main__":
    main()
