"""The warm process inside the sandbox: imports once, forks a locked-down child per submission and watches over it.

    bubblewrap's first process --fork--> template --fork--> the submission's process (student code runs here)

A request is one packet with two descriptors: the submission's channel, over which its process answers calls, and the
lifeline, over which the template tells the grader how the process is doing. When the lifeline closes, because the
grader is done or has died, the template kills the process and with it, as it is the first of its pid namespace,
everything it started. The template never runs student code and is out of its reach.

This file enters the sandbox: of ours it imports only what enters with it.
"""

import contextlib
import errno
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any

from autograder.sandbox import cuda, forks, lockdown, watching
from autograder.sandbox.watching import HOME, SHARED_MEMORY, TEMPORARY, Watched, resident_bytes, say

_LOOK_MILLISECONDS = 50


def main() -> None:
    """Warm up, then serve requests until the grader closes its end of the control socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings: dict[str, Any] = json.loads(control.recv(2**16))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started the grader may have had it ignored
    denied = enter_own_namespaces(control) if settings["nested"] else "not asked for"
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
        template = Template(control, cells, denied)
    except BaseException as error:
        control.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        raise
    control.send(json.dumps({"ready": os.getpid()}).encode())
    template.serve()


def enter_own_namespaces(control: socket.socket) -> str:
    """Go on in a child that has power over namespaces of its own, or else in this process; then, why.

    The child can give each submission namespaces without a process in between, which would take a fork of its own.
    """
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        with open(reading, "rb", closefd=True) as pipe:
            said = pipe.read()
        if said == b"entered":
            control.close()
        with contextlib.suppress(ChildProcessError):
            while os.wait():
                pass
        if said == b"entered":
            os._exit(0)
        return said.decode(errors="replace") or "the process that tried ended"
    try:
        lockdown.enter_user_namespace(lockdown.CLONE_NEWNS | lockdown.CLONE_NEWPID)
        lockdown.make_mounts_private()
        if os.fork():
            os._exit(0)
        mount_proc()
    except BaseException as error:
        os.write(writing, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    os.close(reading)
    os.write(writing, b"entered")
    os.close(writing)
    return ""


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


class Template:
    """Opens rooms and watches over them."""

    def __init__(self, control: socket.socket, cells: Any, denied: str) -> None:
        """Serve the grader.

        Args:
            control: Over which it asks for rooms.
            cells: The shell that each submission gets a copy of.
            denied: Why submissions cannot have namespaces of their own here, or "".
        """
        self.control, self.cells, self.denied = control, cells, denied
        self.rooms: list[Watched] = []
        self.baseline = memory_of_a_fork()

    def serve(self) -> None:
        """Open rooms and answer what is asked about them, until the grader is gone."""
        while True:
            poll = select.poll()
            for descriptor in (self.control.fileno(), *(one for room in self.rooms for one in room.awaited())):
                poll.register(descriptor, select.POLLIN)
            blind = any(room.exited < 0 for room in self.rooms)
            ready = {descriptor for descriptor, _ in poll.poll(_LOOK_MILLISECONDS if blind else None)}
            for room in list(self.rooms):
                if (room.exited in ready or room.exited < 0) and room.has_ended():
                    self.rooms.remove(room)
                    room.close()
                elif room.lifeline.fileno() in ready and not room.answer():
                    room.kill()
            if self.control.fileno() in ready:
                self._open_room()

    def _open_room(self) -> None:
        packet = b""
        descriptors: list[int] = []
        with contextlib.suppress(OSError):
            packet, descriptors, _, _ = socket.recv_fds(self.control, 2**16, 2)
        if not packet:
            for room in self.rooms:
                room.kill()
            os._exit(0)  # tearing down what was imported takes seconds
        channel, lifeline = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        with channel:
            try:
                self.rooms.append(self._fork(json.loads(packet), channel, lifeline))
            except OSError as error:
                say(lifeline, {"failed": f"{type(error).__name__}: {error}"})
                lifeline.close()

    def _fork(self, request: dict[str, Any], channel: socket.socket, lifeline: socket.socket) -> Watched:
        isolation = request["isolation"]
        if isolation == "bubblewrap":
            lockdown.show_memory(False)  # of this process, which the submission will see in /proc
        if isolation == "namespaces" and self.denied:
            raise lockdown.LockdownError(errno.EPERM, self.denied)
        shown, showing = socket.socketpair()
        with showing:
            child = lockdown.fork_first_of_pids() if isolation == "namespaces" else os.fork()
            if child == 0:
                try:
                    shown.close()
                    self._let_go()
                    run_submission(request, channel, lifeline, showing, self.cells)
                finally:
                    os._exit(1)
        return Watched(child, isolation, lifeline, shown, baseline=self.baseline, memory_bytes=request["memory_bytes"])

    def _let_go(self) -> None:
        """In a submission's process: close what concerns the grader and the rooms of others."""
        self.control.close()
        for room in self.rooms:
            room.close()
        self.rooms.clear()


def memory_of_a_fork() -> int:
    """Resident bytes of a fork of this process that has done nothing yet."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(resident_bytes(os.getpid())).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        found = int(pipe.read())
    os.waitpid(child, 0)
    return found


def mount_proc() -> None:
    """Show the processes of this pid namespace, and no others, in /proc."""
    lockdown.mount("proc", "/proc", "proc", "", lockdown.NOSUID | lockdown.NODEV | lockdown.NOEXEC)


def enter_namespaces(files_bytes: int) -> None:
    """Give this process, the first of a pid namespace, mounts, folders, a network and a user namespace of its own."""
    # A network, too: abstract sockets and 127.0.0.1 would join the rooms of one template.
    lockdown.unshare(lockdown.CLONE_NEWNS | lockdown.CLONE_NEWIPC | lockdown.CLONE_NEWNET)
    for folder in (HOME, SHARED_MEMORY, TEMPORARY):
        size = f"size={files_bytes},nr_inodes=10000,mode=700"
        lockdown.mount("tmpfs", folder, "tmpfs", size, lockdown.NOSUID | lockdown.NODEV)
    mount_proc()
    # Last, for it takes the power over all of these away. Processes are counted and limited by user namespace.
    lockdown.enter_user_namespace()


def run_submission(
    request: dict[str, Any], channel: socket.socket, lifeline: socket.socket, showing: socket.socket, cells: Any
) -> None:
    """Lock this process down and answer requests: from here on, student code runs."""
    from autograder.remote import standin
    from autograder.remote.server import Server

    try:
        if request["isolation"] == "namespaces":
            enter_namespaces(request["files_bytes"])
        if request["isolation"] != "none":
            watching.show(showing)
        showing.close()
        gpu = lock_down(request, cells)
    except BaseException as error:  # no student code has run yet: the failure is not the student's
        say(lifeline, {"failed": f"{type(error).__name__}: {error}"})
        os._exit(1)
    say(lifeline, {"started": True, "overhead": gpu.overhead if gpu else 0})
    lifeline.close()
    channel.set_inheritable(False)
    Server(cells.namespace, cells, gpu.device if gpu else standin.DEVICE).serve(channel)
    os._exit(0)  # leave no time for atexit handlers and finalizers of student code


def lock_down(request: dict[str, Any], cells: Any) -> "StartedGpu | None":
    """Enter the working folder and give up what a submission must not have; start the GPU, if it has one."""
    with contextlib.suppress(OSError):
        os.setsid()
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
    before = resident_bytes(os.getpid())
    device = cuda.start(memory_bytes)
    return StartedGpu(device, max(0, resident_bytes(os.getpid()) - before))


if __name__ == "__main__":
    main()
