"""Time branch and Latent Masked Modeling against slow references, written from the equations in float64."""

import math
from dataclasses import replace

import pytest
import torch

from brainvis.configuration import PRESETS, TimeBranch
from brainvis.models.dropout import Dropout, dropout
from brainvis.models.time import (
    LatentMaskedModel,
    MultiHeadAttention,
    TimeEncoder,
    TransformerLayer,
    attention_by_products,
    draw_masks,
    gumbel_arg_max,
    masked_modeling_objective,
    variance_over_trials,
)

CHANNELS, SAMPLES, TRIALS = 3, 22, 2
SMALL = TimeBranch(
    unit_length=4, width=6, layers=2, heads=2, feedforward=10, mask_ratio=0.5, regressor_layers=2, codewords=7
)  # 5 units and two samples left over, 2 units masked


def encoder(config=SMALL, classes=None):
    return TimeEncoder(CHANNELS, SAMPLES, 1000.0, classes, config)


@pytest.fixture
def model() -> LatentMaskedModel:
    """Weights that matter: the scalars are far from 1e-8, the target encoder is not the encoder."""
    torch.manual_seed(0)
    model = LatentMaskedModel(encoder(SMALL)).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
            if "scale" in name:
                parameter.add_(0.8)
    return model


@pytest.fixture
def trials() -> torch.Tensor:
    return torch.randn(TRIALS, CHANNELS, SAMPLES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def linear(layer, x):
    """y_i = sum_j W_ij x_j + b_i, for one vector."""
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [sum(w * value for w, value in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def normalised(norm, x):
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    weight, bias = norm.weight.tolist(), norm.bias.tolist()
    return [(v - mean) / math.sqrt(variance + 1e-5) * w + b for v, w, b in zip(x, weight, bias, strict=True)]


def attended(attention, asking, asked, heads):
    """softmax(q k / sqrt(d)) v, head by head, for lists of vectors."""
    queries = [linear(attention.query, x) for x in asking]
    keys = [linear(attention.key, x) for x in asked]
    values = [linear(attention.value, x) for x in asked]
    size = len(queries[0]) // heads
    joined = []
    for query in queries:
        out = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            dots = [sum(a * b for a, b in zip(query[part], key[part], strict=True)) / math.sqrt(size) for key in keys]
            exponentials = [math.exp(dot) for dot in dots]
            weights = [value / sum(exponentials) for value in exponentials]
            for i in range(size):
                out.append(sum(w * value[part][i] for w, value in zip(weights, values, strict=True)))
        joined.append(linear(attention.output, out))
    return joined


def layer_reference(layer, x, asked=None, heads=SMALL.heads):
    """x = LN(x + a1 attention(x)); x = LN(x + a2 W2 gelu(W1 x))."""
    out = []
    scale1, scale2 = layer.scale1.item(), layer.scale2.item()
    for vector, sublayer in zip(x, attended(layer.attention, x, asked or x, heads), strict=True):
        h = [v + scale1 * s for v, s in zip(vector, sublayer, strict=True)]
        h = normalised(layer.norm1, h)
        hidden = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in linear(layer.feedforward[0], h)]
        h = [v + scale2 * s for v, s in zip(h, linear(layer.feedforward[2], hidden), strict=True)]
        out.append(normalised(layer.norm2, h))
    return out


def stack_reference(transformer, x, asked=None):
    for layer in transformer.layers:
        x = layer_reference(layer, x, asked)
    return x


def projected_reference(encoder, trial):
    """One trial (channel, time) -> list of units: sum over channels and samples of the unit."""
    weight, bias = encoder.projection.weight, encoder.projection.bias
    units = []
    for unit in range(trial.shape[1] // SMALL.unit_length):
        window = trial[:, unit * SMALL.unit_length : (unit + 1) * SMALL.unit_length]
        units.append([(weight[i] * window).sum().item() + bias[i].item() for i in range(SMALL.width)])
    return units


def placed_reference(encoder, trial):
    positions = encoder.position.tolist()
    return [[a + b for a, b in zip(u, p, strict=True)]
            for u, p in zip(projected_reference(encoder, trial), positions, strict=True)]  # fmt: skip


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=tolerance, atol=tolerance)


def test_encoder_equals_the_equations(model, trials):
    encoder = model.encoder
    close(encoder.project(trials), [projected_reference(encoder, trial) for trial in trials])
    latent = [stack_reference(encoder.transformer, placed_reference(encoder, trial)) for trial in trials]
    close(encoder.units_of(trials), latent)
    means = [[sum(column) / len(units) for column in zip(*units, strict=True)] for units in latent]
    close(encoder.embed(trials), means)
    close(encoder(trials), means)
    assert encoder.add_classifier(5) is encoder and (encoder.classifier.bias == 0.1).all()
    close(encoder.double().eval()(trials), [linear(encoder.classifier, mean) for mean in means])


def test_cross_attention_equals_the_equations(model):
    x, asked = torch.randn(2, 3, 6, dtype=torch.float64), torch.randn(2, 4, 6, dtype=torch.float64)
    layer = model.regressor.layers[0]
    expected = [layer_reference(layer, a.tolist(), b.tolist()) for a, b in zip(x, asked, strict=True)]
    close(layer(x, asked), expected)


def test_attention_is_what_a_gpu_computes():
    """Without chance. With dropout, both keep a weight or scale it by 1 / (1 - p), so that the mean stays."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 4, dtype=torch.float64) for n in (5, 7, 7))
    fused = torch.nn.functional.scaled_dot_product_attention
    close(attention_by_products(query, key, value), fused(query, key, value))
    for attend in (attention_by_products, fused):
        draws = torch.stack([attend(query, key, value, dropout_p=0.3) for _ in range(2000)])
        assert draws.std(0).min() > 0.01
        torch.testing.assert_close(draws.mean(0), fused(query, key, value), atol=0.08, rtol=0)


def test_losses_equal_the_equations(model, trials):
    mask = torch.tensor([True, False, False, True, False])
    masked, visible = [0, 3], [1, 2, 4]
    noise = torch.empty(TRIALS, 2, 7).exponential_(generator=torch.Generator().manual_seed(5))
    squares, entropies, tokens, hits = [], [], [], []
    for row, trial in enumerate(trials):
        placed = placed_reference(model.encoder, trial)
        encoded = stack_reference(model.encoder.transformer, [placed[i] for i in visible])
        target = stack_reference(model.target_encoder, [placed[i] for i in masked])
        positions = model.encoder.position[masked].tolist()
        queries = [[a + b for a, b in zip(model.mask_token.tolist(), p, strict=True)] for p in positions]
        regressed = stack_reference(model.regressor, queries, encoded)
        projected = projected_reference(model.encoder, trial)
        for column, unit in enumerate(masked):
            squares += [(a - b) ** 2 for a, b in zip(regressed[column], target[column], strict=True)]
            gumbel = [-math.log(value) for value in noise[row, column].tolist()]
            noisy = [a + b for a, b in zip(linear(model.tokeniser, projected[unit]), gumbel, strict=True)]
            token = noisy.index(max(noisy))
            scores = linear(model.tokeniser, regressed[column])
            normaliser = math.log(sum(math.exp(score) for score in scores))
            wanted = [0.8 * (word == token) + 0.2 / 7 for word in range(7)]  # label smoothing 0.2
            entropies.append(-sum(w * (score - normaliser) for w, score in zip(wanted, scores, strict=True)))
            tokens.append(token)
            hits.append(scores.index(max(scores)) == token)
    regression, classification = sum(squares) / len(squares), sum(entropies) / len(entropies)
    shares = [tokens.count(word) / len(tokens) for word in set(tokens)]
    losses = model.losses(trials, mask, torch.Generator().manual_seed(5))
    # the losses themselves are taken in float32
    close(losses["regression"], regression, 1e-6)
    close(losses["classification"], classification, 1e-6)
    close(losses["loss"], 4 * regression + 2 * classification, 1e-6)
    close(losses["codewords_used"], len(set(tokens)))
    close(losses["token_accuracy"], sum(hits) / len(hits), 1e-6)
    close(losses["perplexity"], math.exp(-sum(share * math.log(share) for share in shares)), 1e-5)


@pytest.mark.parametrize(("sees", "standardised"), [("all", False), ("masked", True), ("all", True)])
def test_variants_of_the_target_equal_the_equations(model, trials, sees, standardised):
    config = replace(SMALL, target_sees=sees, target_standardised=standardised)
    torch.manual_seed(0)
    variant = LatentMaskedModel(encoder(config)).double().eval()
    variant.load_state_dict(model.state_dict(), strict=False)  # but the predictor, where there is one
    mask, masked = torch.tensor([True, False, False, True, False]), [0, 3]
    placed = [placed_reference(variant.encoder, trial) for trial in trials]
    if sees == "all":
        latent = [stack_reference(variant.target_encoder, units) for units in placed]
        target = torch.tensor([[units[i] for i in masked] for units in latent], dtype=torch.float64)
    else:
        latent = [stack_reference(variant.target_encoder, [units[i] for i in masked]) for units in placed]
        target = torch.tensor(latent, dtype=torch.float64)
    prediction, before = variant.predict(trials, mask), model.predict(trials, mask)
    if standardised:
        target = (target - target.mean((0, 1))) / target.std((0, 1))
        predicted = [[linear(variant.predictor, unit) for unit in units] for units in before.regressed.tolist()]
        close(prediction.regressed, predicted)
    else:
        close(prediction.regressed, before.regressed)
    close(prediction.target.double(), target, 1e-4)
    close(prediction.token_scores, before.token_scores)  # tokens are read from what the regressor says, in all of them


def test_the_objective_is_both_losses(model, trials):
    torch.manual_seed(4)
    expected = model.losses(trials)
    torch.manual_seed(4)
    assert masked_modeling_objective(model, trials, torch.zeros(2)) == expected


def test_masked_units_do_not_reach_the_encoder_nor_the_regressor(model, trials):
    mask = torch.tensor([True, False, False, True, False])
    changed = trials.clone()
    changed[:, :, 12:16] += 3  # unit 3
    before, after = model.predict(trials, mask), model.predict(changed, mask)
    assert torch.equal(before.regressed, after.regressed)
    assert not torch.allclose(before.target, after.target)
    changed[:, :, 4:8] += 3  # unit 1 is visible
    assert not torch.allclose(before.regressed, model.predict(changed, mask).regressed)
    assert before.masked.tolist() == [0, 3] and before.visible.tolist() == [1, 2, 4]
    likeliest = model.tokeniser(model.encoder.project(trials)[:, mask]).argmax(-1)
    assert torch.equal(before.tokens, likeliest)


def test_masks_come_from_the_generator_and_have_the_ratio(model):
    masks = torch.stack([model.draw_mask(torch.Generator().manual_seed(seed)) for seed in range(200)])
    assert torch.equal(masks[3], model.draw_mask(torch.Generator().manual_seed(3)))
    assert (masks.sum(dim=1) == 2).all()
    assert (masks.float().mean(dim=0) - 0.4).abs().max() < 0.12


def test_a_mask_for_each_trial_masks_as_many_units_of_each_and_others(model):
    generator = torch.Generator().manual_seed(0)
    masks = draw_masks(model.encoder, 200, generator)
    assert masks.shape == (200, 5) and masks.dtype == torch.bool
    assert (masks.sum(dim=1) == 2).all() and len(masks.unique(dim=0)) == 10  # all pairs of five units
    assert (masks.float().mean(dim=0) - 0.4).abs().max() < 0.12
    assert torch.equal(masks, draw_masks(model.encoder, 200, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("sees", ["masked", "all"])
def test_each_trial_under_its_own_mask_is_that_trial_alone(model, trials, sees):
    model.config = replace(SMALL, target_sees=sees)
    masks = torch.tensor([[True, False, False, True, False], [False, True, False, False, True]])
    together = model.predict(trials, masks)
    assert together.masked.tolist() == [[0, 3], [1, 4]] and together.visible.tolist() == [[1, 2, 4], [0, 2, 3]]
    for place, (trial, mask) in enumerate(zip(trials, masks, strict=True)):
        alone = model.predict(trial[None], mask)
        for part in ("regressed", "target", "tokens", "token_scores"):
            torch.testing.assert_close(getattr(together, part)[place], getattr(alone, part)[0])
    same = model.predict(trials, masks[:1].expand(2, -1))
    close(same.regressed, model.predict(trials, masks[0]).regressed)


def test_losses_draw_masks_as_the_configuration_says(model, trials):
    seen = []
    predict = model.predict
    model.predict = lambda trials, mask, draw: seen.append(mask) or predict(trials, mask, draw)
    for how in ("batch", "trial"):
        model.config = replace(SMALL, mask_per=how)
        losses = model.losses(trials, generator=torch.Generator().manual_seed(0))
        assert all(value.isfinite() for value in losses.values())
    assert TimeBranch().mask_per == "batch" and torch.equal(
        seen[0], model.draw_mask(torch.Generator().manual_seed(0))
    )  # as in the release
    assert torch.equal(seen[1], draw_masks(model.encoder, 2, torch.Generator().manual_seed(0)))


def test_targets_are_held_against_the_mean_of_their_own_unit():
    target = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    masked = torch.tensor([[0, 3], [1, 3], [0, 1], [3, 4]])
    places = [(trial, place) for trial in range(4) for place in range(2)]
    of_unit = {unit: [target[place] for place in places if masked[place] == unit] for unit in (0, 1, 3, 4)}
    errors = [(v - sum(values) / len(values)) ** 2 for values in of_unit.values() for v in values]
    close(variance_over_trials(target, masked), torch.stack(errors).mean())
    one = torch.tensor([0, 3])
    close(variance_over_trials(target, one), variance_over_trials(target, one.expand(4, -1)))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(2, 4, dtype=torch.bool), r"\(5,\) or \(2, 5\), not torch.bool \(2, 4\)"),
        (torch.tensor([[True] * 3 + [False] * 2, [True] * 2 + [False] * 3]), r"hides \[2, 3\] units"),
    ],
)
def test_masks_that_fit_no_batch_are_refused(model, trials, mask, words):
    with pytest.raises(ValueError, match=words):
        model.predict(trials, mask)


def test_gumbel_arg_max_draws_from_the_softmax():
    scores = torch.tensor([0.0, 1.0, -1.0, 2.0])
    drawn = gumbel_arg_max(scores.expand(40_000, 4), torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.bincount(drawn) / 40_000, scores.softmax(0), atol=0.01, rtol=0)


def test_target_encoder_is_a_moving_average_without_gradient(model, trials):
    before = [parameter.clone() for parameter in model.target_encoder.parameters()]
    sources = [parameter.clone() for parameter in model.encoder.transformer.parameters()]
    model.train()
    model.losses(trials)["loss"].backward()
    assert not model.target_encoder.training
    assert all(parameter.grad is None for parameter in model.target_encoder.parameters())
    model.update_target()
    for old, source, new in zip(before, sources, model.target_encoder.parameters(), strict=True):
        close(new, 0.99 * old + 0.01 * source, 1e-12)


def test_no_gradient_through_the_tokens(model, trials):
    mask = torch.tensor([True, False, False, True, False])
    model.losses(trials, mask)["classification"].backward()
    assert model.tokeniser.weight.grad.abs().sum() > 0
    assert model.encoder.projection.weight.grad.abs().sum() > 0
    # a masked unit's own samples choose its token and make its target, and get no gradient from either
    samples = trials.clone().requires_grad_()
    model.losses(samples, mask)["loss"].backward()
    assert samples.grad[:, :, 12:16].abs().max() == 0 and samples.grad[:, :, 4:8].abs().max() > 0


def test_mixed_precision_trains_everything(trials):
    torch.manual_seed(0)
    model = LatentMaskedModel(encoder(SMALL))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.losses(trials.float())["loss"]
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not name.startswith("target_encoder"))
        assert not parameter.requires_grad or parameter.grad is not None, name
    assert model.tokeniser.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("residual_scale", [1e-8, 0.3])
def test_initial_values(residual_scale):
    torch.manual_seed(0)
    config = replace(PRESETS["demo"].time, width=64, residual_scale=residual_scale)
    model = LatentMaskedModel(TimeEncoder(8, 80, 1000.0, config=config))
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            assert (module.bias == 0.1).all()
            deviation = math.sqrt(2 / sum(module.weight.shape))
            assert abs(module.weight.std().item() / deviation - 1) < 0.1
        if isinstance(module, TransformerLayer):
            assert module.scale1.item() == pytest.approx(residual_scale)
            assert module.scale2.item() == pytest.approx(residual_scale)
    encoder = model.encoder.transformer.state_dict()
    assert all(torch.equal(weights, encoder[name]) for name, weights in model.target_encoder.state_dict().items())


def test_paper_preset_has_the_published_shapes():
    config = PRESETS["paper"].time
    with torch.device("meta"):
        model = LatentMaskedModel(TimeEncoder(128, 440, 1000.0, config=config))
    assert model.encoder.units == 110 and model.masked_units == 82
    assert model.encoder.projection.weight.shape == (1024, 128, 4)
    assert model.encoder.position.shape == (110, 1024)
    assert len(model.encoder.transformer.layers) == 8 and len(model.regressor.layers) == 4
    assert model.tokeniser.weight.shape == (660, 1024)
    layer = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024 + 2
    counted = sum(parameter.numel() for parameter in model.encoder.transformer.parameters())
    assert counted == 8 * layer


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="3 samples.*unit of 4"):
        TimeEncoder(CHANNELS, 3, 1000.0, config=SMALL)
    with pytest.raises(ValueError, match="width of 6.*4 heads"):
        MultiHeadAttention(6, 4, 0.0)
    with pytest.raises(ValueError, match="mask ratio of 0.1"):
        LatentMaskedModel(encoder(replace(SMALL, mask_ratio=0.1)))
    model = LatentMaskedModel(encoder(SMALL))
    with pytest.raises(ValueError, match="mask must be bool"):
        model.losses(torch.zeros(1, CHANNELS, SAMPLES), torch.ones(4, dtype=torch.bool))


@torch.autocast("cpu", dtype=torch.bfloat16)
def test_dropout_is_that_of_torch_but_for_its_random_numbers():
    x = torch.randn(501, 401, requires_grad=True)
    torch.manual_seed(0)
    for p in (0.1, 0.5):
        kept = dropout(x, p)
        zero = kept == 0
        assert zero.float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)
        torch.testing.assert_close(kept[~zero], x[~zero] / (1 - p))
        (gradient,) = torch.autograd.grad(kept.sum(), x)
        torch.testing.assert_close(gradient, (~zero).float() / (1 - p))
        flat = zero.flatten().float()  # neighbours share a word of random bits, and nothing else
        for apart in (1, 2, 3, 4):
            together = (flat[:-apart] * flat[apart:]).mean().item()
            assert together == pytest.approx(p * p, abs=0.01)
    assert dropout(x, 0.0) is x or torch.equal(dropout(x, 0.0), x)
    assert dropout(x.bfloat16(), 0.1).dtype == torch.bfloat16
    module = Dropout(0.5)
    assert torch.equal(module.eval()(x), x) and not torch.equal(module.train()(x), x)


def test_in_float32_random_numbers_and_projection_are_those_of_torch():
    x, encoder = torch.randn(7, 44, 30), TimeEncoder(3, 44, 100.0, config=SMALL)
    torch.manual_seed(0)
    ours = dropout(x, 0.3)
    torch.manual_seed(0)
    assert torch.equal(ours, torch.nn.functional.dropout(x, 0.3))
    trials = torch.randn(5, 3, 44)
    projected = encoder.project(trials)
    assert torch.equal(projected, encoder.projection(trials).mT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = encoder.project(trials)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), projected, atol=0.05, rtol=0.05)
