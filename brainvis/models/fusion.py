"""The time-frequency encoder: all branches side by side, one linear layer on top (Fu et al., section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from brainvis.configuration import Configuration
from brainvis.models import new_encoder
from brainvis.models.encoder import Encoder

DEFAULT = Configuration()


class FusedEncoder(Encoder):
    """[branch(x) for each of `configuration.fusion.branches`], in this order; all of them go on learning."""

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
            raise ValueError("fusion.branches is empty; it has to name at least one encoder")
        self.branches = nn.ModuleDict(
            (name.replace(".", "_"), new_encoder(name, configuration, n_chans, n_times, sfreq))
            for name in configuration.fusion.branches
        )
        self.width = sum(branch.width for branch in self.branches.values())
        self.add_classifier(n_outputs)

    def embed(self, trials: Tensor) -> Tensor:
        return torch.cat([branch.embed(trials) for branch in self.branches.values()], dim=1)

    def start_from(self, encoders: Mapping[str, Encoder]) -> FusedEncoder:
        """Takes over the weights of trained branches, by their names, without their classifiers; returns itself."""
        for name, encoder in encoders.items():
            state = {key: value for key, value in encoder.state_dict().items() if not key.startswith("classifier.")}
            self.branches[name.replace(".", "_")].load_state_dict(state)
        return self
