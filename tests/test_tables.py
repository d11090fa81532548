"""Every number in a table or figure is the number in a run's results.json; what others reported stays apart."""

import io
import json
import subprocess
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from brainvis.__main__ import main
from brainvis.configuration import ABLATIONS
from brainvis.evaluation import report as tables
from brainvis.evaluation.publication import Publication, caveats, differences_of, numbers_of, to_latex, trace
from brainvis.evaluation.reported import reported_table
from brainvis.files import BrainvisError, read_sealed, write_sealed
from brainvis.generation import GENERATORS
from brainvis.plots.method import framework_figure
from brainvis.plots.summary import ablation_figure, classification_figure
from brainvis.study import Product, Study, made_with
from brainvis.study.product import other_versions


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path / "runs"))
    # These tables do not depend on the backbone, so it need not be there.
    source = replace(GENERATORS["phantom"], fingerprint=lambda: "the phantom backbone")
    monkeypatch.setitem(GENERATORS, "phantom", source)
    return tmp_path / "runs"


@pytest.fixture
def study():
    """Two subjects, three ablations, one of which shares its classifier; all numbers are different."""
    rng = np.random.default_rng(0)

    def score(chance=None):
        low, value, high = np.sort(rng.random(3)).tolist()
        return {"value": value, "low": low, "high": high} | ({"chance": chance} if chance else {})

    def encoder():
        parts = ("time", "frequency", "fused")
        tops = {part: {f"top{k}": score(k / 40) for k in (1, 3, 5)} | {"macro_f1": score()} for part in parts}
        return tops | {"history": [{"epoch": 1, "loss": 0.5}], "trials": 60}

    def pictures(*kinds):
        names = ("generation_accuracy", "clip_similarity", "ssim", "pixel_correlation", "two_way_clip")
        network = {"network": "a judge"}
        sets = {"inception_score": {"value": rng.random() + 9}, "fid": {"value": rng.random() + 99} | network}
        return {kind: {name: score(0.02) for name in names} | dict(sets) for kind in kinds}

    for subject, ablation in ((1, "full"), (2, "full"), (1, "no_time")):
        Study(subject=subject, ablation=ablation).save("fusion", encoder())
        Study(subject=subject, ablation=ablation).save("generation", pictures("semantic", "refined"))
    Study(ablation="no_refinement").save("generation", pictures("semantic"))
    Study(ablation="no_semantic").save("generation", pictures("refined"))
    return Study()


def numbers_on_disk(folder):
    """(run, path in the metrics) -> score, read from the files without the package."""
    found = {}

    def walk(run, path, metrics):
        for name, value in metrics.items():
            if isinstance(value, dict):
                if "value" in value:
                    found[run, ".".join([*path, name])] = value
                else:
                    walk(run, [*path, name], value)

    for file in folder.glob("phantom/*/*/*/results.json"):
        walk(file.parent.relative_to(folder).as_posix(), [], json.loads(file.read_text())["metrics"])
    return found


def parse_markdown(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("\0", "|") for cell in line.replace(r"\|", "\0")[1:-1].split("|")] for line in lines]
    return pd.DataFrame(cells[2:], columns=cells[0])


def test_the_long_table_has_every_number_of_every_run_once(study, runs):
    frame, disk = tables.gather_scores(study), numbers_on_disk(runs)
    assert len(disk) == 3 * 12 + 3 * 14 + 2 * 7
    assert set(zip(frame["run"], frame["score"], strict=True)) == set(disk) and len(frame) == len(disk)
    for source in (frame, pd.read_csv(io.StringIO(tables.to_csv(frame)), float_precision="round_trip")):
        for row in source.to_dict("records"):
            written = disk[row["run"], row["score"]]
            for key in ("value", "low", "high", "chance"):
                assert row[key] == written[key] if key in written else pd.isna(row[key])
            kept = json.loads((runs / row["run"] / "results.json").read_text())
            assert (row["fingerprint"], row["protocol"]) == (kept["fingerprint"], "clean")


def test_a_stale_run_is_left_out(study, runs):
    file = runs / "phantom" / "sub-02" / "full" / "fusion" / "results.json"
    write_sealed(file, read_sealed(file) | {"fingerprint": "old"})
    frame = tables.gather_scores(study)
    assert not ((frame["subject"] == 2) & (frame["stage"] == "fusion")).any()
    row = tables.main_table(study, frame).query("subject == 2").iloc[0]
    assert row["CA top-1"] == "" and row["GA"] != ""


def test_runs_of_sweeps_and_combinations_have_tables_of_their_own(study):
    before = tables.gather_scores(study)
    for ablation, stage in (("codewords_220", "lmm_pretraining"), ("no_time+no_semantic", "generation")):
        Study(ablation=ablation).save(stage, {"test": {"top1": {"value": 0.5, "low": 0.4, "high": 0.6}}})
        assert len(study.gather(stage)) > len(tables.gather_runs(study, stage))
    assert tables.gather_scores(study).equals(before)
    assert {variant.ablation for variant in tables.studies_with_runs(study, before)} <= set(ABLATIONS)


def test_the_main_table_shows_the_numbers_of_the_runs(study, runs):
    disk, table = numbers_on_disk(runs), tables.main_table(study, tables.gather_scores(study))
    assert list(zip(table["subject"], table["ablation"], strict=True)) == [
        (1, "full"), (2, "full"), (1, "no_time"), (1, "no_refinement"), (1, "no_semantic"),
    ]  # fmt: skip
    places = {"CA top-1": "fused.top1", "CA top-3": "fused.top3", "CA top-5": "fused.top5", "F1": "fused.macro_f1"}
    pictures = {"GA": "generation_accuracy", "IS": "inception_score", "FID": "fid", "CLIP": "clip_similarity"}
    pictures |= {"SSIM": "ssim", "pixel correlation": "pixel_correlation", "2-way CLIP": "two_way_clip"}
    assert list(table.columns[-len(pictures) :]) == list(pictures)  # and none for networks that nobody asked
    for row in table.to_dict("records"):
        owner = row["ablation"] if row["ablation"] in ("full", "no_time") else "full"
        kind = "semantic" if row["ablation"] == "no_refinement" else "refined"
        folder = f"phantom/sub-0{row['subject']}"
        cells = {column: disk[f"{folder}/{owner}/fusion", path] for column, path in places.items()}
        run = f"{folder}/{row['ablation']}/generation"
        cells |= {column: disk[run, f"{kind}.{path}"] for column, path in pictures.items()}
        for column, score in cells.items():
            digits = 2 if column in ("IS", "FID") else 3
            expected = f"{score['value']:.{digits}f}"
            if "low" in score:
                expected += f" [{score['low']:.{digits}f}, {score['high']:.{digits}f}]"
            assert row[column] == expected
        assert row["protocol"] == "clean"


def test_tables_like_the_papers_keep_measured_and_reported_apart(study, runs):
    scores, disk = tables.gather_scores(study), numbers_on_disk(runs)
    classified, drawn = tables.classification_table(study, scores), tables.pictures_table(study, scores)
    assert classified["ablation"].tolist() == ["full", "full", "no_time"]
    assert drawn["pictures of"].value_counts().to_dict() == {
        "semantic stage alone": 3,
        "cascade": 3,
        "refinement stage alone": 1,
    }
    alone = drawn[drawn["pictures of"] == "refinement stage alone"].iloc[0]
    measured = disk["phantom/sub-01/no_semantic/generation", "refined.generation_accuracy"]["value"]
    assert alone["ablation"] == "full" and alone["GA"].startswith(f"{measured:.3f} [")
    for table, number in ((classified, 3), (drawn, 4)):
        reminders = [column for column in table if "reported" in column.lower()]
        assert reminders == list(table.columns[-len(reminders) :])  # to the right of everything measured
        assert table["reported for"].str.contains(f"EEGCVPR40, .*chosen on test; .*2312.14871, table {number}").all()
    assert alone["REPORTED, not measured: GA"] == "0.4501"


def test_tables_name_the_networks_that_their_numbers_come_from(study):
    runs = tables.gather_runs(study, "generation")
    assert tables.networks_of(runs, "fid") == "a judge"
    assert tables.networks_of(runs, "ssim") == tables.networks_of([], "fid") == "nobody"


def test_the_paper_protocol_is_marked_in_every_row():
    study = Study(protocol="paper")
    study.save("fusion", {"fused": {"top1": {"value": 0.5, "low": 0.4, "high": 0.6}}})
    scores = tables.gather_scores(study)
    for table in (tables.main_table(study, scores), tables.classification_table(study, scores)):
        assert len(table) == 1 and table["protocol"].str.contains("paper: epoch chosen on TEST").all()


def test_without_any_run_tables_are_empty_and_all_is_missing():
    study = Study()
    scores = tables.gather_scores(study)
    parts = (tables.main_table, tables.classification_table, tables.pictures_table)
    assert [len(part(study, scores)) for part in parts] == [0, 0, 0]
    assert tables.compared_subject(study, scores) == 1
    assert set(tables.missing_runs(study)["ablation"]) == set(ABLATIONS)


def test_missing_runs_come_with_the_command_that_makes_them(study):
    missing = tables.missing_runs(study)
    pairs = set(zip(missing["ablation"], missing["stage"], strict=True))
    assert ("no_time", "alignment") in pairs and ("no_time", "fusion") not in pairs
    assert not {ablation for ablation, _ in pairs} & {"no_refinement", "no_semantic"}
    command = missing.query("ablation == 'no_frequency' and stage == 'fusion'")["command"].item()
    assert "notebooks/04_fusion.ipynb" in command and "-p ablation no_frequency" in command
    assert tables.compared_subject(study, tables.gather_scores(study)) == 1


def test_markdown_round_trip(study):
    table = tables.classification_table(study, tables.gather_scores(study)).astype(str)
    pd.testing.assert_frame_equal(parse_markdown(tables.to_markdown(table)), table, check_dtype=False)
    odd = pd.DataFrame({"a|b": ["x|y", "two\nlines", None]})
    assert parse_markdown(tables.to_markdown(odd))["a|b"].tolist() == ["x|y", "two lines", ""]


def heights(axes):
    return sorted(patch.get_height() for patch in axes.patches)


def test_points_and_bars_are_where_the_numbers_in_the_runs_are(study, runs):
    scores, disk = tables.gather_scores(study), numbers_on_disk(runs)
    for top, axes in zip((1, 5), classification_figure(scores, {1: 60, 2: 60}).axes, strict=True):
        expected = [s["value"] for (run, path), s in disk.items() if path.endswith(f".top{top}") and "/full/" in run]
        drawn = [value for container in axes.containers for value in container.lines[0].get_ydata()]
        assert sorted(drawn) == pytest.approx([100 * value for value in sorted(expected)])
        assert [text.get_text() for text in axes.get_legend().get_texts()][1:] == [
            "subject 1 (n = 60)",
            "subject 2 (n = 60)",
        ]
    left, right = ablation_figure(scores, 1).axes
    mine = {place: 100 * score["value"] for place, score in disk.items() if "sub-01" in place[0]}
    assert heights(left) == sorted(value for (_, path), value in mine.items() if path == "fused.top1")
    assert heights(right) == sorted(value for (_, path), value in mine.items() if path.endswith("generation_accuracy"))


def test_branches_of_any_name_are_drawn(study):
    scores = tables.gather_scores(study)
    names = {"time": "loudness", "frequency": "mine"}
    for old, new in names.items():
        scores["score"] = scores["score"].str.replace(f"{old}.", f"{new}.")
    axes = classification_figure(scores, {}).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["loudness", "mine", "BrainVis"]
    data = SimpleNamespace(
        trials=torch.rand(2, 4, 440), sampling_rate=200.0, class_names=("a", "b", "c"), channels=tuple("abcd"),
        labels=torch.tensor([1, 2]),
    )  # fmt: skip
    configuration, words = study.configuration, {}
    for branches in (("time", "frequency"), ("time", "braindecode.EEGConformer", "mine")):
        chosen = replace(configuration, fusion=replace(configuration.fusion, branches=branches))
        words[branches] = {text.get_text() for text in framework_figure(chosen, data).axes[0].texts}
    few, many = words.values()
    assert {"time branch", "frequency branch"} <= few & many and many - few >= {"braindecode.EEGConformer", "mine"}
    assert any("96 + 128 wide" in text for text in few) and any("3 branches" in text for text in many)


def test_a_metric_that_was_added_has_a_column_after_the_others(study, monkeypatch):
    monkeypatch.setitem(tables.METRICS, "toy", SimpleNamespace(title="toy metric", digits=1))
    Study(subject=2).save("generation", {"refined": {"toy": {"value": 0.25}, "ssim": {"value": 0.5}}})
    table = tables.main_table(study, tables.gather_scores(study))
    assert table.columns[-1] == "toy metric" and table.query("subject == 2")["toy metric"].item() == "0.2"


def test_frequent_errors_are_counted():
    labels = [0, 0, 0, 1, 1, 2]
    predicted = [1, 1, 0, 2, 1, 0]
    errors = tables.frequent_errors(np.eye(3)[predicted], labels, ("a", "b", "c"))
    assert errors.values.tolist() == [["a", "b", 2], ["b", "c", 1], ["c", "a", 1]]
    assert tables.frequent_errors(np.eye(3)[labels], labels, ("a", "b", "c")).empty


def test_reported_numbers_agree_among_the_papers_own_tables():
    whole = {number: reported_table(number) for number in range(1, 8)}
    average = whole[1].query("method == 'BrainVis' and subject == 'average'")[["GA", "IS", "FID"]].iloc[0]
    cascade = whole[4].query("ablation == 'full' and `pictures of` == 'cascade'")[["GA", "IS", "FID"]].iloc[0]
    same = whole[5].query("`pre-trained on` == 'same set (12k)'").iloc[0]
    assert average.tolist() == cascade.tolist() == same[["GA", "IS", "FID"]].tolist()
    accuracy = whole[2].query("method == 'BrainVis'")["top-1"].item()
    assert accuracy == whole[3].query("ablation == 'full'")["top-1"].item() == same["top-1"]
    without = whole[3].query("ablation == 'no_frequency'")["top-1"].item()
    assert without == whole[6].query("codewords == 660")["top-1"].item()
    for number, table in whole.items():
        assert (table["kind"] == "reported").all() and (table["data set"] == "EEGCVPR40").all()
        assert table["source"].str.contains(f"table {number}").all() and table["protocol"].str.len().all()
    with pytest.raises(KeyError, match="1, 2, 3"):
        reported_table(9)


def test_figures_are_the_same_bytes_and_name_their_runs(study, tmp_path):
    products, scores = tables.gather_runs(study, "fusion"), tables.gather_scores(study)
    assert len(products) == 3
    written = []
    for name in ("first", "second"):
        publication = Publication(tmp_path / name)
        publication.add_figure("bars", classification_figure(scores, {}), "Bars.", products, numbers_of(scores[:2]))
        publication.add_text("bars.md", "| a |\n", "Bars.", products[:1])
        index = publication.write_index()
        written.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    made = {"bars.png", "bars.pdf", "bars.md", "figures.json", "README.md"}
    assert written[0] == written[1] and set(written[0]) == made
    assert json.loads(written[0]["figures.json"]) == index
    assert index["bars"]["files"] == ["bars.png", "bars.pdf", "bars.md"]
    wanted = {"phantom/sub-01/full/fusion": Study().fingerprint("fusion")}
    assert wanted.items() <= index["bars"]["made from"].items() and len(index["bars"]["made from"]) == 3
    again = Publication(tmp_path / "first")
    again.add_text("other.md", "", "Other.", products)
    again.write_index()  # what is made no more is removed
    assert {file.name for file in (tmp_path / "first").iterdir()} == {"other.md", "figures.json", "README.md"}


def test_every_number_is_traced_to_its_run_its_fingerprint_and_its_commit(study, runs, tmp_path, capsys):
    products, scores = tables.gather_runs(study), tables.gather_scores(study)
    publication = Publication(tmp_path)
    pair = pd.DataFrame([{"measure": "CA top-1", "ablation": "no_time", "value": 0.25, "low": 0.1, "high": 0.5}])
    publication.add_figure("bars", classification_figure(scores, {}), "Bars.", products, numbers_of(scores[:3]))
    mine = [product for product in products if product.results["study"]["subject"] == 1]
    publication.add_figure("pairs", classification_figure(scores, {}), "Pairs.", mine, differences_of(pair, mine))
    publication.add_text("results.csv", tables.to_csv(scores), "All.", products)
    publication.write_index()
    lines = trace(tmp_path / "results.csv")
    commit = products[0].results["made_with"]["commit"]
    for row in scores.to_dict("records"):
        (line,) = [
            line for line in lines if row["run"] in line and line.partition("  <-")[0].endswith(f": {row['score']}")
        ]
        assert line.startswith(f"{row['value']:.4f}") and row["fingerprint"] in line
        assert any(line.startswith(f"{row['run']}  {row['fingerprint']}  {commit}") for line in lines)
    assert main(["trace", str(tmp_path / "bars.pdf")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Bars. Made from 8 runs") and said[2].startswith(f"{scores['value'][0]:.4f} [")
    (difference,) = [line for line in trace(tmp_path / "pairs.png") if "no_time - full" in line]
    runs_of_pair = [f"phantom/sub-01/{name}/fusion" for name in ("full", "no_time")]
    assert difference.startswith("0.2500 [0.1000, 0.5000]") and all(run in difference for run in runs_of_pair)
    with pytest.raises(BrainvisError, match="other.png is not in .*it lists bars.png"):
        trace(tmp_path / "other.png")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "worth.json").write_text("{}")
    assert "worth.json, written by a study in docs/studies" in trace(tmp_path / "study" / "worth.png")[0]
    with pytest.raises(BrainvisError, match="notebook 08 writes next to the figures"):
        trace(tmp_path / "elsewhere" / "bars.png")


def test_tables_in_latex_print_names_as_they_are():
    table = pd.DataFrame({"a_b": ["50 % & $x$", "\\input{#1}^~"], "n": ["1", None]})
    made = to_latex({"What_is 100 %": table})
    assert r"\caption{What\_is 100 \%}" in made and r"a\_b & n \\" in made
    assert r"50 \% \& \$x\$ & 1" in made and r"\textbackslash{}input\{\#1\}\textasciicircum{}\textasciitilde{}" in made


def test_what_a_result_rests_on_is_on_its_face(study):
    (clean,) = [run for run in tables.gather_runs(study, "fusion") if run.results["study"]["subject"] == 2]
    assert caveats([clean]) == []

    def like(**changes):
        return replace(clean, results={**clean.results, **changes})

    chosen_on_test = like(study={**clean.results["study"], "protocol": "paper"})
    original = like(original={"fused": "the authors' timefreqmodel.pkl"})
    assert [words.split(":")[0] for words in caveats([clean, chosen_on_test])] == ["paper protocol"]
    both = caveats([original, chosen_on_test])
    assert len(both) == 2 and "not trained here" in both[1]
    permuted = like(configuration={**clean.results["configuration"], "permuted_labels": True})
    assert caveats([clean, permuted]) == ["PERMUTED LABELS: every score must be at chance"]


def test_runs_made_with_other_packages_or_accepted_by_hand_say_so(study):
    (run,) = [run for run in tables.gather_runs(study, "fusion") if run.results["study"]["subject"] == 2]
    here = run.results["made_with"]["packages"]

    def like(packages, **changes):
        return replace(run, results={**run.results, "made_with": {"packages": here | packages}, **changes})

    older, oldest = like({"torch": "2.14.0"}), like({"torch": "2.9.1", "mne": "1.0"})
    assert caveats([run, older]) == [f"made with torch 2.14.0 (here {here['torch']})"]
    (both,) = caveats([older, run, oldest])
    assert both == f"made with torch 2.14.0, 2.9.1 (here {here['torch']}), mne 1.0 (here {here['mne']})"
    assert caveats([like({"papermill": "1.0"})]) == []  # no number comes from it
    entry = {"fingerprint": "0123456789ab", "reason": "a log line"}
    accepted = like({}, accepted=[entry, {"fingerprint": "ba9876543210", "reason": "a rename"}])
    assert caveats([accepted, run, accepted]) == ["accepted by hand: a log line", "accepted by hand: a rename"]
    assert caveats([like({}, accepted=[])]) == []


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("$x_1$", r"\$x_1\$"),
        ("a|b", r"a\|b"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("[here](javascript:x)", r"[here]\(javascript:x)"),
        ("`code` *bold* ~gone~ # ![", r"\`code\` \*bold\* \~gone\~ \# \!["),
        ("_under_score no_time", r"\_under_score no_time"),
        ("two\nlines\r\nand\ttabs", "two lines and tabs"),
        ("{braces} \\", r"{braces} \\"),
        ("0.792 [0.717, 0.858]", "0.792 [0.717, 0.858]"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
    ],
)
def test_names_are_text_in_markdown(words, shown):
    assert tables.as_text(words) == shown
    assert tables.to_markdown(pd.DataFrame({words: [words]})).splitlines()[2] == f"| {shown} |"


def test_ablations_that_leave_nothing_of_a_preset_are_not_missing(tmp_path):
    (tmp_path / "alone.yml").write_text("start: smoke\ngeneration: {semantic: false}")
    missing = tables.missing_runs(Study(preset=str(tmp_path / "alone.yml")))
    assert "no_refinement" not in set(missing["ablation"]) and "no_time" in set(missing["ablation"])


def test_a_modified_work_tree_and_packages_that_are_not_pinned_are_said():
    results = {"study": {"protocol": "clean"}, "made_with": {"modified": ["brainvis/graph.py"]}}
    other = {"study": {"protocol": "clean"}, "made_with": {"not_pinned": {"torch": "2.14.0, tested with 2.15.0"}}}
    said = caveats([Product(Path(), results), Product(Path(), other)])
    assert said == [
        "made from a modified working tree",
        "versions other than the pinned ones: torch 2.14.0, tested with 2.15.0",
    ]


def test_what_a_run_was_made_with_says_if_the_work_tree_was_modified(tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=x", "-c", "user.email=x", "-C", str(tmp_path)]
    (tmp_path / "brainvis").mkdir()
    code = tmp_path / "brainvis" / "graph.py"
    code.write_text("1")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr("brainvis.study.product.ROOT", tmp_path)
    assert made_with()["modified"] == [] and len(made_with()["commit"]) == 40
    code.write_text("2")
    assert made_with()["modified"] == ["brainvis/graph.py"]


def test_packages_of_other_versions_are_found(monkeypatch):
    pins = ["torch==2.15.0", "einops==0.8.2", "nothere==1.0", 'pytest==1.0; extra == "test"']
    monkeypatch.setattr("brainvis.study.product.requires", lambda name: pins)
    known = {"torch": "2.15.0+cu132", "einops": "0.7.0"}

    def version(name):
        if name not in known:
            raise PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr("brainvis.study.product.version", version)
    assert other_versions() == {"einops": "0.7.0, tested with 0.8.2", "nothere": "missing, tested with 1.0"}
