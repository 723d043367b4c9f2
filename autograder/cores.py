"""One core for each submission that is graded.

The process that judges and the one that answers take turns: each question wakes one and puts the other to sleep. On two
cores both sleep deeply and wake up to cold caches; on one, the other is already there. Which core, no scheduler can
know: it takes an idle one for a better place.
"""

import contextlib
import os
from collections.abc import Iterator

from autograder.slots import slot


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, inside, on a core that no other grading on this machine has meanwhile.

    Where all are taken, or the system knows no such thing, it stays where it may be.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    cores = sorted(allowed)
    first = os.getpid() % len(cores)  # not all are to begin with the same
    with contextlib.ExitStack() as slots:
        for core in (*cores[first:], *cores[:first]):
            with contextlib.suppress(OSError):  # a lock that may not be opened, a core that is switched off just now
                if slots.enter_context(slot(f"core-{core}", wait=False)):
                    os.sched_setaffinity(0, {core})
                    break
        try:
            yield
        finally:
            os.sched_setaffinity(0, allowed)
