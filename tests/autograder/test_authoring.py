"""From a percent script to a notebook, and to a running reference solution."""

import sys
import traceback

import nbformat
import pytest
from nbgrader.nbgraderformat import MetadataValidator

from autograder.authoring import build_notebook, load_solution, notebook_bytes, read_script, solved_notebook
from autograder.course import CourseError


def cells_of(notebook):
    return {cell.id: cell for cell in notebook.cells}


def complaint(tmp_path, text):
    path = tmp_path / "shapes.py"
    path.write_text(text)
    with pytest.raises(CourseError) as caught:
        read_script(path)
    return str(caught.value).removeprefix(f"{path}, ")


# Reading


def test_markers_say_what_a_cell_is(tiny_course):
    cells = {cell.cell_id: cell for cell in read_script(tiny_course.script).cells}
    assert list(cells) == [
        "text_shapes", "code_import_torch", "text_task_1_area", "area", "area_checks",
        "demo_picture_area_torch_tensor_side_for_side_in", "volume", "volume_checks",
    ]  # fmt: skip
    assert (cells["area"].task, cells["area"].grade_id) == ("area", "area")
    assert (cells["area_checks"].checks, cells["area_checks"].points) == ("area", 2)
    assert [cell_id for cell_id, cell in cells.items() if cell.demo] == [
        "demo_picture_area_torch_tensor_side_for_side_in"
    ]


def test_each_cell_knows_its_line_in_the_script(tiny_course):
    lines = tiny_course.script.read_text().splitlines()
    for cell in read_script(tiny_course.script).cells:
        if cell.kind == "code":
            length = len(cell.source.splitlines())
            assert "\n".join(lines[cell.line - 1 : cell.line - 1 + length]) == cell.source


def test_a_marker_inside_a_string_starts_no_cell(tmp_path):
    path = tmp_path / "shapes.py"
    path.write_text('# %%\nx = """\n# %% not a cell\n"""\n')
    (cell,) = read_script(path).cells
    assert "not a cell" in cell.source


def test_the_docstring_of_a_script_is_not_for_students(tiny_course):
    assert "tiny assignment" not in notebook_bytes(build_notebook(read_script(tiny_course.script))).decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import torch\n\n# %%\nx = 1\n", "line 1: this code belongs to no cell; put '# %%' above it."),
        ("# %%\n\n# %% task=area\n", "line 3: a cell marker cannot say 'task=area'"),
        ('# %% tsak="area"\n', "line 1: a cell marker cannot say 'tsak'"),
        ('# %% task="an area"\n', "line 1: 'an area' cannot name a task"),
        ('# %% checks="area"\n', "line 1: points belong to a cell with checks"),
        ('# %% task="area" points=2\n', "line 1: points belong to a cell with checks"),
        ('# %% checks="area" points=0\n', "line 1: the points are 0; they must be a number greater than 0."),
        ('# %% checks="area" points="2"\n', "line 1: the points are '2'"),
        ('# %% tags=["dmeo"]\n', "line 1: the tags are ['dmeo']"),
        ('# %% task="area" tags=["demo"]\n', "line 1: a cell is either a task, or checks, or a demo."),
        ('# %% [markdown] task="area"\n# text\n', "line 1: only a code cell"),
        ("# %%\nx = (\n", "line 3: "),
    ],
)
def test_a_marker_that_cannot_be_meant_is_named_with_its_line(tmp_path, text, expected):
    assert complaint(tmp_path, text).startswith(expected)


def test_a_missing_script_is_named(tmp_path):
    with pytest.raises(CourseError, match=r"nothing\.py, line 1: the script cannot be read"):
        read_script(tmp_path / "nothing.py")


# Building


def test_the_notebook_is_valid_for_jupyter_and_nbgrader(tiny_course):
    notebook = build_notebook(read_script(tiny_course.script))
    nbformat.validate(notebook)
    MetadataValidator().validate_nb(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)


def test_only_tasks_and_checks_carry_nbgrader_metadata(tiny_course):
    cells = cells_of(build_notebook(read_script(tiny_course.script)))
    assert cells["area"].metadata.nbgrader == {
        "grade": False, "grade_id": "area", "locked": False, "schema_version": 3, "solution": True, "task": False,
    }  # fmt: skip
    assert cells["volume_checks"].metadata.nbgrader == {
        "grade": True, "grade_id": "volume_checks", "locked": True, "points": 3, "schema_version": 3,
        "solution": False, "task": False,
    }  # fmt: skip
    assert cells["code_import_torch"].metadata == {}
    assert cells["demo_picture_area_torch_tensor_side_for_side_in"].metadata == {"tags": ["demo"]}


def test_a_second_build_gives_the_same_bytes(tiny_course):
    first, second = (notebook_bytes(build_notebook(read_script(tiny_course.script))) for _ in range(2))
    assert first == second


def test_inserting_and_editing_leaves_the_ids_of_other_cells_alone(tiny_course):
    before = [cell.cell_id for cell in read_script(tiny_course.script).cells]
    tiny_course.edit(tiny_course.script, "# The area of", "# As everyone knows, the area of")
    tiny_course.edit(tiny_course.script, '# %% task="volume"', '# %% [markdown]\n# Next\n\n# %% task="volume"')
    after = [cell.cell_id for cell in read_script(tiny_course.script).cells]
    assert [cell_id for cell_id in after if cell_id != "text_next"] == before


def test_cells_that_begin_alike_get_different_ids(tmp_path):
    path = tmp_path / "shapes.py"
    path.write_text("# %% [markdown]\n# Go on\n\n# %% [markdown]\n# Go on\n\n# %%\n\n# %%\n")
    assert [cell.cell_id for cell in read_script(path).cells] == ["text_go_on", "text_go_on_2", "code", "code_2"]


# A submission with the right answers


def test_a_solved_notebook_holds_the_answers_without_their_markers(tiny_course):
    cells = cells_of(solved_notebook(read_script(tiny_course.script)))
    assert "    squared = side.square()\n    return squared" in cells["area"].source
    assert not any("SOLUTION" in cell.source for cell in cells.values())


def test_an_override_comes_after_the_reference_answer(tiny_course):
    override = "def area(side):\n    return side * 4\n"
    area = cells_of(solved_notebook(read_script(tiny_course.script), {"area": override}))["area"]
    assert area.source.endswith("return squared\n\n\ndef area(side):\n    return side * 4")


# Running


def test_the_reference_runs_without_its_demo_and_checks(tiny_course, capsys):
    tiny_course.edit(tiny_course.script, "has area 9.", 'has area 9.", 1/0, "')
    namespace = load_solution(tiny_course.script)
    torch = namespace["torch"]
    assert namespace["volume"](torch.tensor(3.0), torch.tensor(2.0)) == 18
    assert "picture" not in namespace
    assert capsys.readouterr().out == ""


def test_loading_leaves_nothing_behind(tiny_course):
    path, modules = list(sys.path), set(sys.modules)
    load_solution(tiny_course.script)
    assert sys.path == path
    assert not {"expect", "solution_shapes"} & (set(sys.modules) - modules)


def test_a_changed_helper_is_loaded_anew(tiny_course):
    load_solution(tiny_course.script)
    (tiny_course.script.parent / "expect.py").write_text("expect_close = 'new'\n")
    assert load_solution(tiny_course.script)["expect_close"] == "new"


def test_another_course_has_its_own_helper(tiny_course, monkeypatch):
    monkeypatch.setitem(sys.modules, "expect", sys)
    assert load_solution(tiny_course.script)["expect_close"].__module__ == "expect"
    assert sys.modules["expect"] is sys


def test_an_override_takes_the_place_of_an_answer(tiny_course):
    namespace = load_solution(tiny_course.script, overrides={"area": "def area(side):\n    return side * 4\n"})
    torch = namespace["torch"]
    assert namespace["volume"](torch.tensor(3.0), torch.tensor(2.0)) == 24


def test_an_override_of_an_unknown_task_is_refused(tiny_course):
    with pytest.raises(CourseError, match=r"has no task aera; its tasks are area, volume"):
        load_solution(tiny_course.script, overrides={"aera": ""})


def test_a_traceback_shows_the_lines_of_the_script(tiny_course):
    tiny_course.edit(tiny_course.script, "    squared = side.square()", "    squared = side.sqaure()")
    namespace = load_solution(tiny_course.script)
    with pytest.raises(AttributeError) as caught:
        namespace["area"](namespace["torch"].tensor(1.0))
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert last.filename == str(tiny_course.script)
    assert last.line == "squared = side.sqaure()"


def test_a_traceback_shows_the_lines_of_an_override(tiny_course):
    namespace = load_solution(tiny_course.script, overrides={"area": "def area(side):\n    return side.sqaure()\n"})
    with pytest.raises(AttributeError) as caught:
        namespace["area"](namespace["torch"].tensor(1.0))
    assert traceback.extract_tb(caught.value.__traceback__)[-1].line == "return side.sqaure()"


def test_dataclasses_of_a_solution_work(tmp_path):
    path = tmp_path / "shapes.py"
    path.write_text(
        "# %%\nfrom __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass Box:\n    side: float\n"
    )
    assert load_solution(path)["Box"](2.0).side == 2.0
