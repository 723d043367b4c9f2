"""Attacks that leave something for whoever is graded next: files, processes, changes of what submissions start from.

Each looks first for what it has left in an earlier submission, and there are two of each in the class.
"""

import os
import signal
import subprocess
import textwrap
from pathlib import Path

from attack import WORKED, Attack, Control
from controls import Bench, works_without_walls
from rooms import run_cell

from attacks.killing import processes_with, script

LOOK_AND_LEAVE = """
tried({name!r})
def look():
{look}

def leave():
{leave}

if look():
    worked()
leave()
"""


def twice(name: str, what: str, control: Control, *, look: str, leave: str) -> tuple[Attack, Attack]:
    """Two students who hand in the same."""
    parts = {"look": look, "leave": leave}
    indented = {key: textwrap.indent(textwrap.dedent(part).strip(), "    ") for key, part in parts.items()}
    cell = LOOK_AND_LEAVE.format(name=name, **indented)
    return Attack(f"{name}_a", what, control, cell=cell), Attack(f"{name}_z", what, control, cell=cell)


def found_by_the_next(attack: Attack, bench: Bench) -> None:
    """Without walls a second process of the same submission finds what the first has left."""
    command, folder = script(attack, bench), bench.hand_in(attack)
    environment = {**os.environ, "HOME": str(folder)}
    printed = [
        subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    for path in (*Path("/tmp").glob("left-behind*"), *Path("/dev/shm").glob("left-behind*")):
        path.unlink()
    for pid in processes_with(str(folder / "script.py")):
        os.kill(pid, signal.SIGKILL)
    assert WORKED in printed[1], printed


def found_in_the_same_process(attack: Attack, bench: Bench) -> None:
    """Run again in a process that has run it, as where one kernel serves all, it finds what it has left."""
    with bench.room(attack) as room:
        first, second = (str(run_cell(room, "from known import *\n" + attack.cell)[0]) for _ in range(2))
    assert WORKED not in first and WORKED in second


ATTACKS = (
    *twice(
        "leaves_files", "Leaves files in every folder that it can write to.", found_by_the_next,
        look="""
        import glob, os
        folders = ("/tmp", "/dev/shm", "/var/tmp", os.path.expanduser("~"))
        return any(glob.glob(f"{folder}/left-behind*") + glob.glob(f"{folder}/.left-behind") for folder in folders)
        """,
        leave="""
        import os
        os.makedirs(os.path.expanduser("~/.left-behind"), exist_ok=True)
        for folder in ("/tmp", "/dev/shm"):
            with open(f"{folder}/left-behind-{os.getpid()}", "w") as file:
                file.write("for the next")
        """,
    ),
    *twice(
        "leaves_patches", "Changes what every submission starts from: modules, defaults, environment, random state.",
        found_in_the_same_process,
        look="""
        import os, torch
        return (
            hasattr(torch, "left_behind") or torch.get_default_dtype() == torch.float64 or "LEFT_BEHIND" in os.environ
            or torch.initial_seed() == 271828
        )
        """,
        leave="""
        import os, torch
        torch.left_behind = True
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(271828)
        os.environ["LEFT_BEHIND"] = "1"
        """,
    ),
    *twice(
        "leaves_listeners", "Leaves a process that answers the next submission over a socket without a file.",
        found_by_the_next,
        look="""
        import socket
        with socket.socket(socket.AF_UNIX) as caller:
            try:
                caller.connect("\\0left-behind")
                return True
            except OSError:
                return False
        """,
        leave="""
        import os, signal, socket, time
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind("\\0left-behind")
        except OSError:
            return
        listener.listen()
        if os.fork() == 0:
            os.setsid()
            signal.alarm(60)
            os.closerange(0, 3)
            time.sleep(10**6)
        """,
    ),
    Attack(
        "writes_among_packages",
        "Leaves a start-up file where Python looks for packages, for every process that starts from there.",
        works_without_walls,
        cell="""
import os, sys
tried("writing")
for folder in sys.path:
    path = f"{folder}/left-behind-{os.getpid()}.pth"
    if os.path.realpath(folder or ".") != os.getcwd() and "shapes" not in folder:
        try:
            open(path, "x").close()
            os.unlink(path)
            worked(folder)
        except OSError:
            pass
""",
    ),
)  # fmt: skip
