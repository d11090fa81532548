"""The graph of a study: its stages, what each depends on, where each run lives, and who shares it.

Snakemake reads its plan from here, so nothing in this module imports torch. A run's fingerprint covers its part of the
configuration, its data, its seed, its code and the fingerprints of the runs that it is built from. An ablation owns a
run only if that fingerprint differs from the one of the full method; otherwise it uses the run of `full`.
"""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

from brainvis.configuration import ABLATIONS, PART_OF, SWEEPS, Configuration, combined, configure
from brainvis.data import DATASETS
from brainvis.files import (
    ROOT,
    BrainvisError,
    code_digest,
    data_folder,
    digest,
    figures_folder,
    notebook_code,
    original_weights,
    runs_folder,
)
from brainvis.files.once import shared_by, unchanging
from brainvis.files.reading import UNSAFE, safe_name
from brainvis.generation import generator_source
from brainvis.models import EncoderError, encoder_module


class StudyError(BrainvisError):
    """A choice or a run that a study cannot use."""


@dataclass(frozen=True)
class Stage:
    """One notebook of the study and what its result depends on."""

    notebook: str
    reads: tuple[str, ...] = ()  # parts of the configuration
    needs: tuple[str, ...] = ()  # stages whose products it loads; fusion: those that train its branches
    of_subject: bool = False  # run for each subject, or once for all
    seeded: bool = True  # the result depends on the seed; else all seeds share the run of seed 0
    draws: bool = False  # needs pictures and a generator


STAGES = {
    "exploration": Stage("01_data_exploration", seeded=False),
    "lmm_pretraining": Stage("02_lmm_pretraining", reads=("time",), needs=("exploration",)),
    # Stands for every branch except the time branch: "eegnet_branch" is the same notebook with another encoder.
    "frequency_branch": Stage("03_frequency_branch", reads=("frequency",), needs=("exploration",)),
    "fusion": Stage("04_fusion", reads=("fusion",), of_subject=True),
    "alignment": Stage("05_alignment", reads=("alignment",), needs=("fusion",), of_subject=True, draws=True),
    "generation": Stage("06_generation", reads=("generation",), needs=("alignment",), of_subject=True, draws=True),
}
# Notebooks that gather the results of all others: they have no fingerprint and always cover all subjects.
SUMMARIES = {"ablations": "07_ablations", "figures": "08_figures"}
NOTEBOOKS = {**{name: stage.notebook for name, stage in STAGES.items()}, **SUMMARIES}
PROTOCOLS = {
    "clean": "the epoch is chosen on validation trials; test trials are used once",
    "paper": "trained on train and val, the epoch chosen on TEST trials, as in the authors' release: optimistic",
}
# Code that computes no results: bookkeeping, text and figures. The fingerprint includes the configuration's values.
NO_RESULTS = tuple(
    f"brainvis.{name}"
    for name in ("__main__", "configuration", "graph", "study", "plots")
    + tuple(f"evaluation.{name}" for name in ("needs", "report", "publication", "pages", "headlines"))
)


def stage_named(name: str) -> Stage:
    """The stage of this name; "<encoder>_branch" is the stage of any branch except the time branch."""
    return STAGES["frequency_branch" if name not in STAGES and name.endswith("_branch") else name]


def stage_of_branch(branch: str) -> str:
    """The stage that trains a branch."""
    return "lmm_pretraining" if branch == "time" else f"{branch}_branch"


_of_data = shared_by("dataset", "preset", "ablation")


@dataclass(frozen=True)
class Choice:
    """A study's choices: the parameters that all notebooks share.

    Raises:
        StudyError: a value that is not allowed; the message lists those that are.
    """

    dataset: str = "phantom"
    subject: int = 1
    ablation: str = "full"
    preset: str = "demo"
    seed: int = 0
    protocol: str = "clean"
    backbone: str = "phantom"

    def __post_init__(self) -> None:
        load_extensions()
        _check("dataset", self.dataset, DATASETS)
        _check_ablation(self.ablation)
        _check("protocol", self.protocol, PROTOCOLS)
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:  # NumPy's seeds end there
            raise StudyError(f"seed is {self.seed!r}; it must be a whole number, at least 0 and below {2**32}")
        try:
            list(map(encoder_module, self.configuration.fusion.branches))  # rejects unknown names
        except EncoderError as error:
            raise StudyError(f"preset {self.preset}: {error}") from error
        try:
            self._backbone()  # rejects a missing backbone
        except (OSError, ValueError, TypeError, RuntimeError) as error:  # not a path
            raise StudyError(f"backbone is {str(self.backbone)[:80]!r}, which is not a path: {error}") from error
        if not safe_name(self.name):
            raise StudyError(f"backbone {self.backbone!r}: {UNSAFE}")
        _check("subject", self.subject, self.subjects)

    # Inputs

    @cached_property
    @_of_data
    def configuration(self) -> Configuration:
        """The preset for this data set, with the ablation's changes."""
        return configure(self.preset, self.ablation, self.dataset)

    @cached_property
    @shared_by("backbone")
    def generator(self):
        """The entry of `GENERATORS` chosen as backbone."""
        return generator_source(self.backbone)

    @shared_by("backbone")
    def _backbone(self) -> str:
        return self.generator.fingerprint()

    @cached_property
    @_of_data
    def subjects(self) -> tuple[int, ...]:
        """All subjects of the data set."""
        return DATASETS[self.dataset].subjects(data_folder(self.dataset), self.configuration)

    @cached_property
    @_of_data
    def data_fingerprint(self) -> str:
        """Fingerprint of the data."""
        found = DATASETS[self.dataset].fingerprint(data_folder(self.dataset), self.configuration)
        return digest([found, "permuted labels"]) if self.configuration.permuted_labels else found

    @cached_property
    def data_contents(self) -> dict[str, str]:
        """Digests of the files that the data are read from, by name; empty if they are generated here."""
        return DATASETS[self.dataset].contents(data_folder(self.dataset), self.configuration)

    @cached_property
    @_of_data
    def has_images(self) -> bool:
        """Whether the data set comes with the pictures that were shown."""
        return DATASETS[self.dataset].has_images(data_folder(self.dataset), self.configuration)

    @property
    def stages(self) -> list[str]:
        """The stages of this choice in order; without pictures it ends with fusion."""
        branches = [stage_of_branch(branch) for branch in self.configuration.fusion.branches]
        return ["exploration", *branches, "fusion", *(["alignment", "generation"] if self.has_images else [])]

    def needs(self, stage: str) -> tuple[str, ...]:
        """Stages whose products `stage` loads."""
        branches = self.configuration.fusion.branches if stage == "fusion" else ()
        return (*stage_named(stage).needs, *map(stage_of_branch, branches))

    def sources(self, stage: str) -> tuple[str, ...]:
        """Every stage that contributes to the result of `stage`, with `stage` itself last."""
        before = [source for needed in self.needs(stage) for source in self.sources(needed)]
        return (*dict.fromkeys(before), stage)

    @shared_by("dataset", "preset", "ablation", "backbone")
    def code(self, stage: str) -> str:
        """Digest of the code of `stage`: the cells of its notebook, the modules that they import, the modules of this
        choice's data set, branches and generator, and all of `brainvis` that these import in turn."""
        node = stage_named(stage)
        cells, modules = notebook_code(node.notebook)
        branches = self.configuration.fusion.branches if node.of_subject else ()
        if node is STAGES["frequency_branch"]:
            branches = (stage.removesuffix("_branch"),)
        entries = [DATASETS[self.dataset].load.__module__, *map(encoder_module, branches)]
        entries += [self.generator.load.__module__] if node.draws else []
        return digest([cells, code_digest(*modules, *entries, leave_out=NO_RESULTS)])

    def fingerprint(self, stage: str, code: bool = True, original: bool = True) -> str:
        """Fingerprint of all that the result of `stage` depends on; without `code` or `original`, code or the authors'
        weights are left out."""
        return self._fingerprint(stage, self.subject if stage_named(stage).of_subject else "all", code, original)

    @shared_by("dataset", "preset", "ablation", "seed", "protocol", "backbone")
    def _fingerprint(self, stage: str, subject: int | str, code: bool, original: bool) -> str:
        node, branch, settings = stage_named(stage), stage.removesuffix("_branch"), self.configuration
        read = {part: asdict(getattr(settings, part)) for part in node.reads}
        if node is STAGES["frequency_branch"] and branch not in PART_OF:
            read = {"training": asdict(settings.frequency.training), "arguments": settings.encoders.get(branch)}
        if node.reads and settings.precision != "auto":  # "auto" depends on the machine and is left out
            read["precision"] = settings.precision
        depends = {
            "stage": stage,
            "data": self.data_fingerprint,
            "seed": self.seed if node.seeded else None,
            "protocol": self.protocol,
            "subject": subject,
            "backbone": self._backbone() if node.draws else None,
            "configuration": read,
            "code": self.code(stage) if code else None,
            "built from": [self.fingerprint(needed, code, original) for needed in self.needs(stage)],
        }
        if original and (weights := original_weights(self.folder(stage))):
            depends["original"] = {name: [origin["sha256"], origin["kind"]] for name, origin in weights.items()}
        return digest(depends)

    def with_ablation(self, ablation: str) -> Choice:
        """The same choice with another ablation; always the same object, with its cached values."""
        known = self.__dict__.setdefault("_with_ablation", {self.ablation: self})
        if ablation not in known:
            known[ablation] = replace(self, ablation=ablation)
            known[ablation].__dict__["_with_ablation"] = known
        return known[ablation]

    def owner(self, stage: str) -> str:
        """The ablation whose folder contains the run of `stage`: `full`, unless this ablation changes the result; for a
        combination, the first part that gives the same result."""
        if self.ablation == "full" or stage in SUMMARIES:
            return "full"
        result = self.fingerprint(stage, original=False)
        others = (self.with_ablation(name) for name in combined(self.ablation)[:-1])
        same = (other.ablation for other in others if other.fingerprint(stage, original=False) == result)
        return next(same, self.ablation)

    def owning(self, stage: str) -> Choice:
        """The choice whose run of `stage` this one uses: itself, or one with another ablation or seed 0."""
        owner = self.with_ablation(self.owner(stage))
        return owner if stage in SUMMARIES or stage_named(stage).seeded else replace(owner, seed=0)

    # Locations

    @cached_property
    def name(self) -> str:
        """Folder name of the study: the data set and every non-default choice."""
        return self.name_of_seed(self.seed)

    def name_of_seed(self, seed: int) -> str:
        """Folder name of the same study with another seed."""
        parts = [self.dataset]
        parts += [Path(self.preset).stem] if self.preset != "demo" else []
        parts += [f"seed-{seed}"] if seed else []
        parts += [f"{self.protocol}-protocol"] if self.protocol != "clean" else []
        backbone = Path(self.backbone).name.removesuffix(".safetensors").removesuffix(".ckpt")
        parts += [backbone] if self.backbone != "phantom" else []
        return "_".join(parts)

    def folder(self, stage: str) -> Path:
        """Folder of a run: `papermill_runs/<study>/<sub-all|sub-04>/<ablation>/<stage>`."""
        node = STAGES["exploration"] if stage in SUMMARIES else stage_named(stage)
        who = f"sub-{self.subject:02d}" if node.of_subject else "sub-all"
        study = self.name if node.seeded or stage in SUMMARIES else self.name_of_seed(0)
        return runs_folder() / study / who / self.owner(stage) / stage

    @property
    def figures(self) -> Path:
        """Folder of the figures: `figures/` for the default study, a subfolder for any other."""
        return figures_folder() if self.name == "phantom" else figures_folder() / self.name

    def readable(self, stage: str) -> str:
        """The folder of a run in readable form: relative to the repository if it lies inside."""
        folder = self.folder(stage)
        return str(folder.relative_to(ROOT)) if folder.is_relative_to(ROOT) else str(folder)

    def parameters(self, stage: str) -> str:
        """What papermill passes to the notebook of `stage`: every parameter that differs from its default."""
        owner = self.owning(stage)
        if stage in SUMMARIES or not stage_named(stage).of_subject:
            owner = replace(owner, subject=self.subjects[0])  # the same text for the same run, whoever asks
        values = {field.name: (getattr(owner, field.name), field.default) for field in fields(Choice)}
        given = {name: value for name, (value, default) in values.items() if value != default}
        if stage.endswith("_branch") and stage != "frequency_branch":
            given["branch"] = stage.removesuffix("_branch")
        return " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in given.items())

    def command(self, stage: str) -> str:
        """The papermill command that makes the run of `stage`."""
        notebook, folder = notebook_of(stage), shlex.quote(self.readable(stage))
        command = f"mkdir -p {folder} && papermill notebooks/{notebook}.ipynb {folder}/{notebook}.ipynb"
        return f"{command} {self.parameters(stage)}".rstrip()


@dataclass(frozen=True)
class Job:
    """One papermill run: its notebook, its parameters, the runs it is built from, and its folder."""

    stage: str
    notebook: str
    parameters: str  # as papermill takes them: -p subject 2
    folder: str
    built_from: tuple[str, ...]  # folders
    fingerprint: str

    @property
    def done(self) -> str:
        """The file that marks the run as complete and says what it was made from; Snakemake looks for it."""
        return f"{self.folder}/{mark(self.fingerprint)}"


def mark(fingerprint: str) -> str:
    """Name of the empty file in the folder of a complete run."""
    return f"{fingerprint}.whole"


def plan(choices: Sequence[Choice], others: Sequence[Choice] = (), until: str = "fusion") -> dict[str, Job]:
    """All runs that these choices need, and those that `others` need up to the stage `until`, by folder; a shared run
    appears once. StudyError: there is no such stage."""
    jobs: dict[str, Job] = {}
    _check("the last stage of the other seeds (seeds_until)", until, STAGES)
    with unchanging():
        for choice, last in [*((choice, None) for choice in choices), *((other, until) for other in others)]:
            end = choice.stages.index(last) + 1 if last in choice.stages else None
            for stage in choice.stages[:end]:
                if (folder := choice.readable(stage)) not in jobs:
                    sources = tuple(choice.readable(needed) for needed in choice.needs(stage))
                    jobs[folder] = _job(choice, stage, sources, choice.fingerprint(stage))
    runs, first = tuple(jobs), choices[0]
    whole = digest([jobs[run].fingerprint for run in runs])
    for stage in SUMMARIES:
        jobs[first.readable(stage)] = _job(first, stage, runs, whole)
    return jobs


def _job(choice: Choice, stage: str, sources: tuple[str, ...], fingerprint: str) -> Job:
    return Job(stage, notebook_of(stage), choice.parameters(stage), choice.readable(stage), sources, fingerprint)


def notebook_of(stage: str) -> str:
    """The name of the notebook that runs a stage."""
    return SUMMARIES.get(stage) or stage_named(stage).notebook


def _check(what: str, value: object, allowed) -> None:
    if value not in list(allowed) or isinstance(value, bool):  # a list, because the value may be unhashable
        raise StudyError(f"{what} is {value!r}; choose one of: {', '.join(map(str, allowed))}")


def _check_ablation(ablation: object) -> None:
    known = [*ABLATIONS, *SWEEPS]
    parts = ablation.split("+") if isinstance(ablation, str) else [ablation]
    for part in parts:
        _check("ablation", part if len(parts) > 1 else ablation, known)
    ordered = sorted(set(parts) - ({"full"} if len(parts) > 1 else set()), key=known.index)
    if parts != ordered:
        once = "+".join(ordered) or "full"
        raise StudyError(f"ablation is {ablation!r}; a combination names each part once, in this order: {once!r}")


def load_extensions() -> None:
    """Import the modules named in `BRAINVIS_EXTENSIONS`, which add your own entries to the tables."""
    for module in filter(None, os.environ.get("BRAINVIS_EXTENSIONS", "").split(",")):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise StudyError(f"BRAINVIS_EXTENSIONS names {module!r}, which cannot be imported: {error}") from error
