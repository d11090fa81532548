"""The four rows of the README: each word follows from the numbers, and the README is short and leads somewhere."""

import re
from types import SimpleNamespace

import pandas as pd
import pytest

from brainvis.evaluation import headlines
from brainvis.files import ROOT, BrainvisError

MADE = ("docs/notebooks", "notebooks", "figures/README.md")  # by the last run of the default study
DOCS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def interval(value, reach=0.05):
    return {"value": value, "low": value - reach, "high": value + reach, "p": 0.5, "chance": 0.025, "seeds": 3}


def rows(gain=0.1, pretraining=-0.2, p=0.001, size=0.3, told=0.2):
    """What a made-up study of two subjects says."""
    scores = {"fused.top1": interval(0.6), "difference.late.top1": interval(gain)}
    scores |= {"baselines.band_power.top1": interval(0.5), "baselines.covariances.top1": interval(0.4)}
    scores |= {"difference.band_power.top1": interval(0.1), "difference.covariances.top1": interval(0.2)}
    found = [{"stage": "fusion", "score": name, **score} for name, score in scores.items()]
    found += [{"stage": "generation", "score": "refined.generation_accuracy", **interval(0.55), "chance": 0.02}]
    means = pd.DataFrame([{"subject": s, "ablation": "full", **row} for s in (1, 2) for row in found])
    lost = {"measure": "CA top-1", "ablation": "no_pretraining", "p_holm": p, "family": 4, "subject": 1}
    differences = pd.DataFrame([lost | interval(pretraining)])
    attributes = {"size": {"value": 0.7, "minus_blind": interval(size)}, "position": {"minus_blind": interval(0.01)}}
    controls = {"true_name": {"minus_cascade": interval(told)}, "average": {"minus_cascade": interval(0.0)}}
    controls |= {"no_refinement": {"attributes": attributes}}
    metrics = {"controls": controls}
    runs = [SimpleNamespace(metrics=metrics, results={"study": {"subject": s}}) for s in (1, 2)]
    return headlines.headlines(means, differences, runs)


def test_rows_tell_the_numbers_and_what_is_shown():
    classified, generated, pretraining, besides = rows()
    assert classified.answers == dict.fromkeys((1, 2), ".600 [.550, .650]") and "(seeds: 3)" in classified.asked
    assert classified.meaning.startswith(
        "Chance is .025. The best of 2 baselines without a network reaches .500 (band power)"
    )
    assert "BrainVis differs from it by +10.0 [+5.0, +15.0] points and +10.0" in classified.meaning
    assert "changes late fusion by +10.0 [+5.0, +15.0] points and" in classified.meaning
    assert "told the true name, it changes by +20.0 [+15.0, +25.0] points and" in generated.meaning
    assert "blind to EEG, it changes by +0.0 [-5.0, +5.0] points (not shown)" in generated.meaning
    assert pretraining.answers == {1: "-20.0 [-25.0, -15.0] points"} and "costs accuracy" in pretraining.meaning
    assert besides.answers == dict.fromkeys((1, 2), "size (+30.0 [+25.0, +35.0] points)")


def test_what_is_not_shown_is_not_said():
    classified, _, pretraining, besides = rows(gain=0.01, pretraining=0.01, p=0.8, size=0.02)
    assert classified.meaning.count("(not shown)") == 2
    assert "is not shown to change accuracy (p = 0.8" in pretraining.meaning
    assert set(besides.answers.values()) == {"none shown"}
    assert "gains accuracy" in rows(pretraining=0.2)[2].meaning
    assert headlines.headlines(pd.DataFrame(columns=["subject", "ablation", "stage", "score"]), pd.DataFrame(
        columns=["ablation", "measure"]), []) == []  # fmt: skip


def test_the_table_goes_between_the_marks_of_the_readme(tmp_path):
    readme = tmp_path / "README.md"
    marked = "<!-- results -->\nstale words\n<!-- /results -->\nafter\n<!-- learned -->\nolder\n<!-- /learned -->\n"
    readme.write_text(f"before\n{marked}")
    with pytest.raises(BrainvisError, match="headlines.md is missing"):
        headlines.write_into(readme, tmp_path)
    (tmp_path / headlines.FILE).write_text(headlines.as_markdown(rows()))
    headlines.write_into(readme, tmp_path)
    assert "older" in readme.read_text()  # the study was not run
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "learned.md").write_text("- of a study of hours\n")
    for _ in range(2):
        headlines.write_into(readme, tmp_path)
    text = readme.read_text()
    assert text.startswith("before\n<!-- results -->\n|  | subject 1 |") and text.endswith("<!-- /learned -->\n")
    assert not re.search("stale words|older", text) and "- of a study of hours" in text
    assert text.count("docs/notebooks/06_generation.md") == 2
    assert all(line.count(" | ") == 4 for line in text.splitlines() if line.startswith("| "))
    assert "subject 2: .600 [.550, .650]" in headlines.as_plain(rows())
    readme.write_text("no marks")
    with pytest.raises(BrainvisError, match="no lines"):
        headlines.write_into(readme, tmp_path)


def test_the_readme_is_short_and_says_what_the_committed_results_say():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    assert all(f"<!-- {mark} -->" in text and f"<!-- /{mark} -->" in text for mark in headlines.MARKS)
    learned = (ROOT / "figures" / headlines.MARKS["learned"]).read_text()  # no run of the default study changes it
    assert f"<!-- learned -->\n{learned}<!-- /learned -->" in text


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_links_of_the_documents_lead_somewhere(file):
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target or path.startswith(MADE):
            continue
        place = (file.parent / path) if path else file
        assert place.exists(), target
        if anchor and place.suffix == ".md":
            heads = [re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-")
                     for head in re.findall(r"^#+ (.*)$", place.read_text(), re.M)]  # fmt: skip
            assert anchor in heads, target
