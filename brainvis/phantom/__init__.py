"""The phantom: a synthetic world of pictures and EEG whose ground truth is known. It is not brain data."""

from dataclasses import asdict

from brainvis.configuration import Phantom
from brainvis.files import code_digest

NO_NUMBERS = ("brainvis.configuration", "brainvis.files")  # code that affects no number in a phantom's files


def phantom_identity(phantom: Phantom, seed: int) -> dict:
    """Everything that determines the numbers in a phantom's files: parameters, seed, and the code that makes it."""
    code = code_digest("brainvis.phantom.recording", leave_out=NO_NUMBERS)
    return {"phantom": asdict(phantom), "seed": seed, "code": code}
