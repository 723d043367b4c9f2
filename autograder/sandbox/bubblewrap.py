"""The locked room's walls: how the template process is started in bubblewrap.

Inside there is the system's read-only /usr, the Python installation under /opt/python, its packages under
/opt/packages, our few files under /opt/room, and nothing else: no course folder, no home, no network, no environment.
When the grader is root it drops to an unprivileged user first, because bubblewrap run by real root leaves kernel
settings writable; the Python installation is then staged where that user can read it.
"""

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import autograder
from autograder.gpu import Gpu

ROOM_FILES = (
    "__init__.py", "remote/__init__.py", "remote/frames.py", "remote/wire.py", "remote/standin.py", "remote/server.py",
    "remote/cells.py", "sandbox/__init__.py", "sandbox/cuda.py", "sandbox/forks.py", "sandbox/lockdown.py",
    "sandbox/template.py", "sandbox/watching.py",
)  # fmt: skip
PYTHON, PACKAGES, ROOM, HOME = "/opt/python", "/opt/packages", "/opt/room", "/home/student"
INSTALL_HINT = "install it with `sudo apt-get install bubblewrap` (Debian, Ubuntu) or `sudo dnf install bubblewrap`"
SYSTEM_PYTHON = (Path("/usr"), Path("/usr/local"))
"""Where a Python lies that is seen inside as it is here."""
FIRST_UNPRIVILEGED_USER = 64_000
ENVIRONMENT = {
    "HOME": HOME, "PATH": f"{PYTHON}/bin:/usr/local/bin:/usr/bin:/bin", "TMPDIR": "/tmp", "LANG": "C.UTF-8",
    "USER": "student", "LOGNAME": "student", "MPLCONFIGDIR": "/tmp/matplotlib", "IPYTHONDIR": "/tmp/ipython",
    "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "1",
}  # fmt: skip
# With a GPU: an error is raised by the line that made it, products of matrices are the same each time, nothing is
# compiled into the submission's folder, and asking whether there is a GPU does not start CUDA.
GPU_ENVIRONMENT = {
    "CUDA_LAUNCH_BLOCKING": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "CUDA_CACHE_DISABLE": "1",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}  # fmt: skip

# Runs as root: bind what must be readable into a folder that only this mount namespace has, then give up being root.
_STAGE = """
set -e
stage=$1 user=$2; shift 2
mount -t tmpfs -o mode=755 tmpfs "$stage"
i=0
while [ "$1" != -- ]; do mkdir "$stage/$i"; mount --bind "$1" "$stage/$i"; i=$((i+1)); shift; done
shift
exec setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs --inh-caps=-all \
    --bounding-set=-all env -i "$@"
"""


class SandboxUnavailable(RuntimeError):
    """There is no sandbox on this machine, and what to do about it."""


@dataclass(frozen=True)
class Walls:
    """What the sandbox shows: folders of this machine and where they appear inside.

    Attributes:
        folders: (path here, path inside), read-only.
        nested: Whether submissions may make namespaces of their own inside.
        files_bytes: Size of each writable folder.
        gpu: The GPU that is shown, if one is.
    """

    folders: tuple[tuple[Path, str], ...]
    nested: bool
    files_bytes: int
    gpu: Gpu | None = None


def package_folders() -> list[Path]:
    """The folders that Python finds installed packages in."""
    folders = dict.fromkeys(Path(path) for path in sys.path if path)
    return [folder for folder in folders if folder.name in ("site-packages", "dist-packages") and folder.is_dir()]


def interpreter() -> str:
    """The interpreter's path inside."""
    executable = Path(sys.executable).resolve()
    base = Path(sys.base_prefix).resolve()
    if base in SYSTEM_PYTHON:
        return str(executable)
    return f"{PYTHON}/{executable.relative_to(base)}"


def write_room(folder: Path) -> Path:
    """Copy the files of ours that enter the sandbox, and a user database of one, into a folder others can read."""
    room = folder / "room"
    source = Path(autograder.__file__).parent
    for name in ROOM_FILES:
        target = room / "autograder" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
    (room / "passwd").write_text(f"student:x:1000:1000:Student:{HOME}:/bin/sh\n")
    (room / "group").write_text("student:x:1000:\n")
    for path in (folder, room, *room.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return room


def build_walls(room: Path, *, nested: bool, files_bytes: int, forbidden: Path, gpu: Gpu | None = None) -> Walls:
    """What the sandbox of this machine shows.

    Args:
        room: The folder made by `write_room`.
        nested: See `Walls`.
        files_bytes: See `Walls`.
        forbidden: The course folder: nothing that is shown may contain it.
        gpu: See `Walls`.
    """
    folders: list[tuple[Path, str]] = [(room, ROOM)]
    base = Path(sys.base_prefix).resolve()
    if base not in SYSTEM_PYTHON:
        folders.append((base, PYTHON))
    folders += [(folder, f"{PACKAGES}/{i}") for i, folder in enumerate(package_folders())]
    forbidden = forbidden.resolve()
    for folder, _ in [*folders[1:], (Path("/usr"), "")]:
        if forbidden == folder.resolve() or folder.resolve() in forbidden.parents:
            raise SandboxUnavailable(
                f"The course folder {forbidden} lies inside {folder}, which student code can read. "
                "Move the course to another folder."
            )
    return Walls(tuple(folders), nested, files_bytes, gpu)


def find_programs() -> str:
    """The path of bubblewrap.

    Raises:
        SandboxUnavailable: It, or what root needs beside it, is not installed.
    """
    needed = ["bwrap", *(("setpriv", "unshare", "mount") if os.getuid() == 0 else ())]
    for program in needed:
        if not shutil.which(program):
            name = "bubblewrap" if program == "bwrap" else f"`{program}` (package util-linux)"
            raise SandboxUnavailable(
                f"{name} is not installed, and student code runs only in a sandbox: {INSTALL_HINT}. "
                'Where that is impossible, sandbox="none" in course_config.py runs it without one, on trust.'
            )
    return str(shutil.which("bwrap"))


def arguments(walls: Walls, sources: list[str]) -> list[str]:
    """Bubblewrap's own arguments; `sources` are the paths to bind, in the order of `walls.folders`."""
    result = [
        "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL",
        "--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--clearenv",
    ]  # fmt: skip
    if not walls.nested:
        result += ["--disable-userns"]
    for name, value in {**ENVIRONMENT, **python_environment(), **gpu_environment(walls.gpu)}.items():
        result += ["--setenv", name, value]
    result += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            result += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            result += ["--ro-bind", str(path), str(path)]
    for file in ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime"):
        result += ["--ro-bind-try", file, file]
    # /dev/zero maps as memory that no process's resident set need show; /dev/full reads the same, and does not map.
    result += ["--proc", "/proc", "--dev", "/dev", "--dev-bind", "/dev/full", "/dev/zero"]
    result += gpu_arguments(walls.gpu)
    size = str(walls.files_bytes)
    for folder in ("/tmp", HOME, "/dev/shm"):
        result += ["--size", size, "--tmpfs", folder]
    for source, (_, inside) in zip(sources, walls.folders, strict=True):
        result += ["--ro-bind", source, inside]
    result += ["--ro-bind", f"{sources[0]}/passwd", "/etc/passwd", "--ro-bind", f"{sources[0]}/group", "/etc/group"]
    # /dev comes as a writable tmpfs of half the memory
    result += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", HOME]
    return result


def python_environment() -> dict[str, str]:
    """Where a Python built with a shared library of its own finds it: its file names a path of this machine."""
    library, base = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib").resolve(), Path(sys.base_prefix).resolve()
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") or base in SYSTEM_PYTHON or not library.is_relative_to(base):
        return {}
    return {"LD_LIBRARY_PATH": f"{PYTHON}/{library.relative_to(base)}"}


def gpu_environment(gpu: Gpu | None) -> dict[str, str]:
    """The variables that a GPU adds to those of the sandbox."""
    if gpu is None:
        return {}
    return {**GPU_ENVIRONMENT, **({"CUDA_VISIBLE_DEVICES": gpu.uuid} if gpu.uuid else {})}


def gpu_arguments(gpu: Gpu | None) -> list[str]:
    """Bubblewrap's arguments that show a GPU: its device files, and of /sys what CUDA reads there."""
    result = []
    for device in gpu.devices if gpu else ():
        result += ["--dev-bind", str(device), str(device)]
    for folder in gpu.hardware if gpu else ():
        place = folder.resolve()  # /sys/bus is made of links
        result += ["--ro-bind", str(place), str(place)]
        if place != folder:
            result += ["--symlink", str(place), str(folder)]
    return result


def command(walls: Walls, program: list[str], arguments_descriptor: int, stage: Path) -> tuple[list[str], bytes]:
    """The command that starts `program` behind the walls, and what to write to its arguments' descriptor.

    Passing bubblewrap's arguments through a descriptor keeps paths of this machine out of the command line, which
    processes inside could read.
    """
    bwrap = find_programs()
    inner = [bwrap, "--args", str(arguments_descriptor), "--", *program]
    here = [str(folder) for folder, _ in walls.folders]
    if os.getuid() != 0:
        outer, sources = ["/usr/bin/env", "-i", *inner], here
    else:
        sources = [str(stage / str(i)) for i in range(len(here))]
        outer = [
            "unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", _STAGE, "stage",
            str(stage), str(FIRST_UNPRIVILEGED_USER), *here, "--", *inner,
        ]  # fmt: skip
    return outer, b"".join(os.fsencode(argument) + b"\0" for argument in arguments(walls, sources))
