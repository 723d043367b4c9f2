"""Whether time and memory stay in proportion: classes of 10, 100 and 1,000 of the light assignment, and a regrade.

    python benchmarks/scaling.py [--sizes 10 100 1000] [--rounds 3]

Wall and CPU seconds of each class, and of each submission more than in the class before; the most memory that all
processes had, and the command's own; last, how long it takes to grade 500 again when nothing has changed. The classes
are graded in turns, round after round, and the least of each counts: what else the machine does takes longer, never
shorter. Of memory it is the most.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from light import NAME, hand_in, keep_empty_gradebook, start_over, write_our_course
from measure import Cost, run

GRADE = ["course", "grade", NAME]
UNCHANGED = 500


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000], help="submissions in a class")
    parser.add_argument("--rounds", type=int, default=3, help="how often each class is graded")
    options = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    print(_row("submissions", "wall s", "CPU s", "each: wall", "each: CPU", "MiB", "its own"))
    with tempfile.TemporaryDirectory(prefix="course-bench-", dir="/var/tmp") as folder:
        root = Path(folder, "course")
        write_our_course(root)
        keep_empty_gradebook(root)
        hand_in(root, root, options.sizes[0])
        start_over(root)
        run(GRADE, root)  # reads in from the disk what all need, and does not count
        costs: dict[int, list[Cost]] = {size: [] for size in options.sizes}
        for _ in range(options.rounds):
            for size, found in costs.items():
                hand_in(root, root, size)
                start_over(root)
                found.append(run(GRADE, root, memory=True))
        before: tuple[int, float, float] | None = None
        for size, found in costs.items():
            wall, cpu = min(cost.wall for cost in found), min(cost.cpu for cost in found)
            each = ["", ""]
            if before:  # the start is the same for all
                more = size - before[0]
                each = [f"{(wall - before[1]) / more:.3f}", f"{(cpu - before[2]) / more:.3f}"]
            before = size, wall, cpu
            memory = [max(cost.memory for cost in found), max(cost.own_memory for cost in found)]
            print(_row(size, f"{wall:.1f}", f"{cpu:.1f}", *each, *(f"{one / 2**20:.0f}" for one in memory)), flush=True)
        unchanged = min(UNCHANGED, size)
        hand_in(root, root, unchanged)
        print(f"unchanged_{unchanged}_wall_s={run(GRADE, root).wall:.1f}")


def _row(*values: object) -> str:
    return "".join(f"{value!s:>12}" for value in values)


if __name__ == "__main__":
    main()
