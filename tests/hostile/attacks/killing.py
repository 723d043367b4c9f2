"""Attacks that end processes, or see to it that theirs cannot be ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attack import Attack, Control
from controls import Bench, works_without_walls
from course import POINTS
from rooms import run_cell

from autograder.results import Verdict
from autograder.sandbox.room import RoomEnded

WHEN_ASKED = "def volume(side, height):\n    if float(height) == 3.5:\n        {}\n    return area(side) * height"
"""An answer that is right, and does something else first when a hidden check asks for it."""


def ends_its_process(attack: Attack, bench: Bench) -> None:
    """Without walls the process that it runs in ends, and hidden tests with it."""
    ran = bench.run(attack)
    assert "process" in ran.text.splitlines()[-1] and len(ran.passed) < len(POINTS), ran.text


def script(attack: Attack, bench: Bench, *last: str, first: str = "") -> list[str]:
    """A command that runs the attack as a script: a first line, its cell, its answers, and last lines."""
    folder = bench.hand_in(attack)
    lines = ["from known import *", "import torch", "from torch import Tensor", "def area(side): return side**2", first]
    (folder / "script.py").write_text("\n".join([*lines, attack.cell, *attack.answers.values(), *last]))
    return [sys.executable, str(folder / "script.py")]


def never_ends(*last: str, ignoring_signals: bool = False) -> Control:
    """As a script with these last lines it never ends."""

    def control(attack: Attack, bench: Bench) -> None:
        """As a script it never ends."""
        with begun(attack, bench, *last) as process:
            if ignoring_signals:
                process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)

    return control


def takes_more_than(size: int, *last: str) -> Control:
    """As a script with these last lines it comes to have more than this many bytes in memory."""

    def control(attack: Attack, bench: Bench) -> None:
        """As a script it comes to have more memory than a submission may."""
        with begun(attack, bench, *last) as process:
            while sum(map(resident, session(process.pid))) <= size:
                assert process.poll() is None
                time.sleep(0.05)

    return control


@contextmanager
def begun(attack: Attack, bench: Bench, *last: str) -> Iterator[subprocess.Popen[str]]:
    """The attack as a script that has reached its last lines, or its cell where it has none; killed in the end."""
    say = 'print("begun", flush=True)'
    command = script(attack, bench, say, *last) if last else script(attack, bench, first=say)
    with subprocess.Popen(
        command, cwd=bench.hand_in(attack), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            while (line := process.stdout.readline()) != "begun\n":
                assert line, "it never began"
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for pid in (int(path.name) for path in Path("/proc").glob("[0-9]*")):
        with contextlib.suppress(ProcessLookupError):
            found += [pid] if os.getsid(pid) == leader else []
    return found


def resident(pid: int) -> int:
    """Bytes that a process has in memory."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def ends_when_it_is_forked(attack: Attack, bench: Bench) -> None:
    """Without walls its process ends when a copy is made of it."""
    with bench.room(attack) as room:
        run_cell(room, attack.cell)
        with pytest.raises(RoomEnded):
            room.fork()


def kills_its_parent(attack: Attack, bench: Bench) -> None:
    """Started by a shell, it leaves none to say that it came through."""
    command = ["setsid", "--wait", "sh", "-c", '"$0" "$1"; echo survived', *script(attack, bench)]
    done = subprocess.run(command, cwd=bench.hand_in(attack), capture_output=True, text=True, check=False)
    assert "survived" not in done.stdout


def leaves_a_process(named: str) -> Control:
    """Without walls a process with this in its command line is still there when the submission's own has ended."""

    def control(attack: Attack, bench: Bench) -> None:
        """Without walls a process of it is still there when its own has ended."""
        bench.run(attack)
        time.sleep(0.5)
        left = processes_with(named)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left

    return control


def processes_with(named: str) -> list[int]:
    """Processes of this machine by a part of their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [int(path.parent.name)] if named.encode() in path.read_bytes() else []
    return found


NO_CORE = "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
"""Before a crash: where nothing forbids it, the kernel would write the process's memory to a file."""


def in_a_cell(name: str, what: str, cell: str, reason: str, control: Control = ends_its_process) -> Attack:
    """An attack of one cell that ends its process: the cell is left out, and nothing else is lost."""
    return Attack(name, what, control, cell=cell, verdict=Verdict.STUDENT_FAULT, reason=f"cell 1: {reason}")


def in_a_check(
    name: str, what: str, statement: str, control: Control, *, cell: str = "", long: bool = False, stock: bool = True
) -> Attack:
    """An attack that waits for a hidden check: it costs its own task."""
    answers = {"volume": WHEN_ASKED.format(statement)}
    return Attack(name, what, control, cell=cell, answers=answers, marks=(2, 0), long=long, stock=stock)


def without_effect(name: str, what: str, cell: str, control: Control) -> Attack:
    """An attack of one cell that changes nothing."""
    return Attack(name, what, control, cell=cell)


ASKED = "volume(torch.tensor([1.25]), torch.tensor([3.5]))"
IGNORE_SIGNALS = """
import signal
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
"""
CATCH_EVERYTHING = """
def never_end():
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
"""

ATTACKS = (
    in_a_cell("exits", "Ends its process in a cell.", "import os\nos._exit(0)", "your code ended its process"),
    in_a_cell(
        "breaks_the_memory", "Reads where there is no memory.", NO_CORE + "import ctypes\nctypes.string_at(0)",
        "the process was ended by SIGSEGV",
    ),
    in_a_cell("aborts", "Aborts its process.", NO_CORE + "import os\nos.abort()", "the process was ended by SIG"),
    in_a_cell(
        "overflows_the_stack", "Recurses in C until the stack is full.",
        NO_CORE + "import sys\nsys.setrecursionlimit(10**9)\ndef again(_):\n    return list(map(again, [0]))\nagain(0)",
        "the process was ended by SIGSEGV",
    ),
    in_a_cell(
        "hangs_up", "Closes the socket over which the grader asks.",
        "import os\nfor number in range(3, 256):\n    try: os.close(number)\n    except OSError: pass",
        "",
    ),
    in_a_check(
        "exits_when_asked", "Ends its process in a hidden check.", "__import__('os')._exit(0)", ends_its_process
    ),
    without_effect(
        "kills_itself", "Kills its own process.", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        ends_its_process,
    ),
    without_effect(
        "kills_its_parent", "Kills its parent and all of its process group.",
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.killpg(0, signal.SIGKILL)",
        kills_its_parent,
    ),
    without_effect(
        "signals_the_grader", "Sends a signal, here a harmless one, to a process of the grader and to every other.",
        """
import os, signal
tried("signalling")
for pid in (GRADER, *range(2, 5000)):
    try:
        os.kill(pid, 0 if pid != GRADER else signal.SIGCONT)
        worked(pid)
        break
    except OSError:
        pass
""",
        works_without_walls,
    ),
    without_effect(
        "stops_itself", "Stops its own process, which nothing that it can catch ends.",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        never_ends(),
    ),
    in_a_check(
        "stops_when_asked", "Stops its process in a hidden check.",
        "__import__('os').kill(__import__('os').getpid(), 19)", never_ends(ASKED), long=True,
    ),
    in_a_check(
        "sleeps_when_asked", "Ignores every signal and sleeps in a hidden check.", "__import__('time').sleep(10**6)",
        never_ends(ASKED, ignoring_signals=True), cell=IGNORE_SIGNALS,
    ),
    in_a_check(
        "never_ends_when_asked", "Ignores every signal and catches every exception in an endless loop.", "never_end()",
        never_ends(ASKED, ignoring_signals=True), cell=IGNORE_SIGNALS + CATCH_EVERYTHING,
    ),
    without_effect(
        "leaves_a_thread", "Leaves a thread that the interpreter waits for.",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(10**6,)).start()",
        never_ends(),
    ),
    without_effect(
        "sleeps_at_the_end", "Sleeps when its process ends: at exit and when an object is destroyed.",
        """
import atexit, time
class Sleeper:
    def __del__(self):
        time.sleep(10**6)
sleeper = Sleeper()
atexit.register(time.sleep, 10**6)
""",
        never_ends(),
    ),
    without_effect(
        "leaves_daemons", "Leaves processes without parent, session and open files, which ignore every signal.",
        IGNORE_SIGNALS + """
import os, subprocess
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 256)
            os.chdir("/")
            os.execvp("sleep", ["sleep", "619.5"])
        os._exit(0)
""",
        leaves_a_process("619.5"),
    ),
    Attack(
        "dies_when_it_is_forked",
        "Ends its process when the grader has a copy made of it for the checks of a task.",
        ends_when_it_is_forked,
        cell="import os\nos.register_at_fork(after_in_parent=lambda: os._exit(0))",
        marks=(0, 0),
    ),
)  # fmt: skip
