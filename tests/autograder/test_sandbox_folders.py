"""Folders of sandboxes whose process was killed go away; those in use, links and what is not ours stay."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from autograder.sandbox import folders
from autograder.sandbox.folders import PREFIX, make_folder, remove_lost_folders

OWNER = """
import sys
from pathlib import Path
from autograder.sandbox import folders
folders.parent_folder = lambda: Path(sys.argv[1])
folder, _ = folders.make_folder()
(folder / "room").mkdir()
print(folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which they are made."""
    monkeypatch.setattr(folders, "parent_folder", lambda: tmp_path)
    return tmp_path


def test_a_folder_goes_when_its_owner_was_killed_and_not_before(parent: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        remove_lost_folders()
        assert (folder / "room").is_dir()
        owner.kill()
        owner.wait()
        assert (folder / "room").is_dir()
        remove_lost_folders()
        assert not folder.exists()


def test_ones_own_folder_stays_until_its_lock_is_closed(parent: Path) -> None:
    folder, lock = make_folder()
    remove_lost_folders()
    assert folder.is_dir()
    os.close(lock)
    remove_lost_folders()
    assert not folder.exists()


def test_a_folder_that_is_taken_for_a_lost_one_before_it_is_locked_is_made_anew(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    make = tempfile.mkdtemp

    def make_and_lose(**options: str) -> str:
        made.append(make(**options))
        if len(made) == 1:
            remove_lost_folders()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    folder, lock = make_folder()
    assert [Path(path).exists() for path in made] == [False, True]
    assert folder == Path(made[1])
    os.close(lock)


def test_links_files_and_other_folders_are_left_alone(parent: Path) -> None:
    target = parent / "marks"
    target.mkdir()
    (target / "kept").touch()
    (parent / f"{PREFIX}link").symlink_to(target)
    (parent / f"{PREFIX}file").touch()
    lost = parent / f"{PREFIX}lost"
    lost.mkdir()
    (lost / "inside").symlink_to(target)
    remove_lost_folders()
    assert (
        (target / "kept").exists() and (parent / f"{PREFIX}link").is_symlink() and (parent / f"{PREFIX}file").exists()
    )
    assert not lost.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of somebody else's")
def test_a_folder_of_somebody_else_is_left_alone(parent: Path) -> None:
    theirs = parent / f"{PREFIX}theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    remove_lost_folders()
    assert theirs.is_dir()
