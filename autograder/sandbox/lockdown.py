"""What a submission's process gives up before student code runs: privileges, dangerous system calls, resources.

This file enters the sandbox: it imports nothing else of ours. The constants are Linux's own (`linux/seccomp.h`,
`linux/audit.h`, `linux/prctl.h`, `linux/capability.h` and the system call tables).
"""

import ctypes
import errno
import os
import resource
import struct
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWTIME = 0x10000000, 0x20000000, 0x40000000, 0x80
_CLONE_NEW = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET

NOSUID, NODEV, NOEXEC = 0x2, 0x4, 0x8

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

_LOAD, _AND, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_AT_NUMBER, _AT_ARCH, _AT_ARGUMENT, _ARGUMENT_SIZE = 0, 4, 16, 8

# system call numbers: (x86_64, aarch64); None where there is no such call
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "unshare": (272, 97), "setns": (308, 268),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # memory that no process's resident set shows; what lies in /dev/shm is counted there
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "msgget": (68, 186),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "acct": (163, 89), "quotactl": (179, 60),
    "settimeofday": (170, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "vhangup": (153, 58), "syslog": (103, 116),
}  # fmt: skip
_CLONE, _CLONE3, _SOCKET = (56, 220), (435, 435), (41, 198)
_MMAP, _MADVISE, _SIGACTION = (9, 222), (28, 233), (13, 134)
_MAP_KIND, _MAP_SHARED, _MAP_ANONYMOUS, _MADV_PAGEOUT, _SIGCHLD = 0xF, 1, 0x20, 21, 17
_SECCOMP, _SECCOMP_SET_MODE_FILTER, _FOR_ALL_THREADS = (317, 277), 1, 1
_ALLOWED_FAMILIES = (1, 2, 10, 16)  # unix, inet, inet6, netlink: all dead ends in an empty network namespace
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


class LockdownError(OSError):
    """The kernel did not grant a restriction that student code must run under."""


def _check(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise LockdownError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move this process (for new pids: its children) into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def enter_user_namespace(others: int = 0) -> None:
    """Move this process into a new user namespace, where it is who it was and has all capabilities.

    Args:
        others: Kinds of namespaces that it gets with it, and over which it so has power.
    """
    user, group = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER | others)
    for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            Path("/proc/self", file).write_text(text)
        except OSError as error:
            raise LockdownError(error.errno, f"{file}: {error.strerror}") from None


def fork_first_of_pids() -> int:
    """Fork a child that is the first process of a pid namespace of its own: all that it starts ends with it.

    Returns:
        The child's number in the namespace of this process; 0 in the child.
    """
    ours = os.open("/proc/self/ns/pid", os.O_RDONLY)
    child = -1
    try:
        unshare(CLONE_NEWPID)  # for the children to come, of which the next may not be in there
        child = os.fork()
    finally:
        if child:
            _check(_libc.setns(ours, CLONE_NEWPID), "setns")
        os.close(ours)
    return child


def mount(source: str, target: str, kind: str, options: str = "", flags: int = 0) -> None:
    """Mount a filesystem."""
    _check(_libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()), f"mount {target}")


def make_mounts_private() -> None:
    """Keep what is mounted from here on to this mount namespace."""
    _check(_libc.mount(None, b"/", None, 0x4000 | 0x40000, None), "make mounts private")  # MS_REC | MS_PRIVATE


def show_memory(shown: bool) -> None:
    """Let other processes of the same user read and write this one's memory (the usual case), or not."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, int(shown), 0, 0, 0), "dumpable")


def forbid_new_privileges() -> None:
    """Make set-user-id programs powerless; seccomp filters need it too."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def drop_capabilities() -> None:
    """Give up every capability that the process has in its user namespace."""
    header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    _check(_libc.capset(header, bytes(24)), "capset")


def limit_resources(
    *, memory_bytes: int | None, processes: int, cpu_seconds: int, file_bytes: int, open_files: int = 256
) -> None:
    """Set hard limits that student code cannot raise.

    Args:
        memory_bytes: Address space beyond what the process has mapped already; None where CUDA will reserve more of
            it than there is memory (see `limit_data`).
        processes: Processes and threads in this user namespace.
        cpu_seconds: CPU time of this process.
        file_bytes: Size of one file.
        open_files: Open descriptors.
    """
    if memory_bytes is not None:
        mapped = int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
        _set_limit(resource.RLIMIT_AS, mapped + memory_bytes)
    for kind, value in (
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        _set_limit(kind, value)


def limit_data(memory_bytes: int) -> None:
    """Set a hard limit on what the process may map to write to, in bytes beyond what it has mapped so far.

    It is what limits memory where the address space cannot be: CUDA reserves hundreds of GiB, but not to write to.
    """
    mapped = int(Path("/proc/self/status").read_bytes().split(b"VmData:")[1].split()[0]) * 1024
    _set_limit(resource.RLIMIT_DATA, mapped + memory_bytes)


def _set_limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _instruction(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, k)


def _program(machine: str) -> bytes:
    """The seccomp filter as classic BPF (see seccomp(2))."""
    column, architecture = _ARCHITECTURES[machine]
    refuse, allow = _instruction(_RETURN, _ERRNO | errno.EPERM), _instruction(_RETURN, _ALLOW)
    load_number = _instruction(_LOAD, _AT_NUMBER)
    code = [
        _instruction(_LOAD, _AT_ARCH),
        _instruction(_JUMP_EQUAL, architecture, 1, 0),
        _instruction(_RETURN, _KILL),
        load_number,
        _instruction(_JUMP_GREATER_EQUAL, 0x40000000, 0, 1),  # the x32 calls of x86_64 would pass by number
        refuse,
    ]
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            code += [_instruction(_JUMP_EQUAL, number, 0, 1), refuse]
    # clone3 hides its flags behind a pointer: say that there is no such call, and the C library uses clone
    code += [_instruction(_JUMP_EQUAL, _CLONE3[column], 0, 1), _instruction(_RETURN, _ERRNO | errno.ENOSYS)]
    code += [
        _instruction(_JUMP_EQUAL, _CLONE[column], 0, 3),
        _instruction(_LOAD, _AT_ARGUMENT),
        _instruction(_JUMP_SET, _CLONE_NEW, 0, 1),
        refuse,
        load_number,
    ]
    # Memory shared by no name stays when no process has it in its resident set any more.
    code += [
        _instruction(_JUMP_EQUAL, _MMAP[column], 0, 5),
        _instruction(_LOAD, _AT_ARGUMENT + 3 * _ARGUMENT_SIZE),
        _instruction(_JUMP_SET, _MAP_ANONYMOUS, 0, 3),
        _instruction(_AND, _MAP_KIND),
        _instruction(_JUMP_EQUAL, _MAP_SHARED, 0, 1),
        refuse,
        load_number,
    ]
    # Nor does what a process has put out to swap.
    code += [
        _instruction(_JUMP_EQUAL, _MADVISE[column], 0, 3),
        _instruction(_LOAD, _AT_ARGUMENT + 2 * _ARGUMENT_SIZE),
        _instruction(_JUMP_EQUAL, _MADV_PAGEOUT, 0, 1),
        refuse,
        load_number,
    ]
    # Children whose end is ignored take the computing time that they used with them. What happens at a child's end
    # stays as it is; shells, which want to be told of it, are told that it was done, or they would not start.
    code += [
        _instruction(_JUMP_EQUAL, _SIGACTION[column], 0, 7),
        _instruction(_LOAD, _AT_ARGUMENT),
        _instruction(_JUMP_EQUAL, _SIGCHLD, 0, 5),
        _instruction(_LOAD, _AT_ARGUMENT + _ARGUMENT_SIZE),
        _instruction(_JUMP_EQUAL, 0, 0, 2),
        _instruction(_LOAD, _AT_ARGUMENT + _ARGUMENT_SIZE + 4),
        _instruction(_JUMP_EQUAL, 0, 1, 0),
        _instruction(_RETURN, _ERRNO | 0),
        load_number,
    ]
    families = len(_ALLOWED_FAMILIES)
    code += [_instruction(_JUMP_EQUAL, _SOCKET[column], 0, families + 2), _instruction(_LOAD, _AT_ARGUMENT)]
    code += [_instruction(_JUMP_EQUAL, family, families - i, 0) for i, family in enumerate(_ALLOWED_FAMILIES)]
    code += [refuse, allow]
    return b"".join(code)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def filter_system_calls(*, all_threads: bool = False) -> None:
    """Refuse the calls by which a process reaches other processes, new namespaces or the kernel's rarer interfaces.

    Args:
        all_threads: Filter those of the process's other threads too. Else it must have none.
    """
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise LockdownError(errno.ENOSYS, f"no system call filter for {machine}")
    code = _program(machine)
    program = _Program(len(code) // 8, code)
    if all_threads:
        number = _SECCOMP[_ARCHITECTURES[machine][0]]
        status = _libc.syscall(number, _SECCOMP_SET_MODE_FILTER, _FOR_ALL_THREADS, ctypes.byref(program))
        if status > 0:
            raise LockdownError(errno.EBUSY, f"seccomp: thread {status} has a filter of its own")
        _check(status, "seccomp")
    else:
        _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0), "seccomp")
