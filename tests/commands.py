"""Commands as an instructor types them, each in a fork of a process that has imported what takes them seconds.

Run as a program, it reads one JSON object per line, {"command", "folder", "environment", "said", "complained"}, runs
the command in that folder with its output in those two files, and answers with its exit status.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import autograder

IMPORTED = ("autograder.cli", "autograder.terminal", "autograder.recording", "autograder.export", "autograder.status",
            "autograder.feedback", "autograder.release", "nbgrader.apps.nbgraderapp")  # fmt: skip


def run(root: Path, environment: dict[str, str], *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the installed packages, such as `course`, in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        said, complained = Path(folder, "stdout"), Path(folder, "stderr")
        request = {
            "command": command, "folder": str(root), "environment": environment, "said": str(said),
            "complained": str(complained),
        }  # fmt: skip
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(f"{json.dumps(request)}\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(command, status, said.read_text(), complained.read_text())


@functools.cache
def _server() -> "subprocess.Popen[str]":
    """The process that forks, started at first use; it ends with this one, whose end closes its input."""
    return subprocess.Popen(
        [sys.executable, "-P", __file__], env={**os.environ, "PYTHONPATH": str(Path(autograder.__file__).parents[1])},
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def _serve() -> None:
    for name in IMPORTED:
        __import__(name)
    programs = {found.name: found for found in entry_points(group="console_scripts")}
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _become(request)
            sys.exit(programs[request["command"][0]].load()())  # which ends as the script of that name would
        _, ended = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)


def _become(request: dict[str, Any]) -> None:
    """Take on a command's folder, environment, arguments and files to write to."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "said"), (2, "complained")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = request["command"]


if __name__ == "__main__":
    _serve()
