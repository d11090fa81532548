"""The notebooks as they are committed: clean, short, parametrised alike, and free of what belongs in the package."""

import ast
import re

import nbformat
import pytest

from brainvis.files import ROOT
from brainvis.graph import NOTEBOOKS

FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMETERS = {
    "dataset": "phantom",
    "subject": 1,
    "ablation": "full",
    "preset": "demo",
    "seed": 0,
    "protocol": "clean",
    "backbone": "phantom",
}


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_a_notebook_for_every_stage_and_no_other():
    assert [file.stem for file in FILES] == sorted(NOTEBOOKS.values())


def test_valid_and_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert not cell.outputs and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}


def test_the_first_code_cell_holds_the_parameters_and_nothing_else(notebook):
    first = code_cells(notebook)[0]
    assert first.metadata.tags == ["parameters"]
    tree = ast.parse(first.source)
    found = {node.targets[0].id: ast.literal_eval(node.value) for node in tree.body}
    assert found in (PARAMETERS, PARAMETERS | {"branch": "frequency"})  # notebook 03 trains one branch after the other
    assert not any("parameters" in cell.metadata.get("tags", []) for cell in code_cells(notebook)[1:])


def test_words_stand_before_every_code_cell(notebook):
    kinds = [cell.cell_type for cell in notebook.cells]
    assert (
        all(kinds[i - 1] == "markdown" for i, kind in enumerate(kinds) if i and kind == "code") and kinds[0] != "code"
    )


def test_cells_are_short_and_leave_the_work_to_the_package(notebook):
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= 14, cell.source
        tree = ast.parse(cell.source)
        assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(tree))
        assert ".backward(" not in cell.source and not re.search(r"for epoch\b", cell.source)


def test_nothing_starts_cuda_before_a_training_which_may_have_to_fork(notebook):
    sources = [cell.source for cell in code_cells(notebook)]
    last = max((number for number, source in enumerate(sources) if re.search(r"\bfit\(", source)), default=0)
    for call in re.findall(r".*load_generator\(.*", "\n".join(sources[: last + 1])):
        assert "apart(lambda: " in call


def test_no_paths_in_notebooks(notebook):
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.match(r"(/|\.\.?/|~|[A-Z]:\\)", node.value), node.value


def test_the_last_cell_saves_the_results(notebook):
    assert "study.save(" in "".join(cell.source for cell in code_cells(notebook)[-2:])


def test_each_opens_with_where_it_stands(notebook):
    """Title in one form, ways to its neighbours, what is learned and how long it takes; then the lit drawing."""
    title, *rest = notebook.cells[0].source.splitlines()
    names = [file.stem for file in FILES]
    (place,) = (place for place, name in enumerate(names) if title.startswith(f"# {name[:2]} "))
    assert re.fullmatch(r"# \d\d [A-Z][\w ]+", title)
    near = {names[other] for other in (place - 1, place + 1) if 0 <= other < len(names)}
    assert set(re.findall(r"\((\w+)\.ipynb\)", "\n".join(rest))) == near
    assert "**You will learn**" in rest and any(line.startswith("**Time**: ") for line in rest)
    lit = [cell for cell in code_cells(notebook) if "framework_strip(" in cell.source]
    assert len(lit) == 1 and lit[0] is code_cells(notebook)[1] and lit[0].metadata.tags == ["plumbing"]


def test_each_ends_with_what_to_take_away(notebook):
    foot = notebook.cells[-1].source
    assert re.findall(r"^## (.+)$", foot, re.M) == ["What to take away", "Exercises", "References"]
    answers = re.findall(r"<details><summary>Answer</summary>\n\n(.+?)\n\n</details>", foot, re.S)
    assert len(answers) == foot.count("<details>") == 3 and all(answers)
    assert len(re.findall(r"^- ", foot.partition("## References")[2], re.M)) >= 2


def test_plumbing_is_tagged_so_that_pages_can_hide_it(notebook):
    """Cells that only import, and those that only keep results, are of no interest to a reader of a page."""
    for cell in code_cells(notebook):
        only_imports = all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(cell.source).body)
        if only_imports:
            assert "plumbing" in cell.metadata.get("tags", []), cell.source
