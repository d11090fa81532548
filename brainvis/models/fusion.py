"""The time-frequency encoder: all branches side by side, with one linear layer on top (Fu et al., section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from brainvis.configuration import Configuration
from brainvis.models import new_encoder
from brainvis.models.encoder import Encoder

DEFAULT = Configuration()


class FusedEncoder(Encoder):
    """[branch(x) for each of `configuration.fusion.branches`], in this order; all of them keep learning."""

    def __init__(
        self,
        n_chans: int,
        n_times: int,
        sfreq: float,
        n_outputs: int | None = None,
        configuration: Configuration = DEFAULT,
    ) -> None:
        super().__init__()
        if not configuration.fusion.branches:
            raise ValueError("fusion.branches is empty; it must name at least one encoder")
        self.branches = nn.ModuleDict(
            (name.replace(".", "_"), new_encoder(name, configuration, n_chans, n_times, sfreq))
            for name in configuration.fusion.branches
        )
        self.width = sum(branch.width for branch in self.branches.values())
        self.add_classifier(n_outputs)

    def embed(self, trials: Tensor) -> Tensor:
        return torch.cat([branch.embed(trials) for branch in self.branches.values()], dim=1)

    def start_from(self, encoders: Mapping[str, Encoder], classifier: bool = False) -> FusedEncoder:
        """Copies the weights of trained branches, given by name; returns itself.

        With `classifier`, their classifiers are copied too, side by side: W = [W_t, W_f], b = b_t + b_f. Class scores
        are then the sum of the branches' scores, and their softmax is that of late fusion, because log-probabilities
        equal class scores up to a constant per trial. ValueError: a branch has no classifier.
        """
        given = {name.replace(".", "_"): encoder for name, encoder in encoders.items()}
        for name, encoder in given.items():
            state = {key: value for key, value in encoder.state_dict().items() if not key.startswith("classifier.")}
            self.branches[name].load_state_dict(state)
        if classifier:
            theirs = {name: given[name].classifier if name in given else None for name in self.branches}
            if without := [name for name, one in theirs.items() if one is None]:
                raise ValueError(f"branch {without[0]!r} has no classifier to start from; add a new one")
            weights = [one.weight for one in theirs.values()]  # each (class, width of the branch)
            self.add_classifier(len(weights[0])).classifier.to(weights[0])
            with torch.no_grad():
                self.classifier.weight.copy_(torch.cat(weights, dim=1))
                self.classifier.bias.copy_(sum(one.bias for one in theirs.values()))
        return self
