"""Running commands as an ordinary user, whoever runs the tests."""

import os
import shlex
import subprocess
from pathlib import Path

USER = 64_123


def first_closed_folder(path: Path) -> Path | None:
    """The outermost folder on the way to a path that others may not enter."""
    return next((folder for folder in reversed(path.resolve().parents) if not folder.stat().st_mode & 0o001), None)


def as_ordinary_user(command: list[str], needed: list[Path]) -> list[str]:
    """A command that runs another as an ordinary user; for root, in a mount namespace where it can reach `needed`."""
    if os.getuid() != 0:
        return command
    script = ["set -e", "stage=$(mktemp -d)", 'mount -t tmpfs tmpfs "$stage"']
    behind = {path: closed for path in needed if (closed := first_closed_folder(path))}
    for number, path in enumerate(behind):
        script += [f'mkdir "$stage/{number}"', f'mount --bind {shlex.quote(str(path))} "$stage/{number}"']
    for closed in dict.fromkeys(behind.values()):
        script += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(closed))}"]
    for number, path in enumerate(behind):
        quoted = shlex.quote(str(path))
        script += [f"mkdir -p {quoted}", f'mount --move "$stage/{number}" {quoted}']
    drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    script += [f"exec {shlex.join([*drop, *command])}"]
    return ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", "\n".join(script)]


def give_to_ordinary_user(folder: Path) -> None:
    """Make a folder and all in it the ordinary user's."""
    if os.getuid() == 0:
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(folder)], check=True)
