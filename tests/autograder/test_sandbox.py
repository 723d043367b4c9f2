"""Attacks on the sandbox, tried from inside a real room, and many also where there are no walls to stop them."""

import contextlib
import errno
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rooms import ask, none_left, process_namespace, processes_in, result_of, run_cell

from autograder.course import Limits
from autograder.remote import wire
from autograder.sandbox import bubblewrap, lockdown
from autograder.sandbox import room as rooms_of_sandbox
from autograder.sandbox.bubblewrap import SandboxUnavailable
from autograder.sandbox.room import LimitExceeded, Room, RoomEnded, Sandbox, SandboxFailed

REPOSITORY = Path(__file__).parents[2]
SMALL = Limits(memory_bytes=2 * 2**30, processes=32, files_bytes=4 * 2**20, wall_factor=2)


@pytest.fixture(scope="module")
def bare_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """No sandbox at all: where an attack succeeds, so that its failure elsewhere means something."""
    with Sandbox("none", SMALL, tmp_path_factory.mktemp("course")) as sandbox:
        yield sandbox


@pytest.fixture
def bare(bare_sandbox: Sandbox) -> Iterator[Room]:
    room = bare_sandbox.open()
    yield room
    room.close()


@pytest.fixture(scope="module")
def single_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox as it is where nested namespaces are denied, from its first failure to make some."""
    with Sandbox("bubblewrap", SMALL, tmp_path_factory.mktemp("course"), nested=False) as sandbox:
        sandbox.isolation = "namespaces"
        yield sandbox


@pytest.fixture(scope="module")
def single(single_sandbox: Sandbox) -> Iterator[Room]:
    """The room of a submission that has a bubblewrap of its own."""
    room = single_sandbox.open()
    yield room
    room.close()


# what runs


def test_the_python_inside_is_the_one_outside(room):
    """Built with a shared library, it would else find the system's, which can be another version, or none."""
    assert result_of(room, "import sys; result = sys.version") == sys.version
    assert result_of(room, "import subprocess, sys; result = subprocess.getoutput(f'{sys.executable} -V')") == (
        f"Python {platform.python_version()}"
    )


def test_a_python_with_a_library_of_its_own_is_told_where_it_lies_inside(monkeypatch):
    base = Path(sys.base_prefix).resolve()
    built = {"Py_ENABLE_SHARED": 1, "LIBDIR": str(base / "lib64")}
    monkeypatch.setattr(sysconfig, "get_config_var", built.get)
    monkeypatch.setattr(bubblewrap, "SYSTEM_PYTHON", ())
    assert bubblewrap.python_environment() == {"LD_LIBRARY_PATH": "/opt/python/lib64"}
    monkeypatch.setattr(bubblewrap, "SYSTEM_PYTHON", (base,))
    assert bubblewrap.python_environment() == {}
    monkeypatch.undo()
    monkeypatch.setattr(sysconfig, "get_config_var", {"Py_ENABLE_SHARED": 0, "LIBDIR": str(base / "lib")}.get)
    assert bubblewrap.python_environment() == {}


# what can be seen


def readable(room: Room, path: Path) -> bool:
    """Whether student code can list a folder or read a file."""
    source = """
    import os
    try:
        result = bool(os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read(1))
    except OSError:
        result = False
    """
    return bool(result_of(room, source, path=str(path)))


def test_files_of_this_machine_cannot_be_read(room, bare, tmp_path):
    secret = tmp_path / "course" / "tests" / "checks" / "test_secret.py"
    secret.parent.mkdir(parents=True)
    secret.write_text("assert answer == 42")
    hidden = [secret, tmp_path, REPOSITORY / "pyproject.toml", REPOSITORY, Path.home(), Path("/etc/hosts")]
    hidden += [Path("/etc/shadow")] if os.getuid() == 0 else []
    for path in hidden:
        assert readable(bare, path), path
        assert not readable(room, path), path
    for path in ("/root", "/var", "/run", "/sys", "/boot", "/mnt", "/srv", "/media"):
        assert not readable(room, Path(path)), path
    assert result_of(room, "import os\nresult = [os.listdir('/home'), os.listdir('.')]") == [["student"], []]


def test_nothing_of_ours_but_what_runs_the_notebook_is_inside(room):
    files = result_of(
        room,
        """
        import os
        result = sorted(os.path.relpath(os.path.join(folder, name), '/opt/room')
                        for folder, _, names in os.walk('/opt/room') for name in names if name.endswith('.py'))
        """,
    )
    assert files == [
        "autograder/__init__.py",
        "autograder/remote/__init__.py", "autograder/remote/cells.py", "autograder/remote/frames.py",
        "autograder/remote/server.py",
        "autograder/remote/standin.py", "autograder/remote/wire.py",
        "autograder/sandbox/__init__.py", "autograder/sandbox/cuda.py", "autograder/sandbox/forks.py",
        "autograder/sandbox/lockdown.py", "autograder/sandbox/template.py", "autograder/sandbox/watching.py",
    ]  # fmt: skip


def test_processes_and_environment_of_this_machine_cannot_be_seen(room, bare):
    source = """
    import os
    result = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        for name in ('cmdline', 'environ'):
            try:
                result.append(b'token-of-this-test' in open(f'/proc/{pid}/{name}', 'rb').read())
            except OSError:
                pass
    result = [sum(result), len(os.listdir('/proc')) - len([n for n in os.listdir('/proc') if not n.isdigit()])]
    """
    other = subprocess.Popen(["sleep", "600"], env={"SECRET": "token-of-this-test"})
    try:
        assert result_of(bare, source)[0] == 1
        assert result_of(room, source) == [0, 1]
    finally:
        other.kill()
        other.wait()
    names = result_of(room, "import os\nresult = sorted(os.environ)")
    assert not {name for name in names if name.startswith(("PYTEST", "GITHUB", "AWS", "SSH", "VIRTUAL"))}


def test_only_its_own_channel_is_open_in_a_room(sandbox):
    """Nothing of the grader's, nor of a room that was there before and has been asked about."""
    source = """
    import os
    result = []
    for name in os.listdir('/proc/self/fd'):
        try:
            result.append(os.readlink(f'/proc/self/fd/{name}').split(':')[0].removesuffix(' (deleted)'))
        except OSError:
            pass
    """
    with contextlib.closing(sandbox.open()) as other:
        other.usage()
        with contextlib.closing(sandbox.open()) as room:
            targets = result_of(room, source)
    assert targets.count("socket") == 1
    assert all(target.startswith(("socket", "/dev/null", "/home/student/#", "/opt/packages/")) for target in targets)


def test_the_network_of_this_machine_cannot_be_reached(room, bare, tmp_path):
    with socket.socket() as listener, socket.socket(socket.AF_UNIX) as local, socket.socket(socket.AF_UNIX) as file:
        listener.bind(("127.0.0.1", 0))
        local.bind(f"\0course-{os.getpid()}")
        file.bind(str(tmp_path / "socket"))
        for bound in (listener, local, file):
            bound.listen()
        source = """
        import socket
        result = []
        for family, address in ((2, ('127.0.0.1', port)), (1, '\\0' + name), (1, path)):
            try:
                socket.create_connection(address, 5) if family == 2 else socket.socket(family).connect(address)
                result.append(True)
            except OSError:
                result.append(False)
        """
        values = {"port": listener.getsockname()[1], "name": f"course-{os.getpid()}", "path": str(tmp_path / "socket")}
        assert result_of(bare, source, **values) == [True, True, True]
        assert result_of(room, source, **values) == [False, False, False]
    assert result_of(room, "import socket\nresult = [name for _, name in socket.if_nameindex()]") == ["lo"]


# what can be written


def test_nothing_but_home_tmp_and_shared_memory_can_be_written(room):
    source = """
    import os
    result = []
    for folder, folders, names in os.walk('/'):
        if folder.count('/') > 3 or folder in ('/proc', '/usr'):
            folders.clear()
        for path in (os.path.join(folder, 'new'), *(os.path.join(folder, name) for name in names[:3])):
            if folder.startswith('/dev') and not path.endswith('new'):
                continue
            try:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
                result.append(folder)
                break
            except OSError:
                pass
    """
    assert sorted(result_of(room, source)) == ["/dev/shm", "/home/student", "/tmp"]


@pytest.mark.parametrize(
    "path",
    ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger", "/sys/power/state"],
)
def test_kernel_settings_cannot_be_written(room, path):
    source = """
    import os
    try:
        os.close(os.open(path, os.O_WRONLY))
        result = 'opened'
    except OSError:
        result = 'refused'
    """
    assert result_of(room, source, path=path) == "refused"
    if os.getuid() == 0 and path.startswith("/proc/sys/"):
        os.close(os.open(path, os.O_WRONLY))


@pytest.mark.parametrize("folder", ["/home/student", "/tmp", "/dev/shm"])
def test_each_writable_folder_is_capped_in_bytes_and_files(room, folder):
    source = """
    import errno, os
    written, failed = 0, ''
    try:
        for i in range(100):
            with open(f'{folder}/{i}', 'wb', buffering=0) as file:
                written += file.write(bytes(2**20))
    except OSError as error:
        failed = errno.errorcode[error.errno]
    for name in os.listdir(folder):
        os.unlink(f'{folder}/{name}')
    try:
        for i in range(20_000):
            os.close(os.open(f'{folder}/{i}', os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        failed += ' ' + errno.errorcode[error.errno]
    result = [written, i, failed]
    """
    written, files, failed = result_of(room, source, folder=folder)
    assert 3 * 2**20 <= written <= SMALL.files_bytes and files < 10_000
    assert failed == "ENOSPC ENOSPC"


def test_a_single_file_is_capped(room):
    source = """
    import errno
    try:
        with open('large', 'wb') as file:
            file.truncate(2**40)
        result = ''
    except OSError as error:
        result = errno.errorcode[error.errno]
    """
    assert result_of(room, source) == "EFBIG"


# what the kernel refuses


def status(room: Room) -> dict[str, str]:
    text = result_of(room, "result = open('/proc/self/status').read()")
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


@pytest.mark.parametrize("where", ["room", "single"])
def test_a_submission_has_no_capabilities_and_can_get_none(request, where):
    inside = status(request.getfixturevalue(where))
    assert {int(inside[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert (inside["NoNewPrivs"], inside["Seccomp"]) == ("1", "2")
    assert inside["Uid"].split() == ["1000"] * 4


def test_without_walls_a_submission_is_not_locked_down(bare):
    assert (status(bare)["NoNewPrivs"], status(bare)["Seccomp"]) == ("0", "0")


COLUMN = lockdown._ARCHITECTURES[platform.machine()][0]
CALL = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    # in a child: where nothing stops it, the call may succeed
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        ctypes.set_errno(0)
        libc.syscall(number, *(ctypes.c_long(a) for a in arguments))
        os.write(writing, str(ctypes.get_errno()).encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 100)
    os.close(reading)
    os.waitpid(child, 0)
    return int(said)
"""


def test_refused_system_calls_are_refused(room, bare):
    """Every call of the filter, with arguments that make each harmless where it is let through."""
    numbers = {name: row[COLUMN] for name, row in lockdown._REFUSED.items() if row[COLUMN] is not None}
    source = CALL + "result = {name: call(number, -1, -1, -1, -1, -1, -1) for name, number in numbers.items()}"
    inside = result_of(room, source, numbers=numbers)
    assert {name for name, error in inside.items() if error != errno.EPERM} == set()
    open_to_all = {name: numbers[name] for name in ("unshare", "ptrace", "keyctl", "setns")}
    outside = result_of(bare, source, numbers=open_to_all)
    assert errno.EPERM not in outside.values()


FLAGS = [lockdown.CLONE_NEWNS, lockdown.CLONE_NEWCGROUP, lockdown.CLONE_NEWUTS, lockdown.CLONE_NEWIPC,
         lockdown.CLONE_NEWUSER, lockdown.CLONE_NEWPID, lockdown.CLONE_NEWNET]  # fmt: skip


@pytest.mark.parametrize("where", ["room", "single"])
def test_no_process_can_be_started_in_new_namespaces(request, bare, where):
    clone, clone3, unshare = lockdown._CLONE[COLUMN], lockdown._CLONE3[COLUMN], lockdown._REFUSED["unshare"][COLUMN]
    source = CALL + textwrap.dedent("""
        result = [[call(clone, flag | signal.SIGCHLD, 0, 0, 0, 0) for flag in flags],
                  [call(unshare, flag) for flag in (0, *flags, 0x80)],
                  call(clone3, 0, 0),
                  call(clone, signal.SIGCHLD, 0, 0, 0, 0)]
        """)
    values = {"clone": clone, "clone3": clone3, "unshare": unshare, "flags": FLAGS}
    inside = result_of(request.getfixturevalue(where), source, **values)
    assert inside == [[errno.EPERM] * 7, [errno.EPERM] * 9, errno.ENOSYS, 0]
    assert result_of(bare, source.replace("for flag in flags]", f"for flag in [{lockdown.CLONE_NEWUSER}]]"), **values)[
        0
    ] == [0]


def test_only_harmless_kinds_of_sockets_can_be_made(room, bare):
    source = CALL + "result = [call(number, *family, 0) for family in families]"
    values = {"number": lockdown._SOCKET[COLUMN]}
    refused = [(17, 3), (40, 1), (38, 5), (31, 3), (9, 5), (44, 3)]  # packets, vsock, alg, bluetooth, x25, xdp
    assert result_of(room, source, families=refused, **values) == [errno.EPERM] * len(refused)
    assert result_of(room, source, families=[(1, 1), (2, 1), (10, 1), (16, 3)], **values) == [0] * 4
    assert result_of(room, source, families=[(2, 3, 1)], **values) == [errno.EPERM]  # raw ICMP
    assert errno.EPERM not in result_of(bare, source, families=[(40, 1)], **values)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines have no second table of calls")
def test_the_second_tables_of_system_calls_are_closed(room):
    by_number = CALL + "result = call(0x40000000 | 39)"
    assert result_of(room, by_number) == errno.EPERM
    old_call = """
    import ctypes, mmap, os
    code = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
    code.write(bytes.fromhex('b814000000cd80c3'))  # getpid by `int 0x80`
    child = os.fork()
    if child == 0:
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    result = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    """
    assert result_of(room, old_call) == signal.SIGSYS


def test_limits_cannot_be_raised(room):
    source = """
    import resource
    result = []
    for kind in ('AS', 'NPROC', 'CPU', 'FSIZE', 'NOFILE', 'CORE', 'MEMLOCK'):
        number = getattr(resource, 'RLIMIT_' + kind)
        soft, hard = resource.getrlimit(number)
        try:
            resource.setrlimit(number, (hard, hard + 1))
        except (ValueError, OSError):
            if hard != resource.RLIM_INFINITY:
                continue
        result.append(kind)
    """
    assert result_of(room, source) == []


# rooms among each other


def test_memory_that_no_process_holds_cannot_be_had(room):
    """What lies in a memory file or a System V segment is in no resident set, and would escape the memory limit."""
    source = """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        result = [os.memfd_create('hoard') >= 0]
    except PermissionError:
        result = [False]
    segment, queue = libc.shmget(0, 4096, 0o1600), libc.msgget(0, 0o1600)
    result += [segment >= 0, queue >= 0]
    if segment >= 0:
        libc.shmctl(segment, 0, None)  # IPC_RMID
    if queue >= 0:
        libc.msgctl(queue, 0, None)
    import mmap
    for descriptor in (-1, os.open('/dev/zero', os.O_RDWR)):
        try:
            block = mmap.mmap(descriptor, 2**20, flags=mmap.MAP_SHARED)
            block.write(b'x' * 2**20)
            block.madvise(mmap.MADV_DONTNEED)  # out of the resident set
            result.append(block[9] == 120)
        except OSError:
            result.append(False)
    """
    assert result_of(room, source) == [False] * 5
    outside: dict = {}
    exec(textwrap.dedent(source), outside)
    assert outside["result"] == [True] * 5


def test_memory_cannot_be_put_out_to_swap(room, bare):
    source = """
    import ctypes, mmap
    block = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    result = [ctypes.CDLL(None).madvise(ctypes.c_void_p(address), 4096, advice) for advice in (21, 4)]
    """
    assert result_of(room, source) == [-1, 0]
    assert result_of(bare, source) == [0, 0]


def test_memory_of_its_own_and_shared_by_files_can_be_had(room):
    """What libraries do: numpy's arrays, torch's shared tensors, multiprocessing's queues and locks, subprocesses."""
    source = """
    import mmap, multiprocessing, subprocess, torch
    mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    shared = torch.zeros(3).share_memory_()
    fork = multiprocessing.get_context('fork')
    value, queue, lock = fork.Value('i', 0), fork.Queue(), fork.Lock()
    def work():
        shared.add_(1)
        value.value += 1
        queue.put('done')
    child = fork.Process(target=work)
    child.start()
    child.join()
    with open('/dev/zero', 'rb') as zero:
        nothing = zero.read(3)
    shells = [['sh', '-c', 'true; (true & true); echo x'], ['bash', '-c', 'sleep 0.1 & wait; echo x']]
    printed = [subprocess.run(shell, capture_output=True).stdout.decode() for shell in shells]
    result = [shared.tolist(), value.value, queue.get(), list(nothing), printed]
    """
    assert result_of(room, source) == [[1.0, 1.0, 1.0], 1, "done", [0, 0, 0], ["x\n", "x\n"]]


def test_a_room_sees_nothing_of_another(sandbox, room):
    source = """
    import os, socket, subprocess, tempfile
    for folder in ('/home/student', '/tmp', '/dev/shm'):
        open(f'{folder}/mine', 'w').write('secret')
    listener = socket.socket(socket.AF_UNIX)
    listener.bind('\\0course')
    listener.listen()
    sleeper = subprocess.Popen(['sleep', '1000'])
    """
    look = """
    import os, socket
    found = [os.path.exists(f'{folder}/mine') for folder in ('/home/student', '/tmp', '/dev/shm')]
    try:
        socket.socket(socket.AF_UNIX).connect('\\0course')
        found.append(True)
    except OSError:
        found.append(False)
    found.append(any(b'sleep' in open(f'/proc/{n}/cmdline', 'rb').read() for n in os.listdir('/proc') if n.isdigit()))
    result = found
    """
    assert run_cell(room, source)[1] is None
    other = sandbox.open()
    try:
        assert result_of(other, look) == [False] * 5
        assert result_of(room, look) == [True] * 5
    finally:
        other.close()


def test_a_room_is_one_process(sandbox):
    """A process that stood between the template and the submission's would be forked, and end, for each submission."""
    before = sandbox_processes(sandbox)
    with contextlib.closing(sandbox.open()) as room:
        (process,) = sandbox_processes(sandbox) - before
        assert processes_in(process_namespace(room)) == [process]


def sandbox_processes(sandbox: Sandbox) -> set[int]:
    """This machine's numbers of all processes in a sandbox; those that only wait to be collected do not count."""
    found = [sandbox.process.pid]
    for pid in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {pid for pid in found if ") Z " not in Path(f"/proc/{pid}/stat").read_text()}


def test_what_a_room_leaves_is_gone_in_the_next(sandbox):
    first = sandbox.open()
    leave = "import torch\ntorch.left = 1\nfor path in ('/tmp/left', 'left'): open(path, 'w').write('x')"
    assert run_cell(first, leave)[1] is None
    first.close()
    second = sandbox.open()
    try:
        source = "import os, torch\nresult = [os.listdir('/tmp'), os.listdir('.'), hasattr(torch, 'left')]"
        assert result_of(second, source) == [[], [], False]
    finally:
        second.close()


def test_a_room_cannot_signal_anything_but_its_own(sandbox, room):
    other = sandbox.open()
    try:
        run_cell(other, "kept = 'alive'")
        source = """
        import os, signal
        result = []
        for target in (-1, 0, os.getppid(), *range(2, 3000)):
            if target == 0:
                continue  # oneself
            try:
                os.kill(target, signal.SIGKILL)
                result.append(target)
            except OSError:
                pass
        """
        assert result_of(room, source) == []
        assert result_of(other, "result = kept") == "alive"
        sandbox.open().close()
    finally:
        other.close()


def test_where_rooms_share_a_process_namespace_ours_stay_out_of_reach(single):
    """Writing to the memory of the template would undo the filter of system calls."""
    source = """
    import os
    result = []
    for pid in (os.getpid(), 1):
        opened = []
        for name in ('mem', 'environ', 'maps', 'fd'):
            try:
                os.listdir(f'/proc/{pid}/fd') if name == 'fd' else open(f'/proc/{pid}/{name}', 'rb').close()
                opened.append(name)
            except OSError:
                pass
        result.append(opened)
    """
    assert result_of(single, source) == [["mem", "environ", "maps", "fd"], []]


# limits


def test_memory_of_one_process_is_limited(room):
    source = """
    try:
        block = bytearray(3 * 2**30)
        result = 'taken'
    except MemoryError:
        result = 'refused'
    """
    assert result_of(room, source) == "refused"
    assert result_of(room, "block = bytearray(2**29)\nresult = len(block)") == 2**29


@pytest.mark.parametrize("how", ["", "beside processes that have ended", "in threads whose first has ended"])
def test_memory_of_all_processes_together_is_limited(room, how):
    """Processes that nobody has waited for have no memory, and say so; those that go on in a thread say so too."""
    source = """
    import ctypes, os, threading, time
    def take():
        global block
        block = bytearray(b'x') * (850 * 2**20)
        time.sleep(1000)
    for _ in range(8 if 'beside' in how else 0):
        if os.fork() == 0:
            os._exit(0)
    for _ in range(3):
        if os.fork() == 0:
            if 'threads' in how:
                threading.Thread(target=take).start()
                ctypes.CDLL(None).syscall(number_of_exit, 0)
            take()
    time.sleep(1000)
    """
    source = f"how, number_of_exit = {how!r}, {(60, 93)[COLUMN]}\n{textwrap.dedent(source)}"
    with pytest.raises(LimitExceeded, match="GiB of memory") as raised:
        run_cell(room, source, seconds=100)
    assert not raised.value.wall


@pytest.mark.parametrize("where", ["room", "single"])
def test_what_a_process_uses_is_seen_where_it_hides_from_others_of_its_user(request, where):
    room = request.getfixturevalue(where)
    before = room.usage().memory_bytes
    source = """
    import ctypes
    block = bytearray(b'x') * 2**27
    ctypes.CDLL(None).prctl(15, b'VmHWM: 1 kB')  # PR_SET_NAME
    ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE
    """
    run_cell(room, source)
    assert room.usage().memory_bytes - before >= 2**26
    branch = room.fork()
    assert branch.peak_memory() >= 2**26
    branch.close()
    room.end_branches()
    run_cell(room, "del block; ctypes.CDLL(None).prctl(4, 1)")


def test_what_processes_share_counts_once_and_what_other_programs_have_counts_whole(room):
    """A branch has all that the notebook has. Another program has nothing of the template's, nor have its children."""
    run_cell(room, "block = bytearray(b'x') * (1200 * 2**20)")
    with contextlib.closing(room.fork()) as branch:
        assert result_of(branch, "result = len(block)") == 1200 * 2**20
        assert 1200 * 2**20 <= room.usage().memory_bytes < 1600 * 2**20
    room.end_branches()
    source = """
    import subprocess, sys
    program = '''
    import os, time
    for _ in range(8):
        if os.fork() == 0:
            kept = bytearray(b'x') * (150 * 2**20)
            time.sleep(1000)
    time.sleep(1000)
    '''
    subprocess.run([sys.executable, '-c', __import__('textwrap').dedent(program)])
    """
    with pytest.raises(LimitExceeded, match="GiB of memory"):
        run_cell(room, source, seconds=100)


def test_processes_are_limited(room):
    source = """
    import errno, os, time
    children = []
    try:
        while len(children) < 1000:
            child = os.fork()
            if child == 0:
                time.sleep(1000)
            children.append(child)
        result = 'never'
    except OSError as error:
        result = errno.errorcode[error.errno]
    result = [result, len(children)]
    """
    name, count = result_of(room, source)
    assert name == "EAGAIN" and 8 <= count <= SMALL.processes


def test_computing_time_is_limited(room):
    with pytest.raises(LimitExceeded, match=r"more than 0\.3 seconds of computing time") as raised:
        run_cell(room, "while True: pass", seconds=0.3)
    assert not raised.value.wall


@pytest.mark.parametrize("where", ["room", "single"])
def test_computing_time_of_children_counts_even_when_they_have_no_parent_left(request, where):
    """As daemons, which nobody in the submission waits for."""
    branch = request.getfixturevalue(where).fork()
    source = """
    import os, time
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True: pass
            os._exit(0)
    time.sleep(1000)
    """
    with pytest.raises(LimitExceeded, match="computing time"):
        run_cell(branch, source, seconds=3)
    branch.close()
    request.getfixturevalue(where).end_branches()
    assert result_of(request.getfixturevalue(where), "result = 'still here'") == "still here"


@pytest.mark.parametrize("how", ["SIG_IGN", "SA_NOCLDWAIT"])
def test_computing_time_of_children_counts_even_when_their_end_is_ignored(room, bare, how):
    """The kernel forgets the time of children whose parent asks not to be told of their end."""
    source = """
    import ctypes, os, signal, struct, time
    def children():
        return open(f'/proc/self/task/{os.getpid()}/children').read().split()
    action = struct.pack('Q128xi4xQ', 1, 0, 0) if how == 'SIG_IGN' else struct.pack('Q128xi4xQ', 0, 2, 0)
    ctypes.CDLL(None).sigaction(signal.SIGCHLD, action, None)
    if os.fork() == 0:
        while time.process_time() < 0.6: pass  # of which the kernel shows whole hundredths
        os._exit(0)
    time.sleep(0.2)
    while any(open(f'/proc/{n}/stat').read().split(') ')[1][0] == 'R' for n in children()): time.sleep(0.05)
    result = len(children())
    """
    for where, left in ((room, 1), (bare, 0)):
        before = where.usage().cpu_seconds
        assert result_of(where, source, how=how) == left
        assert (where.usage().cpu_seconds - before >= 0.5) == (left == 1)


@pytest.mark.parametrize("where", ["room", "single"])
def test_files_in_memory_count_as_memory(request, where):
    room = request.getfixturevalue(where)
    before = room.usage().memory_bytes
    run_cell(room, "for folder in ('/tmp', '/dev/shm', '.'): open(f'{folder}/full', 'wb').write(bytes(3 * 2**20))")
    assert 9 * 2**20 <= room.usage().memory_bytes - before < 20 * 2**20
    run_cell(room, "import os\nfor folder in ('/tmp', '/dev/shm', '.'): os.unlink(f'{folder}/full')")
    assert room.usage().memory_bytes - before < 9 * 2**20


def test_the_kernel_ends_a_process_at_the_limit_of_the_submission(sandbox):
    room = sandbox.open(cpu_seconds=1)
    try:
        with pytest.raises(RoomEnded, match="ended by SIG"):
            run_cell(room, "while True: pass", seconds=100)
        # Towards the limit the kernel counts whole clock ticks: on a busy machine more than is measured in the end.
        assert room.cpu_seconds >= 0.5
    finally:
        room.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backstop on the wall clock after one second instead of ten."""
    monkeypatch.setattr(rooms_of_sandbox, "MIN_WALL_SECONDS", 1.0)


IGNORE_SIGNALS = """
import signal
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
"""
HANGING = {
    "sleeps": "import time; time.sleep(10_000)",
    "ignores signals": IGNORE_SIGNALS + "import time\ntime.sleep(10_000)",
    "waits for itself": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "catches everything": "import time\nwhile True:\n    try: time.sleep(10_000)\n    except BaseException: pass",
    "stops itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nimport time; time.sleep(10_000)",
    "starts children": "import os, time\n[os.fork() for _ in range(3)]\ntime.sleep(10_000)",
    "starts daemons": IGNORE_SIGNALS + """
import os, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir('/')
        for descriptor in range(256):
            try: os.close(descriptor)
            except OSError: pass
        time.sleep(10_000)
time.sleep(10_000)
""",
}  # fmt: skip


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("source", HANGING.values(), ids=HANGING)
def test_what_hangs_is_ended_with_all_that_it_started(sandbox, source):
    room = sandbox.open()
    namespace = process_namespace(room)
    with pytest.raises(LimitExceeded, match="did not end within") as raised:
        run_cell(room, source, seconds=0.5)
    assert raised.value.wall
    assert processes_in(namespace)
    room.close()
    assert none_left(namespace)


def test_a_submission_that_ended_well_leaves_nothing_behind_either(sandbox):
    room = sandbox.open()
    namespace = process_namespace(room)
    run_cell(room, "import subprocess\nfor _ in range(3): subprocess.Popen(['sleep', '1000'], start_new_session=True)")
    assert len(processes_in(namespace)) == 4
    room.end_branches()
    assert result_of(room, "result = 1") == 1
    room.close()
    assert none_left(namespace)


@pytest.mark.parametrize(
    ("source", "how"),
    [
        ("import os; os._exit(3)", r"ended its process \(exit code 3\)"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os.abort()", "ended by SIG"),
    ],
)
def test_a_process_that_ends_itself_is_told_from_one_that_was_ended(room, source, how):
    with pytest.raises(RoomEnded, match=how) as raised:
        run_cell(room, source)
    assert not isinstance(raised.value, LimitExceeded)
    with pytest.raises(RoomEnded):
        run_cell(room, "1")


# replies

CHANNEL = """
import os, struct, time
def channel():
    for name in os.listdir('/proc/self/fd'):
        try:
            if os.readlink(f'/proc/self/fd/{name}').startswith('socket:'):
                return int(name)
        except OSError:
            pass
"""


def test_a_reply_that_says_it_is_too_large_is_refused_at_once(room):
    for length in (wire.MAX_FRAME + 1, 2**63, 2**64 - 1):
        branch = room.fork()
        with pytest.raises(wire.WireError):
            run_cell(branch, CHANNEL + f"os.write(channel(), struct.pack('>Q', {length}))\ntime.sleep(1000)")
        branch.close()


@pytest.mark.usefixtures("impatient")
def test_a_reply_that_never_ends_is_ended(room):
    source = CHANNEL + "os.write(channel(), struct.pack('>Q', 2**25))\nwhile True:\n    os.write(channel(), b'x')\n"
    with pytest.raises(LimitExceeded, match="did not end within"):
        run_cell(room, source + "    time.sleep(0.02)", seconds=0.5)


def test_a_flood_of_replies_is_read_no_further_than_one_frame(room):
    source = CHANNEL + "while True:\n    os.write(channel(), struct.pack('>Q', 2**25) + b'x' * 2**25)"
    with pytest.raises(wire.WireError):
        run_cell(room, source)


def test_a_forged_reply_is_data_at_most(room):
    """Student code can answer in the server's place: what it says is read like any other answer."""
    source = CHANNEL + "frame = struct.pack('>I', 8) + b'{\"t\":[]}'\n" + (
        "os.write(channel(), struct.pack('>Q', len(frame)) + frame)"
    )  # fmt: skip
    with pytest.raises(wire.WireError, match="without a tag"):
        run_cell(room, source)


# the sandbox as a whole

GRADER = """
import sys, time
from pathlib import Path
sys.path[:0] = [{repository!r}, {tests!r}]
from autograder.course import Limits
from autograder.sandbox.room import Sandbox
from rooms import process_namespace, run_cell
if __name__ == "__main__":
    sandbox = Sandbox("bubblewrap", Limits(), Path({course!r}))
    rooms = [sandbox.open(), sandbox.open()]
    for room in rooms:
        run_cell(room, {daemons!r})
    spaces = [process_namespace(room) for room in rooms]
    print(sandbox.process.pid, sandbox.folder, *spaces, flush=True)
    run_cell(rooms[0], "import time; time.sleep(10_000)", seconds=1000)
"""


def test_a_grader_that_is_killed_leaves_no_process_behind(tmp_path):
    script = tmp_path / "grader.py"
    daemons = "import subprocess\nfor _ in range(2): subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    script.write_text(GRADER.format(
        repository=str(REPOSITORY), tests=str(REPOSITORY / "tests"), course=str(tmp_path), daemons=daemons
    ))  # fmt: skip
    grader = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    folder = ""
    try:
        assert grader.stdout is not None
        pid, folder, *namespaces = grader.stdout.readline().split()
        inside = {child: os.readlink(f"/proc/{child}/ns/pid") for child in descendants(int(pid))}  # noqa: PTH115
        assert set(namespaces) < set(inside.values()) and len(inside) >= 9
    finally:
        os.kill(grader.pid, signal.SIGKILL)
        grader.wait()
        shutil.rmtree(folder, ignore_errors=True)
    for namespace in set(inside.values()) - {os.readlink("/proc/self/ns/pid")}:  # noqa: PTH115
        assert none_left(namespace)
    assert not Path(f"/proc/{pid}/cmdline").exists() or "bwrap" not in Path(f"/proc/{pid}/cmdline").read_text()


def descendants(pid: int) -> list[int]:
    """A process and all that it started, by this machine's numbers."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def test_where_nested_namespaces_are_denied_each_submission_has_a_bubblewrap_of_its_own(single_sandbox, single):
    assert single_sandbox.isolation == "bubblewrap"
    assert single.on_close is not rooms_of_sandbox._nothing
    assert result_of(single, "import torch\nresult = float(torch.ones(3).sum())") == 3.0
    denied = CALL + "result = call(unshare, 0x10000000)"
    assert result_of(single, denied, unshare=lockdown._REFUSED["unshare"][COLUMN]) == errno.EPERM


def test_what_the_kernel_denies_the_template_is_found_out_by_the_first_room(monkeypatch, tmp_path):
    build = bubblewrap.build_walls
    monkeypatch.setattr(bubblewrap, "build_walls", lambda room, **options: build(room, **options | {"nested": False}))
    with Sandbox("bubblewrap", SMALL, tmp_path) as sandbox:
        assert sandbox.isolation == "namespaces"
        with contextlib.closing(sandbox.open()) as room:
            assert sandbox.isolation == "bubblewrap"
            assert result_of(room, "result = 1") == 1


def test_files_of_this_machine_cannot_be_read_from_a_bubblewrap_of_its_own_either(single, tmp_path):
    (tmp_path / "secret").write_text("x")
    for path in (tmp_path / "secret", REPOSITORY, Path.home(), Path("/etc/shadow")):
        assert not readable(single, path)


def test_daemons_in_a_bubblewrap_of_its_own_end_with_the_branch_and_with_the_room(single_sandbox):
    room = single_sandbox.open()
    namespace = process_namespace(room)
    before = len(processes_in(namespace))
    branch = room.fork()
    run_cell(branch, "import subprocess\nsubprocess.run(['sh', '-c', 'setsid sleep 1000 & setsid sleep 1000 &'])")
    assert len(processes_in(namespace)) == before + 3
    branch.close()
    room.end_branches()
    assert result_of(room, "result = 1") == 1
    assert sum("sleep" in Path(f"/proc/{pid}/cmdline").read_text() for pid in processes_in(namespace)) == 0
    room.close()
    assert none_left(namespace)


def test_a_missing_bubblewrap_is_told_with_the_line_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=r"bubblewrap is not installed.*apt-get install bubblewrap.*none"):
        Sandbox("bubblewrap", SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_namespaces_are_denied_it_is_told_who_knows_what_to_do(monkeypatch, tmp_path):
    made = bubblewrap.arguments
    monkeypatch.setattr(bubblewrap, "arguments", lambda walls, sources: [*made(walls, sources), "--userns", "99"])
    with Sandbox("bubblewrap", SMALL, tmp_path) as sandbox, pytest.raises(SandboxFailed) as raised:
        sandbox.wait()
    assert "the sandbox did not start: bwrap: " in str(raised.value)
    assert str(raised.value).endswith("`course doctor` says what this machine must allow")


def test_a_course_inside_a_folder_that_is_shown_is_refused(tmp_path):
    packages = Path(sysconfig.get_path("purelib"))
    link = tmp_path / "course"
    link.symlink_to(packages)
    for course in (Path("/usr/share/course"), packages / "course", packages, Path(sys.base_prefix) / "lib" / "c", link):
        with pytest.raises(SandboxUnavailable, match="Move the course"):
            Sandbox("bubblewrap", SMALL, course)


def test_without_walls_notebooks_run_too(bare_sandbox):
    room = bare_sandbox.open()
    home = Path(result_of(room, "import os, torch\nopen('x', 'w')\nresult = os.getcwd()"))
    assert (home / "x").exists()
    branch = room.fork()
    assert result_of(branch, "result = os.path.exists('x')")
    branch.close()
    room.end_branches()
    room.close()
    assert not home.exists()


def test_without_walls_too_a_loop_in_a_branch_ends_with_its_room(bare_sandbox):
    room = bare_sandbox.open()
    branch = room.fork()
    loop = int(result_of(branch, "import os\nresult = os.getpid()"))
    with pytest.raises(LimitExceeded):
        run_cell(branch, "while True: pass", seconds=0.5)
    room.channel.close()  # the process ends by itself, before anybody asks for its death
    time.sleep(1)
    branch.close()
    room.close()
    end = time.monotonic() + 30
    while Path(f"/proc/{loop}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{loop}").exists()


def test_what_an_assignment_asks_for_is_imported_before_submissions_are_forked(tmp_path):
    asked = "import sys\nresult = ['colorsys' in sys.modules, 'torch._dynamo' in sys.modules]"
    with Sandbox("bubblewrap", SMALL, tmp_path, preload=["colorsys", "torch._dynamo"]) as sandbox:
        assert result_of(sandbox.open(), asked) == [True, True]


def test_a_module_to_import_that_is_not_there_is_named(tmp_path):
    with (
        Sandbox("none", SMALL, tmp_path, preload=["torch_dynamo"]) as sandbox,
        pytest.raises(SandboxFailed, match="No module named 'torch_dynamo'"),
    ):
        sandbox.open()


def test_files_beside_the_notebook_can_be_imported_but_hide_no_package(room):
    ask(room, op="file", name="helper.py", content=b"value = 1")
    ask(room, op="file", name="folder/inner.py", content=b"value = 2")
    ask(room, op="file", name="colorsys.py", content=b"value = 3")
    source = "import colorsys, folder.inner, helper\nresult = [helper.value, folder.inner.value, colorsys.__file__]"
    assert result_of(room, source)[:2] == [1, 2]
    assert "student" not in result_of(room, source)[2]
