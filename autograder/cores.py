"""One core for each submission that is graded.

The process that judges and the one that answers take turns: each question wakes one and puts the other to sleep. On two
cores both sleep deeply and wake up to cold caches; on one, the other is already there. Which core, no scheduler can
know: it takes an idle one for a better place.
"""

import contextlib
import os

from autograder.slots import take


def stay_on_one_core() -> None:
    """Keep this process, until it ends, on a core that no other grading on this machine has taken.

    Where all are taken, or the system knows no such thing, it stays where it may be.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    first = os.getpid() % len(cores)  # not all are to begin with the same
    for core in (*cores[first:], *cores[:first]):
        with contextlib.suppress(OSError):  # a lock that may not be opened, a core that is switched off just now
            if take(f"core-{core}"):
                os.sched_setaffinity(0, {core})
                return
