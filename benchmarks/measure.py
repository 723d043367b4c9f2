"""What a command costs: wall and CPU seconds of it and of everything that it starts, and its peak memory.

CPU seconds are the machine's (`/proc/stat`): what a process tells of its children leaves out those that nobody waited
for, such as a sandbox's that was killed as a whole. So nothing else should be at work on the machine.
"""

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from autograder.sandbox.watching import proportional_bytes

STRETCH = 4
"""Submissions one after another, or runs of a notebook's cells and checks, that make one measurement."""
_SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        wall: Seconds.
        cpu: User and system seconds of the whole machine.
        memory: The most bytes that all its processes had at once, shared pages counted once (sampled); 0 if not asked.
        own_memory: The most that the command's own process had.
    """

    wall: float
    cpu: float
    memory: int = 0
    own_memory: int = 0


def run(command: list[str], folder: Path, *, memory: bool = False) -> Cost:
    """Run a command to its end.

    Args:
        command: The command.
        folder: Where.
        memory: Whether to sample memory too, which takes computing time of its own: not in a run that is timed.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    before, started = _machine_cpu(), time.monotonic()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        peak = _Peak(process.pid) if memory else None
        said, _ = process.communicate()
        wall = time.monotonic() - started
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, said)
    return Cost(wall, _machine_cpu() - before, *(peak.stop() if peak else ()))


def slope(command: list[str], folder: Path, *, leave_out: int, stretch: int) -> Cost:
    """What one more line of a command's output costs: for `course grade`, one more submission.

    The command's start and its end do not count. Of the rest, the stretch that took least computing time does: what
    else a processor does makes a stretch longer, never shorter.

    Args:
        command: The command, which must print each line when its work is done, whatever the order.
        folder: Where.
        leave_out: Lines at the beginning and at the end that do not count.
        stretch: Lines in a stretch: enough that what is begun before one line and done after it, and the hundredths of
            a second in which the machine counts, make no difference.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    seen: list[tuple[float, float]] = []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            seen.append((time.monotonic(), _machine_cpu()))
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, "".join(said))
    counted = seen[leave_out : len(seen) - leave_out]
    stretches = zip(counted, counted[stretch:], strict=False)
    wall, cpu = min(((last[0] - first[0], last[1] - first[1]) for first, last in stretches), key=lambda one: one[1])
    return Cost(wall / stretch, cpu / stretch)


def _machine_cpu() -> float:
    """CPU seconds that this machine has worked since it started: user, nice, system and interrupts, not idle."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class _Peak:
    """Samples the memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self.pid, self.most, self.own, self.over = pid, 0, 0, threading.Event()
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()

    def _sample(self) -> None:
        while not self.over.wait(_SAMPLE_SECONDS):
            found = [proportional_bytes(pid) for pid in _family(self.pid)]
            self.own, self.most = max(self.own, found[0]), max(self.most, sum(found))

    def stop(self) -> tuple[int, int]:
        """The most seen, of all and of the process itself."""
        self.over.set()
        self.thread.join()
        return self.most, self.own


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            pass  # it has ended
    return found
