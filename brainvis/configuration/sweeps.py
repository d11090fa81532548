"""Sweeps: a few values of one hyperparameter at a time. They are chosen like ablations and are not part of the default
grid: `papermill notebooks/02_lmm_pretraining.ipynb out.ipynb -p ablation mask_ratio_0.5`.

A value that the preset already has changes nothing, and its runs are those of `full`. For the results of all sweeps on
the phantom, see docs/studies.
"""

from __future__ import annotations

from brainvis.configuration.presets import Ablation

PAPER_CODEWORDS = 660


def _codewords(paper: int) -> Ablation:
    """Scales the preset's number of codewords by the ratio of `paper` to the paper's number."""

    def changes(configuration) -> dict[str, dict]:
        return {"time": {"codewords": max(2, round(configuration.time.codewords * paper / PAPER_CODEWORDS))}}

    return Ablation(f"{paper} codewords, scaled to the preset: {PAPER_CODEWORDS} stands for its own number", changes)


def _time(description: str, **fields) -> Ablation:
    return Ablation(description, {"time": fields})


def _alignment(description: str, **fields) -> Ablation:
    return Ablation(description, {"alignment": fields})


def _slower(configuration) -> dict[str, dict]:
    return {"alignment": {"training": {"learning_rate": SLOWER * configuration.alignment.training.learning_rate}}}


SLOWER = 0.3
RATIOS, WEIGHTS = (0.25, 0.5, 0.75, 0.85), (0.25, 4.0)
SWEEPS = {
    # table 6
    "codewords_none": _time("no codewords: regression alone", classification_weight=0.0),
    **{f"codewords_{count}": _codewords(count) for count in (220, 330, 660, 990)},
    # not in the paper
    **{f"mask_ratio_{ratio}": _time(f"{ratio:.0%} of the units masked", mask_ratio=ratio) for ratio in RATIOS},
    **{f"mask_per_{what}": _time(f"a mask for each {what}", mask_per=what) for what in ("batch", "trial")},
    "targets_coarse": _alignment("class names alone", targets=("coarse",)),
    "targets_fine": _alignment("captions alone", targets=("fine",)),
    "targets_both": _alignment("class names and captions", targets=("coarse", "fine")),
    **{f"fine_weight_{weight:g}": _alignment(f"captions weigh {weight:g}", fine_weight=weight) for weight in WEIGHTS},
    "loss_cosine": _alignment("cosine alone, as in the paper", mean_squared_error=False),
    "loss_cosine_mse": _alignment("cosine and squared error, as in the release", mean_squared_error=True),
    "frozen_encoder": _alignment("only the map learns, the encoder is frozen", train_encoder=False),
    # with another sweep, as targets_fine+alignment_slower: each target and loss has a learning rate of its own
    "alignment_slower": Ablation(f"alignment at {SLOWER:g} of the learning rate", _slower),
}
