"""What the template tells the grader of each submission's process, and how that process is ended.

This file enters the sandbox: it imports nothing else of ours.
"""

import contextlib
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

HOME, SHARED_MEMORY, TEMPORARY = "/home/student", "/dev/shm", "/tmp"
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
_SEEN = ("/proc", HOME, SHARED_MEMORY, TEMPORARY)


class Watched:
    """A submission's process, as the template sees it.

    Attributes:
        child: Its number here.
        isolation: "namespaces", "bubblewrap" or "none".
        lifeline: Over which the grader asks. When it closes, the process ends.
        exited: A descriptor that can be read from when the process has ended; -1 where the system has none.
    """

    def __init__(
        self,
        child: int,
        isolation: str,
        lifeline: socket.socket,
        shown: socket.socket,
        *,
        baseline: int,
        memory_bytes: int,
    ) -> None:
        """Begin to watch.

        Args:
            child, isolation, lifeline: See above.
            shown: Over which the process, before student code runs in it, sends its view of things (`show`).
            baseline: Bytes of memory that a fork of the template has before it does anything.
            memory_bytes: What the submission may have.
        """
        self.child, self.isolation, self.lifeline = child, isolation, lifeline
        self.shown, self.baseline, self.memory_bytes = shown, baseline, memory_bytes
        self.exited = os.pidfd_open(child) if hasattr(os, "pidfd_open") else -1
        self.folders: list[int] = []
        self.asked = True
        """Whether the grader may still ask."""

    def awaited(self) -> list[int]:
        """The descriptors on which something may happen."""
        return [*([self.lifeline.fileno()] if self.asked else []), *([self.exited] if self.exited >= 0 else [])]

    def answer(self) -> bool:
        """Answer one question of the grader's; whether there was one, rather than the end of the lifeline."""
        question = b""
        with contextlib.suppress(OSError):
            question = self.lifeline.recv(1)
        if not question:
            self.asked = False
            return False
        proc = self._look()
        first = 1 if self.isolation == "namespaces" else self.child
        if question == b"c":
            forget_peak(first, proc)
        if question == b"r":
            for pid in self._processes(proc):
                if pid != first:
                    kill_seen(pid, proc)
        pids = self._processes(proc)
        cpu, resident = usage_of(pids, proc)
        if question in (b"p", b"t"):
            asked = [first] if question == b"t" else [pid for pid in pids if pid != first]
            memory = max((peak_of(pid, proc) for pid in asked), default=0) - self.baseline
        else:
            memory = self._memory(resident, first, proc) + sum(map(used_bytes, self.folders[1:]))
        say(self.lifeline, {"cpu": cpu, "memory": max(0, memory)})
        return True

    def _memory(self, resident: dict[int, int], first: int, proc: str) -> int:
        """Bytes that the submission's processes have beyond what the template shares with them.

        What its other processes share, with the template or with each other, is looked up only where it matters.
        """
        most = sum(resident.values()) - min(self.baseline, resident.get(first, 0))
        if most <= self.memory_bytes:
            return most
        return min(most, sum(proportional_bytes(pid, proc) or resident_bytes(pid, proc) for pid in resident))

    def _look(self) -> str:
        """Where the submission's processes can be looked up, by the numbers that it knows them by."""
        if self.isolation == "none":
            return "/proc"
        if not self.folders:  # sent before the grader was told that there is something to ask about
            with contextlib.suppress(OSError):
                self.folders = socket.recv_fds(self.shown, 1, len(_SEEN), socket.MSG_DONTWAIT)[1]
                self.shown.close()
        return f"/proc/self/fd/{self.folders[0]}" if self.folders else os.devnull

    def _processes(self, proc: str) -> list[int]:
        """The submission's processes.

        In namespaces of its own, /proc is the submission's. In a bubblewrap of its own, all in /proc are but the
        template. Without walls, the process's descendants are found by walking.
        """
        if self.isolation != "none":
            ours = 1 if self.isolation == "bubblewrap" else 0
            with contextlib.suppress(OSError):
                return [int(name) for name in os.listdir(proc) if name.isdigit() and int(name) != ours]
            return []
        found = [self.child]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in os.listdir(f"{proc}/{pid}/task"):
                    found += [int(n) for n in Path(f"{proc}/{pid}/task/{task}/children").read_text().split()]
        return found

    def kill(self) -> None:
        """Kill the submission's process: in a pid namespace, everything else in there dies with it."""
        self._kill_group()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGKILL)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Whether the process has ended; then the grader is told how, and what it used."""
        pid, status, usage = os.wait4(self.child, os.WNOHANG)
        if not pid:
            return False
        if self.isolation == "none":  # no namespace ends what it has forked
            self._kill_group()
        say(self.lifeline, {"exit": status, "cpu": usage.ru_utime + usage.ru_stime})
        return True

    def close(self) -> None:
        """Close everything that is held for it; a submission's process does so with what concerns others."""
        self.lifeline.close()
        self.shown.close()
        for descriptor in [*self.folders, *([self.exited] if self.exited >= 0 else [])]:
            os.close(descriptor)


def show(shown: socket.socket) -> None:
    """Send what this process sees of itself and its folders, to be looked at while it can no longer hide anything."""
    folders = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in _SEEN]
    socket.send_fds(shown, [b"."], folders)
    for folder in folders:
        os.close(folder)


def kill_seen(pid: int, proc: str) -> None:
    """Kill a process by its number in this /proc, where os.kill would take it for another's."""
    with contextlib.suppress(OSError):
        folder = os.open(f"{proc}/{pid}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            signal.pidfd_send_signal(folder, signal.SIGKILL)
        finally:
            os.close(folder)


def usage_of(pids: list[int], proc: str = "/proc") -> tuple[float, dict[int, int]]:
    """CPU seconds of some processes, children that they have waited for included; the resident bytes of each."""
    ticks = 0
    resident: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = stat_of(f"{proc}/{pid}")
            ticks += sum(int(field) for field in fields[11:15])
            resident[pid] = int(fields[21]) * PAGE or resident_bytes(pid, proc)
    return ticks / TICK, resident


def stat_of(folder: str) -> list[str]:
    """What /proc says of a process, or of a thread, from its state on (see proc_pid_stat(5))."""
    return Path(f"{folder}/stat").read_text(errors="replace").rpartition(")")[2].split()


def resident_bytes(pid: int, proc: str = "/proc") -> int:
    """What a process has in memory, as its threads say: when its first thread has ended, that one says nothing."""
    pages = 0
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"{proc}/{pid}/task"):
            with contextlib.suppress(OSError, IndexError, ValueError):
                pages = max(pages, int(stat_of(f"{proc}/{pid}/task/{thread}")[21]))
    return pages * PAGE


def proportional_bytes(pid: int, proc: str = "/proc") -> int:
    """A process's memory, of a page that n processes share an n-th; 0 where it keeps that secret or has ended."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"{proc}/{pid}/smaps_rollup").read_text().split("\nPss:")[1].split()[0]) * 1024
    return 0


def peak_of(pid: int, proc: str = "/proc") -> int:
    """The most bytes that a process has had in memory at once."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"{proc}/{pid}/status").read_text(errors="replace").split("\nVmHWM:")[1].split()[0]) * 1024
    return 0


def forget_peak(pid: int, proc: str = "/proc") -> None:
    """Let the most that a process has had in memory be counted from here on."""
    with contextlib.suppress(OSError):
        Path(f"{proc}/{pid}/clear_refs").write_text("5")


def used_bytes(folder: int) -> int:
    """What the files of a folder that is a filesystem in memory take of it."""
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def say(lifeline: socket.socket, message: dict[str, Any]) -> None:
    """One packet to the grader, unless it is gone or reads none: nobody else is to wait for it."""
    with contextlib.suppress(OSError):
        lifeline.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)
