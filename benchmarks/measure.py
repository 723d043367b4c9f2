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

_SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        wall: Seconds.
        cpu: User and system seconds of the whole machine.
        memory: The most bytes that all its processes had at once, shared pages counted once (sampled); 0 if not asked.
    """

    wall: float
    cpu: float
    memory: int = 0


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
    return Cost(wall, _machine_cpu() - before, peak.stop() if peak else 0)


def _machine_cpu() -> float:
    """CPU seconds that this machine has worked since it started: user, nice, system and interrupts, not idle."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class _Peak:
    """Samples the memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self.pid, self.most, self.over = pid, 0, threading.Event()
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()

    def _sample(self) -> None:
        while not self.over.wait(_SAMPLE_SECONDS):
            self.most = max(self.most, sum(map(_proportional_bytes, _family(self.pid))))

    def stop(self) -> int:
        """The most seen."""
        self.over.set()
        self.thread.join()
        return self.most


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            pass  # it has ended
    return found


def _proportional_bytes(pid: int) -> int:
    """A process's share of memory: a page that n processes have counts as an n-th for each."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return int(text.split("\nPss:")[1].split()[0]) * 1024 if "\nPss:" in text else 0
