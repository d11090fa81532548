"""braindecode's models as encoders, under their braindecode names: "braindecode.EEGConformer". Optional dependency."""

from importlib import import_module

from torch import Tensor

from brainvis.models import EncoderError
from brainvis.models.encoder import Encoder


class BraindecodeEncoder(Encoder):
    """A braindecode model whose `width` outputs are the embedding; `options` are passed to its constructor."""

    model_class: type

    def __init__(
        self, n_chans: int, n_times: int, sfreq: float, n_outputs: int | None = None, width: int = 128, **options
    ) -> None:
        super().__init__()
        self.width = width
        self.model = self.model_class(n_chans=n_chans, n_times=n_times, sfreq=sfreq, n_outputs=width, **options)
        self.add_classifier(n_outputs)

    def embed(self, trials: Tensor) -> Tensor:
        return self.model(trials)


def wrapped(name: str) -> type[BraindecodeEncoder]:
    """The encoder around `braindecode.models.<name>`; `EncoderError` if there is none."""
    try:
        models = import_module("braindecode.models")
    except (ImportError, OSError, RuntimeError) as error:  # torchaudio rejects torch builds it does not match
        raise EncoderError(f"braindecode.{name}: braindecode cannot be imported here ({error})") from error
    if not isinstance(model := getattr(models, name, None), type):
        raise EncoderError(f"braindecode has no model {name!r}; see https://braindecode.org/stable/models/models.html")
    return type(name, (BraindecodeEncoder,), {"__module__": __name__, "model_class": model})
