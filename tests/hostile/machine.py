"""The machine that grades, as attacks find it: a grader's process with secrets, and ears for whatever gets out."""

import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TOKEN = "token-of-the-grader"
# Holds the secret in its memory, and lets every process of its user trace it, as many systems do by themselves.
_GRADER = """
import ctypes, sys
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER, PR_SET_PTRACER_ANY
kept = sys.argv[1].upper() * 3
print("ready", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Machine:
    """What is there to be found.

    Attributes:
        known: What attackers know of it, by the names in their `known.py`.
        heard: What has come in at any of its sockets.
    """

    known: dict[str, object]
    heard: list[bytes]


@contextmanager
def machine(course: Path) -> Iterator[Machine]:
    """A process that holds a secret, and sockets that hear what is sent to them, for as long as it is open."""
    heard: list[bytes] = []
    with ExitStack() as stack:
        home = course.parent / "home"
        home.mkdir(exist_ok=True)
        (home / ".netrc").write_text(TOKEN)
        secret = stack.enter_context(tempfile.TemporaryFile())
        secret.write(TOKEN.encode())
        secret.flush()
        grader = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", _GRADER, TOKEN], env={"GRADER_TOKEN": TOKEN}, pass_fds=(secret.fileno(),),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
        )  # fmt: skip
        stack.callback(grader.kill)
        assert grader.stdout is not None
        grader.stdout.readline()
        path = course / "grader.socket"
        abstract = f"\0grader-{secrets.token_hex(8)}"
        shared = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")) + "/display"
        addresses = [("127.0.0.1", 0), abstract, str(path), shared]
        ears = [socket.socket(socket.AF_INET if isinstance(a, tuple) else socket.AF_UNIX) for a in addresses]
        for ear, address in zip(ears, addresses, strict=True):
            ear.bind(address)
            ear.listen()
            threading.Thread(target=_listen, args=(ear, heard), daemon=True).start()
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", 0))
        threading.Thread(target=_receive, args=(datagrams, heard), daemon=True).start()
        for ear in (*ears, datagrams):
            stack.callback(_close, ear)
        stack.callback(path.unlink, missing_ok=True)
        known: dict[str, object] = {
            "COURSE": str(course), "HOME": str(home), "GRADER": grader.pid, "SOCKET": str(path), "ABSTRACT": abstract,
            "DISPLAY": shared,
            "PORT": ears[0].getsockname()[1], "DATAGRAMS": datagrams.getsockname()[1],
        }  # fmt: skip
        yield Machine(known, heard)


def _close(ear: socket.socket) -> None:
    with suppress(OSError):  # wakes who listens; a datagram socket that nobody is connected to says so
        ear.shutdown(socket.SHUT_RDWR)
    ear.close()


def _listen(ear: socket.socket, heard: list[bytes]) -> None:
    while True:
        try:
            caller, _ = ear.accept()
        except OSError:
            return
        with caller:
            caller.settimeout(5)
            try:
                heard.append(caller.recv(4096))
            except OSError:
                heard.append(b"")


def _receive(ear: socket.socket, heard: list[bytes]) -> None:
    while True:
        try:
            heard.append(ear.recv(4096))
        except OSError:
            return
