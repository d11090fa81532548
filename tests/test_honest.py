"""Under `clean` the test trials have no say: on data whose test trials are others, notebooks 02 to 05 leave the same
weights, bit for bit, and make the same choices. Under `paper` they do not, so the question can be answered with no."""

import json
import re
from dataclasses import replace

import matplotlib as mpl
import nbformat
import pytest
import torch

from brainvis.data import load_dataset
from brainvis.data.dataset import EEGDataset
from brainvis.files import ROOT
from brainvis.graph import NOTEBOOKS
from brainvis.study import Study

STAGES = ("lmm_pretraining", "frequency_branch", "fusion", "alignment")
# What a notebook keeps of how it was trained and of what it chose: the first word of any part of a number's name.
# "best_baseline" is none: it names the highest of the test scores for a sentence, and nothing is made of it.
CHOICE = re.compile(
    r"(^|\.)(?!best_baseline)\w*(epoch|training|finetuning|validation|probe|best|chosen|choice|recipe|learning_rate)"
)


def with_other_test_trials(name: str, **options) -> EEGDataset:
    """A data set with the same training and validation trials. What each subject is shown in the test trials, class and
    picture, is permuted among them, and their signals are noise."""
    data = load_dataset(name, **options)
    test, generator, source = data.splits["test"], torch.Generator().manual_seed(3), torch.arange(len(data))
    for subject in data.subjects[test].unique():
        own = test[data.subjects[test] == subject]
        source[own] = own[torch.randperm(len(own), generator=generator)]
    trials = data.trials.clone()
    trials[test] = trials.std() * torch.randn(trials[test].shape, generator=generator)
    return replace(data, trials=trials, labels=data.labels[source], images=data.images[source])


def execute(stage: str, **parameters) -> dict:
    """Run the cells of a stage's notebook in this process; its `results.json`."""
    content = nbformat.read(ROOT / "notebooks" / f"{NOTEBOOKS[stage]}.ipynb", as_version=4)
    names: dict = {}
    for cell in (cell for cell in content.cells if cell.cell_type == "code"):
        exec(compile(cell.source, f"{stage}, {cell.id}", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names.update(parameters)
    return json.loads((Study(**parameters).folder(stage) / "results.json").read_text())


def weights(results: dict) -> dict[str, str]:
    """Digests of the weights that a run left."""
    return {name: digest for name, digest in results["files"].items() if name != "arrays.safetensors"}


def choices(metrics: object, name: str = "") -> dict[str, object]:
    """Every number of trainings and choices, by its dotted name."""
    if isinstance(metrics, dict | list):
        parts = metrics.items() if isinstance(metrics, dict) else enumerate(metrics)
        return {key: value for part, inner in parts for key, value in choices(inner, f"{name}.{part}").items()}
    return {name: metrics} if CHOICE.search(name) else {}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs stages on the data as they are and with other test trials, each study in a folder of its own."""
    monkeypatch.setenv("BRAINVIS_DATA", str(tmp_path / "data"))

    def both(*stages: str, **parameters) -> dict[str, list[dict]]:
        found: dict[str, list[dict]] = {stage: [] for stage in stages}
        with mpl.rc_context({"backend": "agg"}):
            for place, load in enumerate((load_dataset, with_other_test_trials)):
                monkeypatch.setenv("BRAINVIS_RUNS", str(tmp_path / f"runs {place}"))
                monkeypatch.setattr("brainvis.study.study.load_dataset", load)
                for stage in stages:
                    found[stage].append(execute(stage, preset="smoke", **parameters))
        return found

    return both


def test_test_trials_change_no_weight_and_no_choice(run):
    found = run(*STAGES)
    for stage, (one, other) in found.items():
        assert weights(one) and weights(one) == weights(other), stage
        assert choices(one["metrics"]) == choices(other["metrics"]), stage
        assert any("epoch" in name for name in choices(one["metrics"])), stage
    for stage in ("lmm_pretraining", "frequency_branch", "fusion"):  # they were others
        one, other = ({k: v for k, v in r["metrics"].items() if k.startswith(("test", "fused"))} for r in found[stage])
        assert one and one != other, stage
    one, other = (result["files"]["arrays.safetensors"] for result in found["alignment"])
    assert one != other


def test_under_the_paper_protocol_they_do(run):
    ((one, other),) = run("frequency_branch", protocol="paper").values()
    assert choices(one["metrics"]) != choices(other["metrics"])
