"""A study: one choice of data set, subject, ablation, preset, seed, protocol and backbone, with its results.

A notebook opens a study and gets everything from it; paths are handled here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path

import torch
from numpy import ndarray
from safetensors.torch import save_file
from torch import Tensor, nn

from brainvis.data import load_dataset
from brainvis.data.dataset import EEGDataset, Partition
from brainvis.files import (
    DamagedError,
    UnsealedError,
    data_folder,
    file_digests,
    original_weights,
    remove_leftovers,
    runs_folder,
    write_aside,
    write_sealed,
)
from brainvis.files.once import unchanging
from brainvis.graph import (
    PROTOCOLS,
    SUMMARIES,
    Choice,
    StudyError,
    mark,
    stage_named,
    stage_of_branch,
)
from brainvis.models.original import describe, load_original
from brainvis.study.product import Product, made_with, read_product


@dataclass(frozen=True)
class Study(Choice):
    """A study's choices, data and products. Its fields are the parameters of every notebook.

    Raises:
        StudyError: a value that is not allowed; the message lists those that are.
    """

    _opened: float = field(default_factory=time.monotonic, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for stage in self.stages:  # read modules now, when they are imported, in case they are edited during the run
            self.code(stage)

    # Inputs

    def data(self) -> EEGDataset:
        """The trials of all subjects; DatasetError, before anything slow, if nothing can be learned from them."""
        data = load_dataset(self.dataset, configuration=self.configuration)
        return (data.with_permuted_labels() if self.configuration.permuted_labels else data).checked_for(self.protocol)

    def subject_data(self) -> EEGDataset:
        """The trials of this study's subject; DatasetError if nothing can be learned from them."""
        data = self.data()
        data.check_trainable(self.protocol, self.subject)
        return data.of_subject(self.subject)

    def checkpoint(self, stage: str, name: str) -> Path:
        """Checkpoint file of the training `name` of `stage` while it runs."""
        return self.folder(stage) / f"{name}-{self.fingerprint(stage)}.checkpoint"

    def original_file(self, stage: str, name: str) -> Path:
        """File of the authors' weights for the training `name` of `stage`; see `brainvis.models.original`."""
        return self.folder(stage) / f"{name}.original.safetensors"

    def original(self, stage: str, name: str) -> Callable[[nn.Module], str] | None:
        """A function for `fit` that loads these weights into a model and returns their origin; None without them."""
        file = self.original_file(stage, name)
        return partial(load_original, file) if file.exists() else None

    def load_branch(self, branch: str, encoder: nn.Module, weights: str | None = None) -> nn.Module:
        """`encoder` with the weights saved by its branch's stage; for the time branch also those named "pretrained".

        Raises:
            StudyError: the run is missing, or the encoder's state after pre-training is unknown.
        """
        stage, weights = stage_of_branch(branch), weights or ("finetuned" if branch == "time" else branch)
        if (origin := original_weights(self.folder(stage)).get(weights)) and weights == "pretrained":
            if origin["stands_in"]:
                raise StudyError(
                    f"the state of the encoder after pre-training is unknown: its weights are from {describe(origin)}. "
                    "Load pretrain_model_epoch300.pkl too (python -m brainvis original), or leave this ablation out"
                )
        return self.load(stage).load_weights(weights, encoder)

    @property
    def pictures(self) -> Path:
        """Folder for the generated pictures of this study's run, one file each."""
        return self.folder("generation") / "pictures"

    @property
    def text_embeddings(self) -> Path:
        """The file of all text embeddings made by this backbone, shared by all studies."""
        return data_folder("text_embeddings") / f"{self.generator.fingerprint()}.safetensors"

    @property
    def seeds(self) -> list[int]:
        """This seed and all others with runs of the same study."""
        names = [folder.name for folder in runs_folder().iterdir()] if runs_folder().is_dir() else []
        numbers = {int(number) for name in names for number in re.findall(r"_seed-(\d+)", name)} | {0}
        return sorted({seed for seed in numbers if self.name_of_seed(seed) in names} | {self.seed})

    # Results

    def save(
        self,
        stage: str,
        metrics: dict,
        *,
        partition: Partition | None = None,
        weights: dict[str, nn.Module] | None = None,
        arrays: dict[str, ndarray | Tensor] | None = None,
        notes: tuple[str, ...] = (),
    ) -> dict:
        """Write a stage's products into its folder, `results.json` last: if it exists, the run is complete.

        Args:
            metrics: plain numbers, strings, lists and dictionaries; the same seed gives the same values.
            partition: the training, validation and test trials; the sizes of the parts are recorded.
            weights: models by name, one safetensors file each.
            arrays: everything else that a later stage or a figure needs, one safetensors file.

        Returns:
            The content of `results.json`.
        """
        folder = self.folder(stage)
        for old in [folder / "results.json", *folder.glob(mark("*"))]:
            old.unlink(missing_ok=True)
        remove_leftovers(folder)
        for name, module in (weights or {}).items():
            state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
            write_aside(folder / f"{name}.safetensors", lambda path, state=state: save_file(state, path))
        if arrays:
            plain = {key: torch.as_tensor(value).detach().cpu().contiguous() for key, value in arrays.items()}
            write_aside(folder / "arrays.safetensors", lambda path: save_file(plain, path))
        made = [folder / f"{name}.safetensors" for name in [*(weights or {}), *(["arrays"] if arrays else [])]]
        drawn = self.pictures.rglob("*.*") if stage == "generation" else ()
        made += sorted(file for file in drawn if file.is_file())
        owner = self.owning(stage)
        results = {
            "stage": stage,
            "study": {f.name: getattr(owner, f.name) for f in fields(Choice)},
            **self._made_from(stage),
            "splits": partition and {part: len(getattr(partition, part)) for part in ("train", "validation", "test")},
            "protocol": f"{self.protocol}: {PROTOCOLS[self.protocol]}",
            "metrics": metrics,
            "notes": list(notes),
            "configuration": asdict(owner.configuration),
            "files": {file.relative_to(folder).as_posix(): sha256 for file, sha256 in file_digests(made).items()},
            "seconds": round(time.monotonic() - self._opened, 1),
            "made_with": made_with(),
        }
        results = json.loads(json.dumps(results, default=_plain, allow_nan=False))
        write_sealed(folder / "results.json", results)
        if stage not in SUMMARIES:
            (folder / mark(results["fingerprint"])).touch()
        for checkpoint in [*folder.glob("*.checkpoint"), *folder.glob("*.checkpoint.before")]:
            checkpoint.unlink()  # its training is complete
        return results

    def _made_from(self, stage: str) -> dict:
        """What a result depends on, for its `results.json`; nothing for notebooks that gather other results."""
        if stage in SUMMARIES:
            return {"fingerprint": None, "built_from": {}}
        sources = [self.folder(source) for source in self.sources(stage)]
        return {
            "fingerprint": self.fingerprint(stage),
            "chosen": self.fingerprint(stage, code=False),
            "code": self.code(stage),
            "built_from": {needed: self.fingerprint(needed) for needed in self.needs(stage)},
            **{what: {"files": files} for what, files in self._contents(stage).items()},
            "original": {name: describe(o) for folder in sources for name, o in original_weights(folder).items()},
        }

    @unchanging()
    def load(self, stage: str) -> Product:
        """The product of `stage`; StudyError, with the command to run, if it is missing, damaged or out of date. A
        damaged run counts as missing from then on: the next `snakemake` makes it again."""
        folder, command = self.folder(stage), self.command(stage)
        of_subject = stage not in SUMMARIES and stage_named(stage).of_subject
        whose = f"subject {self.subject}" if of_subject else "all subjects"
        run = f"stage {stage} of {whose} (ablation {self.owner(stage)})"
        try:
            product = read_product(folder)
        except FileNotFoundError:
            raise StudyError(f"{run} has not been run yet; run it first:\n  {command}") from None
        except DamagedError as error:
            raise StudyError(f"{error} Run {stage} again:\n  {command}") from None
        results = product.results
        if stage not in SUMMARIES and results["fingerprint"] != self.fingerprint(stage):
            raise StudyError(
                f"{run} in {self.readable(stage)} was made from {self._differing(stage, results)}: its fingerprint is "
                f"{results['fingerprint']}, this study's is {self.fingerprint(stage)}; run it again:\n  {command}"
            )
        return product

    def _differing(self, stage: str, results: dict) -> str:
        """What has changed among a run's inputs since it was made, in words."""
        if results.get("chosen") == self.fingerprint(stage, code=False):
            return "different code"
        said = []
        for what, now in self._contents(stage).items():
            before = results.get(what, {}).get("files", {})
            changed = sorted(name for name in {**before, **now} if before.get(name) != now.get(name))
            said += [f"different files of the {what} ({_some(changed)})"] if changed and before else []
        now = _flat(asdict(self.configuration))
        changed = [
            f"{name} was {then}"
            for name, then in _flat(results["configuration"]).items()
            if now.get(name, then) != then
        ]
        said += [f"a different configuration ({_some(changed)}; preset {self.preset})"] if changed else []
        return " and ".join(said) or "something else"

    def _contents(self, stage: str) -> dict[str, dict[str, str]]:
        """Digests of the files that `stage` uses: those of the data and of the backbone."""
        draws = any(stage_named(source).draws for source in self.sources(stage))
        return {"data": self.data_contents, "backbone": self.generator.contents() if draws else {}}

    def gather(self, stage: str) -> list[Product]:
        """All complete and up-to-date runs of `stage` for all seeds, subjects and ablations of this study."""
        found = []
        for file in self._of_all_seeds(f"*/*/{stage}/results.json"):
            try:
                product = read_product(file.parent)
            except UnsealedError:
                continue
            except DamagedError as error:
                advice = "If it belongs to this study, snakemake makes it again; otherwise delete it"
                raise StudyError(f"{error} {advice}") from None
            if product.results["fingerprint"] == Study(**product.results["study"]).fingerprint(stage):
                found.append(product)
        return found

    def _of_all_seeds(self, pattern: str) -> list[Path]:
        folders = (runs_folder() / self.name_of_seed(seed) for seed in self.seeds)
        return [file for folder in folders for file in sorted(folder.glob(pattern))]

    def accept(self, reason: str) -> list[str]:
        """Accept runs of this study, of any seed, as up to date although their code has changed; record why and list
        them.

        Only code may differ: a run with a different configuration, data or weights stays out of date.
        """
        said = []
        for file in self._of_all_seeds("*/*/*/results.json"):
            run = str(file.parent.relative_to(runs_folder()))
            try:
                results = read_product(file.parent).results
            except DamagedError as error:
                said.append(f"{run}: NOT accepted. {error} Run it again")
                continue
            stage = results["stage"]
            if stage in SUMMARIES:
                continue
            study = Study(**results["study"])
            made_from, old = study._made_from(stage), results["fingerprint"]
            if old == made_from["fingerprint"]:
                continue
            if results.get("chosen") != made_from["chosen"]:
                said.append(f"{run}: NOT accepted, because it was made from different choices or data. Run it again")
                continue
            entry = {"reason": reason, "fingerprint": old, "code": results.get("code")}
            accepted = [*results.get("accepted", []), entry]
            write_sealed(file, results | made_from | {"accepted": accepted})
            for whole in file.parent.glob(mark(old)):
                whole.rename(file.parent / mark(made_from["fingerprint"]))
            said.append(f"{run}: accepted ({old} counts as {made_from['fingerprint']})")
        return said or ["Nothing to accept: every run is up to date."]


def _flat(part: object, name: str = "") -> dict[str, object]:
    """The values of nested dictionaries, by dotted name."""
    if not isinstance(part, dict):
        return {name: json.loads(json.dumps(part))}
    return {key: value for inner in part for key, value in _flat(part[inner], f"{name}.{inner}".strip(".")).items()}


def _some(names: list[str]) -> str:
    """The first few names, for use in a sentence."""
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


def _plain(value: object):
    """JSON for NumPy and torch scalars and arrays."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__} cannot be stored in results.json")
