"""Pages of executed notebooks and of all runs: nothing is fetched, formulas are drawn, names stay text."""

import base64
import io
import re
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from brainvis.evaluation import pages
from brainvis.files import BrainvisError
from brainvis.graph import NOTEBOOKS, SUMMARIES
from brainvis.plots.style import TABLES
from brainvis.study import Study

HOSTILE = "<script>document.title = 'taken over'</script>"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the runs of a whole study that has names with scripts in it wherever a name can be."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINVIS_RUNS", str(folder / "runs"))
        _make()
        assert pages.write_pages(folder / "share") == len(NOTEBOOKS)
    return folder


@pytest.fixture
def runs(made, tmp_path, monkeypatch):
    """A copy of them, to be changed."""
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path / "runs"))
    shutil.copytree(made / "runs", tmp_path / "runs")


@pytest.fixture
def written(made):
    return made / "share"


def _make():
    assert TABLES  # its import makes tables show names as text
    score = {"value": 0.5, "low": 0.4, "high": 0.6}
    for stage in (*Study().stages, *SUMMARIES):
        study = Study()
        metrics = {"fused": {"top1": score}, "refined": {"generation_accuracy": score, "fid": {"value": 1234.5}}}
        if stage == "generation":
            folder = study.pictures / "refinement"
            folder.mkdir(parents=True)
            Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "trial-00001_sample-0.png")
        study.save(stage, metrics)
        nbformat.write(executed(stage), study.folder(stage) / f"{NOTEBOOKS[stage]}.ipynb")


def executed(stage):
    picture, file = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8), io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    png = base64.b64encode(file.getvalue()).decode()
    table = pd.DataFrame({"class": [HOSTILE], "caption": [HOSTILE], "CA": ["0.5 [0.4, 0.6]"]})
    outputs = [
        new_output("stream", name="stdout", text=f"predicted: {HOSTILE}"),
        new_output("stream", name="stderr", text="100%|#######| progress"),
        new_output("execute_result", data={"text/html": table.to_html(), "text/plain": HOSTILE}),
        new_output("display_data", data={"image/png": png, "text/html": "<b>choose</b>", "text/plain": "Figure"}),
    ]
    cells = [
        new_markdown_cell("Imports.", metadata={"tags": ["plumbing"]}),
        new_markdown_cell(f"# {NOTEBOOKS[stage]}\n\nSee [02](02_lmm_pretraining.ipynb)."),
        new_markdown_cell("Inline $x_t$ and\n\n$$L = \\frac{1}{d}\\lVert f \\rVert_2^2 \\tag{2}$$"),
        new_code_cell("kept = 1", outputs=outputs),
        new_code_cell("hidden = 1", metadata={"tags": ["plumbing"]}, outputs=[]),
    ]
    return new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})


def soup(file):
    return BeautifulSoup(file.read_text(), "html.parser")


def test_there_is_a_page_for_every_run_and_all_links_lead_somewhere(written):
    assert len([*(written / "pages").glob("*.html")]) == len(NOTEBOOKS)
    index = soup(written / "index.html")
    assert len(index.select("#runs tbody tr")) == len(NOTEBOOKS)
    for file in [written / "index.html", *(written / "pages").glob("*.html")]:
        for link in soup(file).select("a[href]"):
            target = link["href"].partition("#")[0]
            if target and target != pages.REPORT:
                assert (file.parent / target).is_file(), (file.name, link["href"])
    row = next(row for row in index.select("#runs tbody tr") if "06_generation" in row.text)
    assert [a.text for a in row.select("a")] == ["06_generation", "0.500", "0.500", "1234.5"]
    assert all("generation" in a["href"] for a in row.select("a")) and row.select("img")


def test_nothing_is_fetched_to_read_them(written):
    for file in written.rglob("*.html"):
        for part in soup(file).select("[src], link[href], iframe"):
            source = part.get("src") or part.get("href")
            assert source.startswith("data:"), (file.name, part)
        assert "@import" not in file.read_text() and not re.search(r"url\(\s*['\"]?http", file.read_text())


def test_names_with_a_script_in_them_stay_text(written):
    for file in (written / "pages").glob("*.html"):
        assert not soup(file).select("script"), file.name
        assert soup(file).text.count(HOSTILE) >= 3  # printed, and in both cells of the table
    row = {"page": HOSTILE, "notebook": HOSTILE, "chosen": {HOSTILE: HOSTILE}, "numbers": {HOSTILE: HOSTILE},
           "minutes": "1", "fingerprint": HOSTILE, "thumbnails": []}  # fmt: skip
    made = pages._template("index.html.j2").render(rows=[row], columns=[HOSTILE], report="")
    assert len(BeautifulSoup(made, "html.parser").select("script")) == 1  # ours


def test_formulas_are_drawn_by_the_browser(written):
    page = soup(next((written / "pages").glob("*fusion.html")))
    inline, block = page.select("math")
    assert block["display"] == "block" and block.select("mfrac") and "(2)" in block.text and "$" not in page.main.text
    assert inline.select("msub")


def test_an_interval_in_a_table_stays_on_one_line(written):
    cells = soup(next((written / "pages").glob("*fusion.html"))).select("td")
    assert "0.5 [0.4,\N{NO-BREAK SPACE}0.6]" in [cell.text for cell in cells]


def test_progress_bars_and_hidden_cells_are_left_out_and_pictures_are_smaller(written):
    page = soup(next((written / "pages").glob("*fusion.html")))
    assert "progress" not in page.text and "hidden = 1" not in page.text and "kept = 1" in page.text
    assert "Imports." not in page.text
    before = executed("fusion")
    after = pages.cleaned(executed("fusion"))
    pictures = [next(cell for cell in made.cells if cell.cell_type == "code").outputs[-1] for made in (before, after)]
    sizes = [len(picture.data["image/png"]) for picture in pictures]
    assert sizes[1] < 0.6 * sizes[0]


def test_runs_that_are_out_of_date_or_damaged_are_left_out(runs, tmp_path, capsys):
    (Study().folder("alignment") / "results.json").write_text("{}")
    assert pages.write_pages(tmp_path / "share") == len(NOTEBOOKS) - 1
    assert "alignment" in capsys.readouterr().out


def test_a_study_as_markdown(runs, tmp_path):
    older = tmp_path / "md" / "04_fusion" / "04_fusion_99_0.png"
    older.parent.mkdir(parents=True)
    older.touch()
    files = pages.write_markdown(Study(), tmp_path / "md")
    assert not older.exists() and files == [f"{NOTEBOOKS[stage]}.md" for stage in (*Study().stages, *SUMMARIES)]
    text = (tmp_path / "md" / "04_fusion.md").read_text()
    assert "[02](02_lmm_pretraining.md)" in text and "$$L =" in text and "choose" not in text
    (picture,) = re.findall(r"!\[png\]\((.+?)\)", text)
    assert (tmp_path / "md" / picture).is_file()
    outside = re.sub(r"^    .*$", "", text, flags=re.M)  # of indented code, which is text
    assert "<script" not in outside


def test_a_run_without_its_notebook_says_so(runs, tmp_path, capsys):
    (Study().folder("fusion") / "04_fusion.ipynb").unlink()
    assert pages.write_pages(tmp_path / "share") == len(NOTEBOOKS) - 1
    assert "04_fusion.ipynb is missing" in capsys.readouterr().out
    with pytest.raises(BrainvisError, match="04_fusion.ipynb is missing"):
        pages.write_markdown(Study(), tmp_path / "md")
