"""The committed backbone of the phantom loads offline, is small, and draws what it is told. Slow figures: its card."""

from pathlib import Path

import numpy as np
import pytest
import torch
import train_backbone
from measure_backbone import BACKBONE, card_text, clip_retrieval, figures, load_pipeline
from safetensors.torch import load_file

from brainvis.phantom.judge import load_judge
from brainvis.phantom.stimuli import CLASS_NAMES, sample_stimuli


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(BACKBONE)


@pytest.fixture(scope="module")
def judge():
    return load_judge(BACKBONE / "judge")


def test_the_weights_are_small_and_safe_and_have_a_card():
    files = [file for file in BACKBONE.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 20e6
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt", ".md"}
    assert "Loading" in (BACKBONE / "README.md").read_text()


def test_every_caption_fits_and_survives_the_tokenizer(pipeline):
    stimuli = sample_stimuli(720, np.random.default_rng(0))
    texts = [s.caption for s in stimuli] + list(CLASS_NAMES)
    ids = pipeline.tokenizer(texts).input_ids
    assert max(map(len, ids)) <= pipeline.tokenizer.model_max_length == 16
    assert [len(i) - 2 for i in ids] == [len(text.split()) for text in texts]  # a word, a token
    assert [pipeline.tokenizer.decode(i, skip_special_tokens=True).strip() for i in ids] == texts


def test_the_pipeline_is_a_stable_diffusion_of_the_expected_shape(pipeline):
    assert type(pipeline.scheduler).__name__ == "PNDMScheduler"
    assert pipeline.scheduler.config.prediction_type == "v_prediction" and pipeline.scheduler.config.skip_prk_steps
    assert pipeline.vae_scale_factor == 8 and pipeline.unet.config.sample_size == 8
    assert {p.dtype for m in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in m.parameters()} == {
        torch.float32
    }


def test_the_judge_reads_unseen_combinations(pipeline, judge):
    right = figures("renderings", pipeline, judge, 400)
    assert right["class"] >= 0.99 and right["position"] >= 0.99 and right["background"] >= 0.99


def test_reconstructions_are_read_right(pipeline, judge):
    right = figures("reconstructions", pipeline, judge, 96)
    assert right["class"] >= 0.95 and right["position"] >= 0.95 and right["background"] >= 0.95 and right["psnr"] > 28


def test_captions_of_unseen_combinations_are_drawn_right(pipeline, judge):
    # Bars well below the card's figures, as 40 pictures tell little more; chance is 2, 11 and 25 %.
    right = figures("captions", pipeline, judge, 40, guidance=2.0, steps=15)
    assert right["class"] >= 0.7 and right["position"] >= 0.8 and right["background"] >= 0.8


def test_a_picture_of_another_class_is_redrawn_as_named(pipeline, judge):
    assert figures("image-to-image", pipeline, judge, 24, guidance=3.0, steps=15)["class"] >= 0.5


def test_clip_matches_pictures_with_their_texts():
    caption, name = clip_retrieval(BACKBONE)
    assert caption >= 0.6 and name >= 0.9


def test_the_card_is_written_over_the_committed_one():
    committed = (BACKBONE / "README.md").read_text()
    rows = [line for line in committed.partition("## Figures")[2].splitlines() if line.startswith("| ")][1:]
    assert committed.startswith(card_text(rows, 1.0, 1.0))
    other = card_text(["| mine | 1.0 |"], 0.5, 0.25)
    assert "|---|---|---|---|---|---|---|\n| mine | 1.0 |\n\nCLIP" in other and "very weights" not in other
    assert "50.0 % are nearest to their own caption" in other and "25.0 % of 512 nearest" in other


@pytest.fixture
def slow_clock(monkeypatch):
    """Each reading of the clock is a second after the one before, so that a step takes a second."""
    ticks = iter(range(10**9))
    monkeypatch.setattr(train_backbone.time, "monotonic", lambda: float(next(ticks)))


def test_every_stage_trains_goes_on_where_it_was_and_makes_a_backbone(tmp_path, monkeypatch, slow_clock):
    draw = train_backbone.draw
    monkeypatch.setattr(train_backbone, "draw", lambda count, seed: draw(min(count, 100), seed))
    monkeypatch.setattr(train_backbone, "write_card", lambda folder: f"card of {folder.name}")
    output = tmp_path / "mine"
    train_backbone.main(["--output", str(output), "--minutes", "0.05"])
    before = load_file(output / "judge" / "model.safetensors")
    train_backbone.main(["--output", str(output), "--minutes", "0.1", "--stage", "judge"])
    after = load_file(output / "judge" / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert torch.load(tmp_path / "mine.training" / "judge.pt", weights_only=True)["step"] == 6
    mine, committed = ({file.relative_to(f) for file in f.rglob("*")} for f in (output, BACKBONE))
    assert mine == committed - {Path("README.md")}
    assert figures("captions", load_pipeline(output), load_judge(output / "judge"), 2, steps=2).keys() >= {"class"}
    assert clip_retrieval(output)[0] < 0.5
