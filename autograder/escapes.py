"""The ways out of a room that student code might look for, each tried by a function that says whether it worked.

`course doctor` makes each attempt twice: in a real room, where it must fail, and outside, where it must succeed, since
one that fails outside too proves nothing. `course grade` and nbgrader make each once, in rooms of the sandbox that is
about to grade, and grade nothing where one works.
"""

# Attempts to break out speak in the plainest terms that the kernel has.
# ruff: noqa: PTH106, PTH108, PTH109, PTH110, PTH116, PTH118, PTH123, PTH208

import contextlib
import inspect
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder.course import Limits

if TYPE_CHECKING:
    from autograder.sandbox.room import Room, Sandbox

GIB = 2**30
ATTEMPT_SECONDS, GONE_SECONDS = 10.0, 5.0


class WayOut(RuntimeError):
    """Student code can leave its room on this machine, or it could not be tried: nothing may be graded."""


@dataclass(frozen=True)
class Attempt:
    """One way out of a room.

    Attributes:
        what: What student code could do if it works, after "student code can".
        function: Tries it and returns whether it worked. Its source runs elsewhere, so it imports what it uses.
        inside: Arguments in the room, where it must not work.
        outside: Arguments outside, where it must.
    """

    what: str
    function: Callable[..., bool]
    inside: dict[str, Any]
    outside: dict[str, Any]


@dataclass(frozen=True)
class Tried:
    """What an attempt came to: whether it worked, or a text that says why that is not known.

    Attributes:
        what: What student code could do if it works, after "student code can".
        inside: In a room.
        outside: Outside; None where that was not asked.
    """

    what: str
    inside: bool | str
    outside: bool | str | None


def mark() -> str:
    """How the names of folders and processes begin that this process makes, so that it can tell them from others'."""
    return f"course-doctor-{os.getpid()}-"


@contextlib.contextmanager
def folder_for_traps() -> Iterator[Path]:
    """A new folder that rooms' users could read if it were shown to them; removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix=mark(), dir="/tmp" if os.getuid() == 0 else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def demand_walls(sandbox: "Sandbox", root: Path) -> None:
    """Try each way out of a sandbox's rooms.

    Args:
        sandbox: The sandbox that is about to grade.
        root: The course folder.

    Raises:
        WayOut: One works, or cannot be tried.
    """
    with contextlib.ExitStack() as stack:
        traps = stack.enter_context(Traps.set_in(stack.enter_context(folder_for_traps())))
        room, other = (stack.enter_context(contextlib.closing(sandbox.open())) for _ in range(2))
        found = list(escapes(root, sandbox.limits, room, other, traps, outside_too=False))
    worked = [one.what for one in found if one.inside is True]
    if worked:
        raise WayOut(
            f"on this machine student code can {', '.join(worked)}, so nothing is graded. `course doctor` tells more "
            "and what to do about it."
        )
    unclear = [f"{one.what} ({one.inside})" for one in found if isinstance(one.inside, str)]
    if unclear:
        raise WayOut(
            f"whether student code can {', '.join(unclear)} on this machine could not be tried, so nothing is graded. "
            "Try again; if it stays so, `course doctor` tells more."
        )


def escapes(
    root: Path | None, limits: Limits, room: "Room", other: "Room", traps: "Traps", *, outside_too: bool
) -> Iterator[Tried]:
    """Try each way out. The other room is closed in the end: it must leave nothing behind.

    Args:
        root: The course folder, if there is one.
        limits: Those of the rooms.
        room: Where the attempts are made.
        other: Another room of the same sandbox.
        traps: What they look for.
        outside_too: Whether each is also made outside, to prove that it works where nothing stops it.
    """
    for attempt in _attempts(root, limits, traps):
        outside = _run_outside(attempt.function, attempt.outside) if outside_too else None
        yield Tried(attempt.what, _run_in(room, attempt.function, attempt.inside), outside)
    yield from _other_room(room, other, traps.other_token)


def _attempts(root: Path | None, limits: Limits, traps: "Traps") -> Iterator[Attempt]:
    def same(what: str, function: Callable[..., bool], **values: Any) -> Attempt:
        return Attempt(what, function, values, values)

    if root is not None:
        yield same("read the course folder", _finds_folder, **_identity(root))
    home = Path.home()
    if home.is_dir():
        yield same("read the home folder of whoever grades", _finds_folder, **_identity(home))
    yield same("read files of this machine", _finds_folder, **_identity(traps.folder))
    yield same("read the grader's environment", _sees_environment, token=traps.environment_token)
    yield same("see processes of this machine", _sees_process, token=traps.process_token)
    outside = {"folder": str(traps.open_folder), "around": False}
    yield Attempt("write outside its folders", _writes, {**outside, "around": True}, outside)
    yield same("reach a network", _connects, port=traps.port)
    # Only root may open it outside; for others a file of the same kind shows that the attempt is sound.
    setting = "/proc/sys/kernel/core_pattern"
    own = setting if os.getuid() == 0 else "/proc/self/coredump_filter"
    yield Attempt("write kernel settings", _opens_for_writing, {"path": setting}, {"path": own})
    yield same("make new namespaces", _makes_namespaces)
    yield Attempt("mount", _mounts, {"privately": False}, {"privately": True})
    yield same("trace a process", _traces)
    yield same("take more memory than its limit", _takes_memory, size=limits.memory_bytes + GIB)
    yield same("start more processes than its limit", _starts_processes, limit=limits.processes)


def _other_room(room: "Room", other: "Room", token: str) -> Iterator[Tried]:
    """Whether one submission finds another's files or processes, and whether a detached process outlives its room.

    The controls: the other finds its own, and the process is found from outside while its room is open.
    """
    see, stay = "see another submission", "leave a process behind"
    left = _run_in(other, _leaves_traces, {"token": token}, keep=True)
    own = _run_in(other, _sees_traces, {"token": token, "enough": 2}, keep=True)
    found = _run_in(room, _sees_traces, {"token": token, "enough": 1})
    yield Tried(see, found if left is True else _unclear(left), own)
    before = _sees_process(token)
    other.close()
    end = time.monotonic() + GONE_SECONDS
    while (after := _sees_process(token)) and time.monotonic() < end:
        time.sleep(0.05)
    yield Tried(stay, after if left is True else _unclear(left), before)
    _clear_away(token)


def _clear_away(token: str) -> None:
    """Undo on this machine what a room without walls left on it."""
    for folder in ("/tmp", "/dev/shm"):
        with contextlib.suppress(OSError):
            Path(folder, token).unlink(missing_ok=True)
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if token.encode() in command.read_bytes() and int(command.parent.name) != os.getpid():
                os.kill(int(command.parent.name), signal.SIGKILL)


def _unclear(answer: bool | str) -> str:
    return answer if isinstance(answer, str) else "it could not be prepared"


@dataclass(frozen=True)
class Traps:
    """What student code must not find or reach, set up on this machine for the time of the attempts.

    Attributes:
        folder: A folder that others can read: only the walls are in the way.
        open_folder: A folder in it that others can write to.
        port: A port of 127.0.0.1 where something listens.
        environment_token: The value of a variable that the grader and a process of it have.
        process_token: An argument of that process.
        other_token: Names what another submission leaves.
    """

    folder: Path
    open_folder: Path
    port: int
    environment_token: str
    process_token: str
    other_token: str

    @staticmethod
    @contextlib.contextmanager
    def set_in(folder: Path) -> Iterator["Traps"]:
        """Set the traps, with their files in a folder; take them away in the end."""
        environment, process, other = (f"{mark()}{secrets.token_hex(8)}" for _ in range(3))
        variable = "COURSE_DOCTOR_SECRET"
        open_folder = folder / "open"
        open_folder.mkdir()
        open_folder.chmod(0o777)
        with contextlib.ExitStack() as stack:
            os.environ[variable] = environment
            stack.callback(os.environ.pop, variable, None)
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            victim = subprocess.Popen(["/bin/sh", "-c", "read line", process], stdin=subprocess.PIPE)
            stack.enter_context(victim)
            stack.callback(victim.kill)
            yield Traps(folder, open_folder, listener.getsockname()[1], environment, process, other)


def _identity(folder: Path) -> dict[str, Any]:
    """A folder, by what names it wherever it may appear."""
    status = folder.stat()
    return {"path": str(folder), "device": status.st_dev, "inode": status.st_ino}


# running attempts

_ANSWER = "course-doctor-answer:"


def _program(function: Callable[..., bool], values: dict[str, Any]) -> str:
    """Source that calls a function and prints what it returns."""
    source = inspect.getsource(function)
    return f"{source}\nprint({_ANSWER!r} + str({function.__name__}(**{values!r})), flush=True)\n"


def _answer(printed: str) -> bool | str:
    found = re.search(rf"{_ANSWER}(True|False)", printed)
    lines = printed.strip().splitlines() or ["it said nothing"]
    return found[1] == "True" if found else lines[-1].strip()


def _run_outside(function: Callable[..., bool], values: dict[str, Any]) -> bool | str:
    """What an attempt comes to outside, in a process of its own with this one's rights but an empty environment."""
    command = [sys.executable, "-I", "-c", _program(function, values)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ATTEMPT_SECONDS, cwd="/", env={})
    except (OSError, subprocess.TimeoutExpired) as error:
        return " ".join(str(error).split())
    return _answer(done.stdout + done.stderr)


def _run_in(room: "Room", function: Callable[..., bool], values: dict[str, Any], *, keep: bool = False) -> bool | str:
    """What an attempt comes to in a room, as a cell in a fork of its notebook; `keep` leaves what it started."""
    from autograder.remote import wire
    from autograder.sandbox.room import LimitExceeded, RoomEnded, SandboxFailed

    request = {"op": "cell", "source": _program(function, values).encode(), "cell_id": "attempt", "output_bytes": 2**16}
    try:
        with contextlib.closing(room.fork()) as branch:
            reply = wire.unpack(branch.ask(wire.pack(request), ATTEMPT_SECONDS))
    except LimitExceeded:
        return False
    except (RoomEnded, SandboxFailed, wire.WireError) as error:
        return str(error)
    finally:
        if not keep:
            with contextlib.suppress(RoomEnded):
                room.end_branches()
    outputs = json.loads(reply["value"]["outputs"]) if "value" in reply else [{"text": str(reply.get("error"))}]
    return _answer("".join(output.get("text") or output.get("evalue", "") for output in outputs))


# Attempts. Each returns whether it worked. What they do is undone or harmless where nothing stops them.
# They are sent as source: imports and all else that they need are inside.


def _finds_folder(path: str, device: int, inode: int) -> bool:
    """Find a folder of this machine at its own path or wherever it may have been mounted, and list it."""
    import os

    def is_it(folder: str) -> bool:
        try:
            status = os.stat(folder)
            os.listdir(folder)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == (device, inode)

    if is_it(path):
        return True
    # The system's files and Python's packages are shown on purpose, and are thousands.
    shown = ("/proc", "/sys", "/usr", "/opt/python", "/opt/packages")
    for looked_at, (folder, folders, _) in enumerate(os.walk("/")):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in shown]
        if is_it(folder):
            return True
        if looked_at > 20_000:
            break
    return False


def _sees_environment(token: str) -> bool:
    """Find a value in this process's environment or any other's."""
    import os

    found = token in os.environ.values()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                found = found or token.encode() in file.read()
        except OSError:
            pass
    return found


def _sees_process(token: str) -> bool:
    """Find a process by its command line, which must not be this one's own."""
    import os

    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if int(pid) != os.getpid() and token.encode() in file.read():
                    return True
        except OSError:
            pass
    return False


def _writes(folder: str, around: bool) -> bool:
    """Make a file in a folder or, to look around, in any folder that is not meant to be written to."""
    import os

    meant = ("/home/student", "/tmp", "/dev/shm", "/proc")
    folders = [folder]
    if around:
        for place, inner, _ in os.walk("/"):
            inner[:] = [name for name in inner if os.path.join(place, name) not in meant and place.count("/") < 3]
            folders.append(place)
    for place in folders:
        path = os.path.join(place, ".course-doctor-was-here")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL))
        except OSError:
            continue
        os.unlink(path)
        return True
    return False


def _connects(port: int) -> bool:
    """Reach what listens on this machine's own loopback address."""
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 3).close()
    except OSError:
        return False
    return True


def _opens_for_writing(path: str) -> bool:
    """Open a file for writing, and write nothing."""
    import os

    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        return False
    return True


def _makes_namespaces() -> bool:
    """Enter a new user namespace, in a child."""
    import ctypes
    import os

    child = os.fork()
    if child == 0:
        os._exit(0 if ctypes.CDLL(None).unshare(0x10000000) == 0 else 1)
    return os.waitpid(child, 0)[1] == 0


def _mounts(privately: bool) -> bool:
    """Mount an empty filesystem on a new folder, in a child; `privately` where only that child can see it."""
    import ctypes
    import os
    import tempfile

    libc = ctypes.CDLL(None)
    folder = tempfile.mkdtemp()
    child = os.fork()
    if child == 0:
        new = 0x20000 if os.getuid() == 0 else 0x20000 | 0x10000000
        # All mounts are made private before: what the child mounts must not appear on the machine.
        alone = not privately or (libc.unshare(new) == 0 and libc.mount(None, b"/", None, 0x4000 | 0x40000, None) == 0)
        mounted = alone and libc.mount(b"none", folder.encode(), b"tmpfs", 0, None) == 0
        os._exit(0 if mounted and libc.umount2(folder.encode(), 2) == 0 else 1)
    worked = os.waitpid(child, 0)[1] == 0
    os.rmdir(folder)
    return worked


def _traces() -> bool:
    """Attach to a child as a debugger does, or read its memory."""
    import ctypes
    import os
    import signal

    libc = ctypes.CDLL(None)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        attached = libc.ptrace(ctypes.c_long(16), ctypes.c_long(child), None, None) == 0
        word = ctypes.create_string_buffer(8)
        span = (ctypes.c_size_t * 2)(ctypes.addressof(word), 8)
        read = libc.process_vm_readv(child, span, ctypes.c_ulong(1), span, ctypes.c_ulong(1), ctypes.c_ulong(0)) == 8
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return bool(attached or read)


def _takes_memory(size: int) -> bool:
    """Reserve memory that is never touched, so that it costs the machine nothing."""
    import mmap

    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)).close()
    except (OSError, MemoryError):
        return False
    return True


def _starts_processes(limit: int) -> bool:
    """Have more threads at once than the limit allows, which counts them like processes and starts them faster."""
    import threading

    threading.stack_size(2**16)
    done = threading.Event()
    threads: list[threading.Thread] = []
    try:
        while len(threads) <= limit:
            thread = threading.Thread(target=done.wait)
            thread.start()
            threads.append(thread)
    except (RuntimeError, MemoryError):
        pass
    done.set()
    for thread in threads:
        thread.join()
    return len(threads) > limit


def _leaves_traces(token: str) -> bool:
    """Leave a file in every folder that can be written, and a process that has no parent left."""
    import os
    import subprocess

    for folder in (os.getcwd(), "/tmp", "/dev/shm"):
        with open(f"{folder}/{token}", "w") as file:
            file.write(token)
    loop = "while :; do sleep 1000; done"
    subprocess.Popen(["/bin/sh", "-c", loop, token], start_new_session=True, stdout=subprocess.DEVNULL)
    return True


def _sees_traces(token: str, enough: int) -> bool:
    """Find those files or that process: one of the two, or both."""
    import os

    files = any(os.path.exists(f"{folder}/{token}") for folder in (os.getcwd(), "/tmp", "/dev/shm"))
    process = False
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                process = process or token.encode() in file.read()
        except OSError:
            pass
    return files + process >= enough
