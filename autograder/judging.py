"""Bounds on the trusted side: what judging one submission may take of the grader's own computing time and memory.

A check works with what a submission answered. An answer can be far larger than the reference's, and take the check
long or be multiplied to more than there is; then the check has failed, and the grader goes on.
"""

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

JUDGING_SECONDS = 60.0
"""CPU seconds of the grader that one check may take; where the reference needs a second, it is a slow check."""
JUDGING_BYTES = 4 * 2**30
"""Memory that the process which judges a submission may map beyond what the worker has."""


class JudgingTooLong(BaseException):
    """A check computed for too long with what came; no `except Exception` of the check's own may hide it."""


@contextlib.contextmanager
def limited_judging() -> Iterator[None]:
    """Interrupt what runs inside once this process has computed for `JUDGING_SECONDS`; waiting does not count.

    Raises:
        JudgingTooLong: In what runs inside.
    """

    def interrupt(*_: Any) -> None:
        raise JudgingTooLong(f"the check computed for more than {JUDGING_SECONDS:g} seconds with what came")

    before = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, JUDGING_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def mapped_bytes() -> int:
    """Memory that this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def limit_memory() -> None:
    """Let this process map no more than `JUDGING_BYTES` beyond what it has mapped now, whatever it was let before."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped_bytes() + JUDGING_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
