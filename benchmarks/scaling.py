"""Whether time and memory stay in proportion: classes of 10, 100 and 1,000 of the light assignment, and a regrade.

    python benchmarks/scaling.py [--sizes 10 100 1000]

Wall and CPU seconds of each run, and of each submission more than in the run before; the most memory that all processes
had, and the command's own; last, how long it takes to grade 500 again when nothing has changed.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from light import NAME, hand_in, keep_empty_gradebook, start_over, write_our_course
from measure import run

GRADE = ["course", "grade", NAME]
UNCHANGED = 500


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000], help="submissions in a class")
    options = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    print(_row("submissions", "wall s", "CPU s", "each: wall", "each: CPU", "MiB", "its own"))
    with tempfile.TemporaryDirectory(prefix="course-bench-", dir="/var/tmp") as folder:
        root = Path(folder, "course")
        write_our_course(root)
        keep_empty_gradebook(root)
        before: tuple[int, float, float] | None = None
        for size in options.sizes:
            hand_in(root, root, size)
            start_over(root)
            cost = run(GRADE, root, memory=True)
            each = ["", ""]
            if before:  # the start is the same for all
                more = size - before[0]
                each = [f"{(cost.wall - before[1]) / more:.3f}", f"{(cost.cpu - before[2]) / more:.3f}"]
            before = size, cost.wall, cost.cpu
            memory = [f"{bytes_ / 2**20:.0f}" for bytes_ in (cost.memory, cost.own_memory)]
            print(_row(size, f"{cost.wall:.1f}", f"{cost.cpu:.1f}", *each, *memory), flush=True)
        unchanged = min(UNCHANGED, size)
        hand_in(root, root, unchanged)
        print(f"unchanged_{unchanged}_wall_s={run(GRADE, root).wall:.1f}")


def _row(*values: object) -> str:
    return "".join(f"{value!s:>12}" for value in values)


if __name__ == "__main__":
    main()
