"""The README names only what there is."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from nbgrader.apps.nbgraderapp import NbGraderApp

from autograder.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = "\n".join(
    re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL) + re.findall(r"`([^`\n]+)`", README)
)


def commands(program: str) -> list[str]:
    """What stands after a program's name in the README's code."""
    return sorted(set(re.findall(rf"(?:^|&& ){program} (\w+)", CODE, re.MULTILINE)))


@pytest.mark.parametrize("command", commands("course"))
def test_course_has_the_command(command):
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("command", commands("course"))
def test_course_has_the_options_of_the_command(command):
    used = set(re.findall(rf"course {command} .*?(--[\w-]+)", CODE))
    assert used <= set(re.findall(r"--[\w-]+", CliRunner().invoke(main, [command, "--help"]).output))


@pytest.mark.parametrize("target", commands("make"))
def test_make_has_the_target(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", commands("nbgrader"))
def test_nbgrader_has_the_command(command):
    assert command.replace("_", "-") in {name.replace("_", "-") for name in NbGraderApp.subcommands}


def test_what_the_readme_is_about_is_there():
    assert {"demo", "test"} <= set(commands("make"))
    assert {"release", "grade", "show"} <= set(commands("course"))


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()
