"""Runs `course` commands in children that kill themselves (SIGKILL) at their n-th step.

A step is whatever changes the course's folder: opening a file to write, renaming, deleting, making a folder, before and
after each fsync and each commit to the gradebook. Python's audit events tell of them, so that no place in the package
has to be named. Reads one JSON object per line, {"folder", "arguments", "step", "output"}; step 0 is never. Answers
with {"status", "steps"}: the exit status, negative for a signal, and the number of steps taken.
"""

import itertools
import json
import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from autograder import export, status, terminal  # noqa: F401 - imported once, not in every child
from autograder.cli import main

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Steps:
    """Counts steps in memory that outlives the child, and ends the child at one of them."""

    def __init__(self, root: str, last: int, counter: mmap.mmap) -> None:
        self.root, self.last, self.counter = root, last, counter
        self.numbers = itertools.count(1)

    def step(self) -> None:
        """One more."""
        number = next(self.numbers)
        self.counter[:8] = struct.pack("q", number)
        if number == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if event == "open":
            path, _, flags = arguments
            if flags & WRITING and self._inside(path):
                self.step()
        elif event in CHANGES and (self._inside(arguments[0]) or self._in_open_folder(arguments)):
            self.step()

    def _inside(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.root)

    @staticmethod
    def _in_open_folder(arguments: tuple[Any, ...]) -> bool:
        """Whether a path is relative to a descriptor, as where a whole folder is removed."""
        return (
            isinstance(arguments[-1], int) and arguments[-1] >= 0 and not Path(os.fsdecode(arguments[0])).is_absolute()
        )

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a step before and one after it."""

        def stepping(*arguments: Any) -> Any:
            self.step()
            result = function(*arguments)
            self.step()
            return result

        return stepping


def run(folder: str, arguments: list[str], step: int, output: str, counter: mmap.mmap) -> None:
    """The child: a `course` command in a folder, its output in a file."""
    os.chdir(folder)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    steps = Steps(folder, step, counter)
    os.fsync = steps.around(os.fsync)
    SQLiteDialect_pysqlite.do_commit = steps.around(SQLiteDialect_pysqlite.do_commit)
    sys.addaudithook(steps.watch)
    main(arguments)


def serve() -> None:
    """Answer requests until there are no more."""
    counter = mmap.mmap(-1, 8)
    for line in sys.stdin:
        request = json.loads(line)
        counter[:8] = bytes(8)
        child = os.fork()
        if not child:
            run(request["folder"], request["arguments"], request["step"], request["output"], counter)
        _, ended = os.waitpid(child, 0)
        (steps,) = struct.unpack("q", counter[:8])
        print(json.dumps({"status": os.waitstatus_to_exitcode(ended), "steps": steps}), flush=True)


if __name__ == "__main__":
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]
    serve()
