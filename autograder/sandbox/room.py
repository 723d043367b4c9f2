"""A warm sandbox and the rooms it opens: one per submission, with limits that the grader enforces from outside."""

import contextlib
import functools
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autograder.course import Limits
from autograder.gpu import Gpu
from autograder.remote import frames
from autograder.sandbox import bubblewrap, folders

Isolation = Literal["namespaces", "bubblewrap", "none"]
START_SECONDS = 120.0
WATCH_SECONDS = 0.1
_WATCH_INTERVAL = struct.pack("ll", 0, int(WATCH_SECONDS * 1e6))  # a timeval
WATCH_BYTES = 256 * 2**20
"""What a room may have beyond its limit before it is ended from outside. A process that fills its memory meets the
kernel's limit first, and with it an exception; seen from outside it has somewhat more by then, such as pages of
libraries that nothing had used in the template."""
MIN_WALL_SECONDS = 10.0
ANSWER_SECONDS = 10.0
_PART = 2**18
"""Bytes that are received at once: more than a socket usually holds, and no more memory than is needed for them."""


class RoomEnded(Exception):
    """The submission's process is gone; the text says how it ended."""


class LimitExceeded(RoomEnded):
    """The submission's process was ended because it went over a limit.

    Attributes:
        wall: Whether it was only the wall clock that ran out, which a busy machine can cause too.
    """

    def __init__(self, text: str, *, wall: bool = False) -> None:
        super().__init__(text)
        self.wall = wall


class SandboxFailed(RuntimeError):
    """The sandbox itself did not work: never the student's fault."""


@dataclass(frozen=True)
class Usage:
    """What a submission has used so far: CPU seconds, and bytes of memory beyond what the template shares with it."""

    cpu_seconds: float
    memory_bytes: int


class Sandbox:
    """The warm template process, and the way to open rooms in it."""

    def __init__(
        self,
        kind: str,
        limits: Limits,
        course: Path,
        *,
        nested: bool = True,
        preload: Sequence[str] = (),
        imports: Sequence[str] = (),
        gpu: Gpu | None = None,
    ) -> None:
        """Begin to start the template; `wait` waits for it.

        Args:
            kind: "bubblewrap", or "none" to run student code with no walls at all.
            limits: What each submission may use.
            course: The course folder, which must not be visible inside.
            nested: False makes the sandbox as it is where nested namespaces are denied.
            preload: Modules to import once, before any submission.
            imports: More of them, where they can be found.
            gpu: The GPU that submissions run on, if they run on one.
        """
        self.limits = limits
        self.course = course
        self.kind = kind
        self.nested = nested
        self.preload, self.imports = list(preload), list(imports)
        self.gpu = gpu
        self.isolation: Isolation = "none" if kind == "none" else "namespaces" if nested else "bubblewrap"
        folders.remove_lost_folders()
        self.folder, self.folder_lock = folders.make_folder()
        self.owner = os.getpid()
        self.ready = False
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        room = bubblewrap.write_room(self.folder)
        try:
            with theirs:
                self.process = (
                    self._start_bare(room, theirs) if kind == "none" else self._start_bubblewrap(room, theirs)
                )
        except BaseException:
            self.control.close()
            self._remove_folder()
            raise

    def _start_bubblewrap(self, room: Path, theirs: socket.socket) -> subprocess.Popen[bytes]:
        walls = bubblewrap.build_walls(
            room, nested=self.nested, files_bytes=self.limits.files_bytes, forbidden=self.course, gpu=self.gpu
        )
        stage = self.folder / "stage"
        stage.mkdir()
        program = [bubblewrap.interpreter(), "-I", "-c", _BOOT.format(path=bubblewrap.ROOM), str(theirs.fileno())]
        reading, writing = os.pipe()
        try:
            line, options = bubblewrap.command(walls, program, reading, stage)
            os.set_blocking(writing, True)
            process = subprocess.Popen(
                line, pass_fds=(theirs.fileno(), reading), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=(self.folder / "stderr").open("wb"), cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath)}, start_new_session=True,
            )  # fmt: skip
            os.write(writing, options)
        finally:
            os.close(writing)
            os.close(reading)
        packages = [inside for _, inside in walls.folders if inside.startswith(bubblewrap.PACKAGES)]
        self._configure(packages)
        return process

    def _start_bare(self, room: Path, theirs: socket.socket) -> subprocess.Popen[bytes]:
        home = self.folder / "home"
        home.mkdir()
        program = [sys.executable, "-I", "-c", _BOOT.format(path=str(room)), str(theirs.fileno())]
        environment = {**bubblewrap.ENVIRONMENT, "HOME": str(home), "TMPDIR": str(home), "PATH": os.defpath}
        environment |= bubblewrap.gpu_environment(self.gpu)
        process = subprocess.Popen(
            program, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=(self.folder / "stderr").open("wb"), cwd=home, env=environment, start_new_session=True,
        )  # fmt: skip
        self._configure([])
        return process

    def _configure(self, packages: list[str]) -> None:
        nested = self.nested and self.kind != "none"
        settings = {"packages": packages, "preload": self.preload, "imports": self.imports, "nested": nested}
        self.control.send(json.dumps(settings).encode())

    def wait(self) -> None:
        """Wait until the template is warm.

        Raises:
            SandboxFailed: It did not start; the text holds what it said.
        """
        if self.ready:
            return
        if not select.select([self.control], [], [], START_SECONDS)[0]:
            raise SandboxFailed(f"the sandbox did not start within {START_SECONDS:.0f} s")
        try:
            answer = self.control.recv(2**16)
        except ConnectionResetError:
            answer = b""
        message = json.loads(answer) if answer else {}
        if "ready" not in message:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            said = (self.folder / "stderr").read_text(errors="replace").strip()
            hint = ". `course doctor` says what this machine must allow" if said.startswith("bwrap:") else ""
            raise SandboxFailed(f"the sandbox did not start: {message.get('error') or said or 'it ended'}{hint}")
        self.ready = True

    def open(self, cpu_seconds: int | None = None) -> "Room":
        """A new room: a forked, locked-down process with an empty working folder, on the cores that this one may use.

        Raises:
            SandboxFailed: There is no room, for a reason that is not the student's.
        """
        self.wait()
        try:
            return self._open(cpu_seconds)
        except _NamespacesDenied:
            # Nested namespaces are denied here: one bubblewrap per submission is slower and as safe.
            self.isolation = "bubblewrap"
            return self._open(cpu_seconds)

    def _open(self, cpu_seconds: int | None) -> "Room":
        if self.isolation == "bubblewrap":
            single = Sandbox(
                self.kind, self.limits, self.course, nested=self.nested, preload=self.preload, imports=self.imports,
                gpu=self.gpu,
            )  # fmt: skip
            single.isolation = "namespaces"
            single.wait()
            room = single._request("bubblewrap", cpu_seconds)
            room.on_close = single.close
            return room
        return self._request(self.isolation, cpu_seconds)

    def _request(self, isolation: Isolation, cpu_seconds: int | None) -> "Room":
        channel, their_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        lifeline, their_lifeline = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        home = bubblewrap.HOME
        on_close: Callable[[], None] = _nothing
        if isolation == "none":
            home = tempfile.mkdtemp(dir=self.folder)
            on_close = lambda: shutil.rmtree(home, ignore_errors=True)  # noqa: E731
        request = {
            "isolation": isolation, "home": home, "memory_bytes": self.limits.memory_bytes,
            "processes": self.limits.processes, "files_bytes": self.limits.files_bytes,
            "cpu_seconds": int(cpu_seconds or self.limits.submission_seconds),
            "gpu_bytes": self.limits.gpu_memory_bytes if self.gpu else 0,
            "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        }  # fmt: skip
        with their_channel, their_lifeline:
            try:
                socket.send_fds(
                    self.control, [json.dumps(request).encode()], [their_channel.fileno(), their_lifeline.fileno()]
                )
            except OSError as error:
                raise SandboxFailed(f"the sandbox is gone: {error}") from None
        room = Room(channel, lifeline, self.limits)
        room.on_close = on_close
        first = room.listen(START_SECONDS)
        if "started" not in first:
            room.close()
            reason = first.get("failed", "the sandbox ended")
            if isolation == "namespaces" and "LockdownError" in reason:
                raise _NamespacesDenied(reason)
            raise SandboxFailed(reason)
        room.overhead = first.get("overhead", 0)
        return room

    def close(self) -> None:
        """End the template and everything in it."""
        self.control.close()
        if os.getpid() != self.owner:
            return
        with contextlib.suppress(ProcessLookupError):
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._remove_folder()

    def _remove_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder_lock >= 0:
            os.close(self.folder_lock)
            self.folder_lock = -1

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_BOOT = "import sys; sys.path.insert(0, {path!r}); from autograder.sandbox import template; template.main()"


class _NamespacesDenied(SandboxFailed):
    pass


def _nothing() -> None:
    pass


class Room:
    """One submission's process, or a branch of it: frames go in and come out, under limits."""

    def __init__(self, channel: socket.socket, lifeline: socket.socket, limits: Limits, trunk: bool = True) -> None:
        self.channel = channel
        self.lifeline = lifeline
        self.limits = limits
        self.trunk = trunk
        self.cpu_seconds = 0.0
        """CPU seconds used when it was last looked at."""
        self.overhead = 0
        """Bytes of memory that are not the submission's: what the driver of a GPU takes in its process."""
        self.on_close: Callable[[], None] = _nothing
        # The kernel waits, and comes back in time for a look: one call where waiting first would take several.
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            channel.setsockopt(socket.SOL_SOCKET, option, _WATCH_INTERVAL)

    def ask(self, frame: bytes, cpu_seconds: float, descriptors: tuple[int, ...] = ()) -> bytearray:
        """Send one request and wait for its reply.

        Args:
            frame: The request.
            cpu_seconds: What answering may cost; the wall clock may run `wall_factor` times as long.
            descriptors: File descriptors to send along.

        Raises:
            LimitExceeded: It took too long or too much memory; the process is still there, and must be closed.
            RoomEnded: The process ended.
            frames.WireError: The reply claims to be larger than a frame may be.
        """
        watch = _Watch(self, cpu_seconds)
        try:
            for packet in frames.packets(frame):
                view = memoryview(packet)
                while view:
                    send = functools.partial(self.channel.send, view)
                    if descriptors:
                        send, descriptors = functools.partial(socket.send_fds, self.channel, [view], descriptors), ()
                    view = view[self._send(send, watch) :]
            (length,) = frames.FRAME_LENGTH.unpack(self._receive(frames.FRAME_LENGTH.size, watch))
            if length > frames.MAX_FRAME:
                raise frames.WireError(f"a frame of {length} bytes")
            return self._receive(length, watch)
        except (EOFError, ConnectionError, BrokenPipeError):
            raise RoomEnded(self._how_it_ended()) from None

    def _send(self, send: Callable[[], int], watch: "_Watch") -> int:
        while True:
            try:
                return send()
            except BlockingIOError:  # nothing could be sent for a while
                watch.glance()

    def _receive(self, length: int, watch: "_Watch") -> bytearray:
        data = bytearray()  # grows as bytes come: a length alone costs no memory
        while len(data) < length:
            try:
                part = self.channel.recv(min(length - len(data), _PART))
            except BlockingIOError:  # nothing came for a while
                watch.glance()
                continue
            if not part:
                raise EOFError
            data += part
            watch.glance()  # at an answer that comes byte by byte
        return data

    def fork(self) -> "Room":
        """A branch: a fork of the process with all that the notebook has made."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            from autograder.remote import wire  # which needs torch: by now there is time for it

            self.ask(wire.pack({"op": "fork"}), self.limits.check_seconds, (theirs.fileno(),))
        return Room(mine, self.lifeline, self.limits, trunk=False)

    def usage(self) -> Usage:
        """What the submission has used so far.

        Raises:
            RoomEnded: It is gone.
        """
        return self._tell(b"u")

    def peak_memory(self) -> int:
        """The most bytes that one process of its branches has had at once, beyond what the template shares with it.

        In a room that is asked itself rather than a branch of it, the most that its own process has had.

        Raises:
            RoomEnded: It is gone.
        """
        return self._tell(b"t" if self.trunk else b"p").memory_bytes

    def forget_peak(self) -> None:
        """Count the most that the room's own process has in memory from here on.

        Raises:
            RoomEnded: It is gone.
        """
        self._tell(b"c")

    def end_branches(self) -> None:
        """Kill every process of the submission but its first."""
        self._tell(b"r")

    def _tell(self, question: bytes) -> Usage:
        try:
            self.lifeline.send(question)
        except OSError:
            raise RoomEnded(self._how_it_ended()) from None
        answer = self.listen(ANSWER_SECONDS)
        if not answer and select.select([self.lifeline], [], [], 0)[0] == []:
            raise SandboxFailed("the process that watches over a submission does not answer")
        self.cpu_seconds = max(self.cpu_seconds, answer.get("cpu", 0.0))
        if "memory" not in answer:
            raise RoomEnded(_describe(answer.get("exit")))
        return Usage(answer["cpu"], max(0, answer["memory"] - self.overhead))

    def listen(self, seconds: float) -> dict[str, Any]:
        """The next message about the process; empty where none came."""
        if not select.select([self.lifeline], [], [], seconds)[0]:
            return {}
        try:
            packet = self.lifeline.recv(2**16)
        except OSError:
            return {}
        message: dict[str, Any] = json.loads(packet) if packet else {}
        return message

    def _how_it_ended(self) -> str:
        if not self.trunk:
            return "the process ended while your code ran"
        deadline = time.monotonic() + ANSWER_SECONDS  # on a busy machine it may come late
        while (left := deadline - time.monotonic()) > 0:
            message = self.listen(left)
            if "exit" in message:
                self.cpu_seconds = max(self.cpu_seconds, message["cpu"])
                return _describe(message["exit"])
            if not message:
                break
        return "the process ended while your code ran"

    def end(self) -> None:
        """End a trunk's process and what it started, and wait until all is gone, the memory of a GPU with it."""
        end = time.monotonic() + ANSWER_SECONDS
        with contextlib.suppress(OSError):
            self.lifeline.shutdown(socket.SHUT_WR)
            while (left := end - time.monotonic()) > 0 and "exit" not in (message := self.listen(left)) and message:
                pass
        self.close()

    def close(self) -> None:
        """End the process, and with a trunk everything that it started."""
        self.channel.close()
        if self.trunk:
            self.lifeline.close()
            self.on_close()


class _Watch:
    """Looks, while a room's channel is waited for, whether CPU time, memory or the wall clock has run out."""

    def __init__(self, room: Room, cpu_seconds: float) -> None:
        self.room = room
        self.cpu_seconds = cpu_seconds
        self.started = time.monotonic()
        self.wall_seconds = max(MIN_WALL_SECONDS, cpu_seconds * room.limits.wall_factor)
        self.spent_before: float | None = None
        self.looked = self.started

    def glance(self) -> None:
        """Look at what the room has used, if that was not done just now."""
        now = time.monotonic()
        if now - self.looked >= WATCH_SECONDS:
            self.looked = now
            self._look(now)

    def _look(self, now: float) -> None:
        usage = self.room.usage()
        if self.spent_before is None:  # a light request never gets here and costs no look
            self.spent_before = usage.cpu_seconds - (now - self.started)
        if usage.cpu_seconds - max(0.0, self.spent_before) > self.cpu_seconds:
            raise LimitExceeded(f"took more than {self.cpu_seconds:g} seconds of computing time")
        if usage.memory_bytes > self.room.limits.memory_bytes + WATCH_BYTES:
            raise LimitExceeded(f"used more than {self.room.limits.memory_bytes / 2**30:.1f} GiB of memory")
        if now - self.started > self.wall_seconds:
            raise LimitExceeded(f"did not end within {self.wall_seconds:.0f} seconds", wall=True)


def _describe(status: int | None) -> str:
    if status is None:
        return "the process ended while your code ran"
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"the process was ended by {name} while your code ran"
    return f"your code ended its process (exit code {os.WEXITSTATUS(status)})"
