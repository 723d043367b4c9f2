"""The folder that a sandbox keeps its files in while it runs, and the removal of those whose sandbox was killed.

Whoever uses a folder holds a lock on it, which the kernel gives back when the process ends, however it ends. A folder
that nobody holds has lost its owner.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "course-grading-"


def parent_folder() -> Path:
    """Where these folders are made; the user whom a root's sandbox runs as may not reach root's TMPDIR."""
    return Path("/tmp") if os.getuid() == 0 else Path(tempfile.gettempdir())


def make_folder() -> tuple[Path, int]:
    """A new folder, and the descriptor to close when it is no longer needed."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent_folder()))
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # it had no owner for a moment, in which it was taken for a lost one
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # or was until it was locked
            return folder, lock
        os.close(lock)


def remove_lost_folders() -> None:
    """Remove folders of ours whose owner is gone; links and what belongs to others are left alone."""
    for folder in parent_folder().glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # in use
        finally:
            os.close(lock)
