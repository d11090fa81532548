"""EEG encoders by name, and the models built on them, one per file. Light: imports only what is asked for.

To add your own encoder, write a class with the signature of `brainvis.models.encoder.Encoder` and register it in one
line of your own module: `ENCODERS["mine"] = MyEncoder`.
"""

import inspect
from importlib.util import find_spec
from pkgutil import resolve_name

from brainvis.configuration import PART_OF, Configuration
from brainvis.files import BrainvisError

ENCODERS: dict[str, str | type] = {
    "time": "brainvis.models.time:TimeEncoder",
    "frequency": "brainvis.models.frequency:FrequencyEncoder",
    "spectrum_cnn": "brainvis.models.spectrum_cnn:SpectrumCNN",
    "eegnet": "brainvis.models.eegnet:EEGNet",
    "shallow": "brainvis.models.shallow:ShallowFBCSPNet",
}


class EncoderError(BrainvisError):
    """Unknown encoder, or invalid options for it; the message lists the valid ones."""


def encoder_class(name: str) -> type:
    """The class behind a name of `ENCODERS`, or around the model behind "braindecode.<Model>"."""
    if name in ENCODERS:
        return resolve_name(entry) if isinstance(entry := ENCODERS[name], str) else entry
    if name.startswith("braindecode."):
        return resolve_name("brainvis.models.braindecode:wrapped")(name.removeprefix("braindecode."))
    raise EncoderError(
        f"unknown encoder {name!r}. Choose one of {', '.join(ENCODERS)}, or braindecode.<Model> if braindecode is "
        "installed. To add your own: from brainvis.models import ENCODERS; ENCODERS['mine'] = MyEncoder"
    )


def encoder_module(name: str) -> str:
    """Dotted name of the module that defines an encoder, without importing it; EncoderError lists known ones."""
    if name.startswith("braindecode."):
        if find_spec("braindecode") is None:
            raise EncoderError(f"branch {name!r} needs braindecode, which is not installed: pip install braindecode")
        return "brainvis.models.braindecode"
    if name not in ENCODERS:
        raise EncoderError(f"unknown branch {name!r}; choose one of: {', '.join(ENCODERS)}")
    entry = ENCODERS[name]
    return entry.partition(":")[0] if isinstance(entry, str) else entry.__module__


def new_encoder(
    name: str, configuration: Configuration, n_chans: int, n_times: int, sfreq: float, n_outputs: int | None = None
):
    """An untrained `Encoder`, built from its part of the configuration: `time`, `frequency` or `encoders[name]`."""
    kind, options = encoder_class(name), configuration.encoders.get(name, {})
    if name in PART_OF:
        options = {"config": getattr(configuration, PART_OF[name])}
    try:
        inspect.signature(kind).bind(n_chans, n_times, sfreq, n_outputs, **options)
    except TypeError as error:
        raise EncoderError(f"encoders.{name}: {error}; it takes {inspect.signature(kind)}") from error
    return kind(n_chans, n_times, sfreq, n_outputs, **options)
