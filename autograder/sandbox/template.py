"""The warm process inside the sandbox: imports once, forks a locked-down child per submission.

    template --fork--> keeper --fork--> the submission's process (student code runs here)

A request is one packet with two descriptors: the submission's channel, over which its process answers calls, and the
lifeline, over which the keeper tells the grader how the process is doing. When the lifeline closes, because the grader
is done or has died, the keeper kills the process and with it, as it is the first of its pid namespace, everything it
started. The keeper never runs student code and is out of its reach.

This file enters the sandbox: of ours it imports only what enters with it.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograder.sandbox import cuda, forks, lockdown

HOME, SHARED_MEMORY, TEMPORARY = "/home/student", "/dev/shm", "/tmp"
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Warm up, then serve requests until the grader closes its end of the control socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings: dict[str, Any] = json.loads(control.recv(2**16))
    if settings["packages"]:  # for the interpreters that student code starts; this one has read its environment already
        os.environ["PYTHONPATH"] = os.pathsep.join(settings["packages"])
    for folder in settings["packages"]:
        if folder not in sys.path:
            sys.path.append(folder)
    gc.disable()  # imports make no garbage, and looking for it again and again takes a tenth of their time
    try:
        cells = warm_up(settings["preload"], settings["imports"])
        forks.make_forks_cheap()
        gc.enable()
        threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
        if threads != 1:
            raise RuntimeError(f"{threads} threads run in the template, which must fork safely")
        cuda.demand_untouched()
    except BaseException as error:
        control.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        raise
    control.send(json.dumps({"ready": os.getpid()}).encode())
    while True:
        packet, descriptors, _, _ = socket.recv_fds(control, 2**16, 2)
        if not packet:
            os._exit(0)  # tearing down what was imported takes seconds
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        request = json.loads(packet)
        if request["isolation"] == "bubblewrap":
            lockdown.show_memory(False)  # of this process and its keeper, which the submission will see in /proc
        if os.fork() == 0:
            control.close()
            keep(request, descriptors[0], descriptors[1], cells)
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def warm_up(preload: list[str], imports: list[str]) -> Any:
    """Import what the notebook imports, draw a figure, make the shell: all that would cost each submission seconds."""
    for name in preload:
        importlib.import_module(name)
    for name in imports:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import torch
    import torch.distributions

    from autograder.remote.cells import Cells

    torch.set_num_threads(1)
    cells = Cells()
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    axes.plot([0, 1], label="$x^2$")
    axes.legend()
    with open(os.devnull, "wb") as nowhere:
        figure.savefig(nowhere, format="png")
    plt.close(figure)
    # One backward pass, one draw of each kind and one tensor shown load what torch, NumPy and IPython open late.
    (torch.ones(2, 2, requires_grad=True) @ torch.ones(2, 2)).sum().backward()  # type: ignore[no-untyped-call]
    torch.distributions.Normal(0.0, 1.0).sample()  # type: ignore[no-untyped-call]
    importlib.import_module("numpy.random")
    cells.shell.display_formatter.format(torch.ones(1))
    # Likewise what IPython imports with the first cell, and with the first that is kept in its history. Seeding writes
    # down the stack, for which it reads the files of all that is on it.
    cells.shell.run_cell("__import__('torch').manual_seed(0); None")
    cells.shell.logger  # noqa: B018 - made when it is first asked for
    return cells


def keep(request: dict[str, Any], channel: int, lifeline_descriptor: int, cells: Any) -> None:
    """Fork the submission's process in namespaces of its own and watch over it."""
    lifeline = socket.socket(fileno=lifeline_descriptor)
    isolation = request["isolation"]
    try:
        if isolation == "namespaces":
            enter_namespaces(request)
        _, baseline = usage_of([os.getpid()])
        child = os.fork()
        if child == 0:
            run_submission(request, channel, lifeline, cells)
            os._exit(0)
        os.close(channel)
    except BaseException as error:
        say(lifeline, {"failed": f"{type(error).__name__}: {error}"})
        return
    status, usage = watch(lifeline, child, isolation, baseline)
    say(lifeline, {"exit": status, "cpu": usage})


def enter_namespaces(request: dict[str, Any]) -> None:
    """New user, mount, pid, ipc and network namespaces with folders of this submission's own."""
    user, group = os.getuid(), os.getgid()
    # A network of its own too: abstract sockets and 127.0.0.1 would join the rooms of one template.
    lockdown.unshare(
        lockdown.CLONE_NEWUSER
        | lockdown.CLONE_NEWNS
        | lockdown.CLONE_NEWPID
        | lockdown.CLONE_NEWIPC
        | lockdown.CLONE_NEWNET
    )
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    lockdown.make_mounts_private()
    nosuid_nodev = 0x2 | 0x4
    for folder in (HOME, SHARED_MEMORY, TEMPORARY):
        size = request["files_bytes"]
        lockdown.mount("tmpfs", folder, "tmpfs", f"size={size},nr_inodes=10000,mode=700", nosuid_nodev)


def run_submission(request: dict[str, Any], channel_descriptor: int, lifeline: socket.socket, cells: Any) -> None:
    """Lock this process down and answer requests: from here on, student code runs."""
    from autograder.remote import standin
    from autograder.remote.server import Server

    try:
        gpu = lock_down(request, cells)
    except BaseException as error:  # no student code has run yet: the failure is not the student's
        say(lifeline, {"failed": f"{type(error).__name__}: {error}"})
        os._exit(1)
    say(lifeline, {"started": True, "overhead": gpu.overhead if gpu else 0})
    lifeline.close()
    channel = socket.socket(fileno=channel_descriptor)
    os.set_inheritable(channel_descriptor, False)
    Server(cells.namespace, cells, gpu.device if gpu else standin.DEVICE).serve(channel)
    os._exit(0)  # leave no time for atexit handlers and finalizers of student code


def lock_down(request: dict[str, Any], cells: Any) -> "StartedGpu | None":
    """Enter the working folder and give up what a submission must not have; start the GPU, if it has one."""
    with contextlib.suppress(OSError):
        os.setsid()
    if request["isolation"] == "namespaces":
        lockdown.mount("proc", "/proc", "proc", "", 0x2 | 0x4 | 0x8)
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    os.chdir(request["home"])
    cells.attach()
    sys.path.append(request["home"])
    if request["isolation"] != "none":
        lockdown.forbid_new_privileges()
        lockdown.drop_capabilities()
    gpu = start_gpu(request["gpu_bytes"]) if request["gpu_bytes"] else None
    if request["isolation"] != "none":
        lockdown.limit_resources(
            memory_bytes=None if gpu is not None else request["memory_bytes"],
            processes=request["processes"],
            cpu_seconds=request["cpu_seconds"],
            file_bytes=request["files_bytes"],
        )
        if gpu is not None:
            lockdown.limit_data(request["memory_bytes"])
        lockdown.show_memory(True)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started the grader may have had it ignored
        lockdown.filter_system_calls(all_threads=gpu is not None)
    return gpu


@dataclass(frozen=True)
class StartedGpu:
    """The GPU as a device of torch, and the bytes of this process's memory that its driver has taken."""

    device: Any
    overhead: int


def start_gpu(memory_bytes: int) -> StartedGpu:
    """Start CUDA while no limit stands in its way; student code may take so much of the GPU's memory."""
    lockdown.show_memory(True)  # else the driver may not name its threads, and gives up
    _, before = usage_of([os.getpid()])
    device = cuda.start(memory_bytes)
    _, after = usage_of([os.getpid()])
    return StartedGpu(device, max(0, after - before))


def watch(lifeline: socket.socket, child: int, isolation: str, baseline: int) -> tuple[int, float]:
    """Answer the grader's questions until the process ends or must end; its wait status and CPU seconds.

    `baseline` is what a fork of the template holds in memory before it does anything.
    """
    exited = os.pidfd_open(child) if hasattr(os, "pidfd_open") else -1
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    if exited >= 0:
        poll.register(exited, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll(None if exited >= 0 else 50)}
        if exited in ready or exited < 0:
            pid, status, usage = os.wait4(child, os.WNOHANG)
            if pid:
                if isolation == "none":  # no namespace ends what it has forked
                    kill_group(child)
                return status, usage.ru_utime + usage.ru_stime
        if lifeline.fileno() in ready:
            question = lifeline.recv(1)
            if not question:
                kill(child)
                _, status, usage = os.wait4(child, 0)
                return status, usage.ru_utime + usage.ru_stime
            if question == b"c":
                forget_peak(first_of(child, isolation))
            if question == b"r":
                for pid in branches(child, isolation):
                    kill_seen(pid)
            pids = processes(child, isolation)
            cpu, resident = usage_of(pids)
            if question in (b"p", b"t"):
                asked = [first_of(child, isolation)] if question == b"t" else branches(child, isolation)
                peak = max(map(peak_of, asked), default=0)
                say(lifeline, {"cpu": cpu, "memory": max(0, peak - baseline)})
                continue
            # What a process has in common with the template is not the submission's; what lies in its folders is.
            files = 0 if isolation == "none" else sum(map(used_bytes, (HOME, SHARED_MEMORY, TEMPORARY)))
            say(lifeline, {"cpu": cpu, "memory": max(0, resident - baseline * len(pids)) + files})


def kill(pid: int) -> None:
    """Kill the submission's process: in a pid namespace, everything else in there dies with it."""
    kill_group(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_group(pid: int) -> None:
    """Kill what is in a submission's process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def processes(child: int, isolation: str) -> list[int]:
    """The submission's processes, by the numbers that /proc here shows them under.

    In namespaces of its own, /proc is the submission's. In a bubblewrap of its own, all in /proc are but the template
    and this keeper. Without walls, the process's descendants are found by walking.
    """
    if isolation != "none":
        ours = (1, os.getpid()) if isolation == "bubblewrap" else ()
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in ours]
    found = [child]
    for pid in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                found += [int(n) for n in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    return found


def branches(child: int, isolation: str) -> list[int]:
    """The submission's processes but its first."""
    return [pid for pid in processes(child, isolation) if pid != first_of(child, isolation)]


def first_of(child: int, isolation: str) -> int:
    """The submission's first process, by the number that /proc here shows it under."""
    return 1 if isolation == "namespaces" else child


def kill_seen(pid: int) -> None:
    """Kill a process by its number in the submission's own /proc, where os.kill would take it for another's."""
    with contextlib.suppress(OSError):
        folder = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            signal.pidfd_send_signal(folder, signal.SIGKILL)
        finally:
            os.close(folder)


def usage_of(pids: list[int]) -> tuple[float, int]:
    """CPU seconds and resident bytes of some processes, children that they have waited for included."""
    ticks = pages = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
            pages += int(fields[21])
    return ticks / TICK, pages * PAGE


def peak_of(pid: int) -> int:
    """The most bytes that a process has had in memory at once."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/status").read_text(errors="replace").split("VmHWM:")[1].split()[0]) * 1024
    return 0


def forget_peak(pid: int) -> None:
    """Let the most that a process has had in memory be counted from here on."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def used_bytes(folder: str) -> int:
    """What the files of a folder that is a filesystem in memory take of it."""
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def say(lifeline: socket.socket, message: dict[str, Any]) -> None:
    """One packet to the grader, unless it is gone."""
    with contextlib.suppress(OSError):
        lifeline.send(json.dumps(message).encode())


if __name__ == "__main__":
    main()
