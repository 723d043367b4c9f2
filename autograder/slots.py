"""Things of this machine that one process has at a time, among all that grade on it: a GPU, a core.

Whoever has one holds a lock on a file, which the kernel gives back when the process ends, however it ends.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path("/tmp")
"""Where the locks lie: in one place for all users of a machine, whatever their TMPDIR."""


@contextlib.contextmanager
def slot(name: str, *, wait: bool = True) -> Iterator[bool]:
    """Have a thing alone, inside.

    Args:
        name: What it is called, on this machine.
        wait: Whether to wait until nobody else has it; else it is not had where somebody does.

    Returns:
        Whether it is had.
    """
    descriptor = _open(name)
    try:
        had = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            had = False
        yield had
    finally:
        os.close(descriptor)


def _open(name: str) -> int:
    path = FOLDER / f"course-{name}.lock"
    with contextlib.suppress(FileExistsError):  # to open another user's file with O_CREAT is refused in /tmp
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
