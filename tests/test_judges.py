"""The published networks that judge: found, refused when damaged, asked as their own libraries ask them."""

import os
import subprocess
import sys
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.vision_transformer import VisionTransformer

from brainvis.data.classes import CLASS_NAMES, IMAGENET_INDICES
from brainvis.evaluation.judges import NETWORKS, Judge, Judges, judges_of, published_judge
from brainvis.evaluation.pictures import Pictures, agreement_with, evaluate_pictures
from brainvis.files import weights_folder
from brainvis.generation.weights import WEIGHTS, MissingWeights, WeightsError, find_weights, obtain_weights
from brainvis.phantom.stimuli import CLASS_NAMES as PHANTOM_CLASSES

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Empty folders for given weights and for both caches, and no network."""
    monkeypatch.setenv("BRAINVIS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    return tmp_path


def unreachable(*_, **__):
    raise OSError("no route to host")


def give(key: str, state: dict) -> Path:
    """Write weights under their published name."""
    file = weights_folder() / WEIGHTS[key].file
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {name: values.half() if values.is_floating_point() else values for name, values in state.items()}
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
    return file


def prepared(pictures, transform):
    return torch.stack([transform(Image.fromarray(picture)) for picture in pictures])


@pytest.fixture(scope="module")
def pictures():
    """Smooth and noisy ones, (2, 160, 160, 3)."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)).resize((160, 160))
    return np.stack([np.asarray(coarse), rng.integers(0, 256, (160, 160, 3)).astype(np.uint8)])


# Files


def test_names_and_sizes_are_those_of_the_libraries():
    models = torchvision.models
    weights = {
        "vit_h_14": models.ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1,
        "alexnet": models.AlexNet_Weights.IMAGENET1K_V1,
        "inception_v3": models.Inception_V3_Weights.IMAGENET1K_V1,
    }
    for key, weight in weights.items():
        assert WEIGHTS[key].url == weight.url and weight.url.endswith(f"-{WEIGHTS[key].sha256}.pth")
        assert WEIGHTS[key].size / 2**20 == pytest.approx(weight.meta["_file_size"], abs=0.0006)
        assert WEIGHTS[key].file == Path(weight.url).name
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert WEIGHTS["inception_fid"].url == URL_INCEPTION_V3
    clip = open_clip.pretrained.get_pretrained_cfg("ViT-L-14-quickgelu", "openai")
    assert clip["hf_hub"] == WEIGHTS["clip"].repository + "/"
    assert Path(WEIGHTS["clip"].file).name == open_clip.constants.HF_SAFE_WEIGHTS_NAME
    assert clip["quick_gelu"] and clip["mean"] == open_clip.OPENAI_DATASET_MEAN


def test_looking_for_files_does_not_import_torch():
    look = "print([p.find_weights(key) for key in p.WEIGHTS], 'torch' in sys.modules)"
    code = f"import sys; import brainvis.generation.weights as p; {look}"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert answer.stdout.split() == ["[None,", "None,", "None,", "None,", "None]", "False"], answer.stderr


def test_a_given_file_comes_before_the_cache(folders):
    assert find_weights("alexnet") is None and find_weights("clip") is None
    cached = folders / "torch" / "hub" / "checkpoints" / WEIGHTS["alexnet"].file
    assert cached.parent == Path(torch.hub.get_dir()) / "checkpoints"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert find_weights("alexnet") == obtain_weights("alexnet") == cached
    snapshot = folders / "hub" / "models--timm--vit_large_patch14_clip_224.openai"
    (snapshot / "refs").mkdir(parents=True)
    (snapshot / "refs" / "main").write_text("abc")
    (snapshot / "snapshots" / "abc").mkdir(parents=True)
    (snapshot / "snapshots" / "abc" / "open_clip_model.safetensors").touch()
    assert find_weights("clip") == snapshot / "snapshots" / "abc" / "open_clip_model.safetensors"
    for key in ("alexnet", "clip"):
        given = give(key, {"a": torch.zeros(1)})
        assert find_weights(key) == given and weights_folder() in given.parents


def test_what_is_nowhere_is_downloaded_into_the_librarys_cache(folders, monkeypatch):
    asked = []

    def download(url, target, hash_prefix):
        asked.append((url, hash_prefix))
        Path(target).write_text("weights")

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    file = obtain_weights("vit_h_14")
    assert file.parent == folders / "torch" / "hub" / "checkpoints" and file.read_text() == "weights"
    assert obtain_weights("vit_h_14") == file
    assert asked == [("https://download.pytorch.org/models/vit_h_14_swag-80465313.pth", "80465313")]


@pytest.mark.parametrize("key", WEIGHTS)
def test_without_network_the_message_says_what_to_put_where(key):
    with pytest.raises(MissingWeights) as error:
        obtain_weights(key)
    message = str(error.value)
    for part in ("no route to host", str(weights_folder() / WEIGHTS[key].file), WEIGHTS[key].url):
        assert part in message
    assert all(metric in message for metric in WEIGHTS[key].metrics)


class Unwanted:
    def __reduce__(self):
        return os.mkdir, (os.environ["TORCH_HOME"] + "-was-here",)


def test_damaged_and_foreign_files_are_refused_by_name(folders):
    file = give("inception_v3", {"weight": torch.zeros(300, 300)})
    with pytest.raises(WeightsError, match="Missing key"):  # another network's
        published_judge("Inception", CPU)
    file.write_bytes(file.read_bytes()[:70_000])
    with pytest.raises(WeightsError, match=r"70,000 bytes, the published file 108,949,747") as error:
        published_judge("Inception", CPU)
    assert str(file) in str(error.value)
    torch.save({"weight": Unwanted()}, file)
    with pytest.raises(WeightsError):
        published_judge("Inception", CPU)
    assert not Path(os.environ["TORCH_HOME"] + "-was-here").exists()
    file = give("clip", {"visual.weight": torch.zeros(300, 300)})
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="5,000 bytes"):
        published_judge("CLIP", CPU)


def test_fingerprint_is_the_files_sha256_and_foreign_weights_are_noted(tiny_vit):
    import hashlib

    judge = published_judge("ViT-H/14", CPU)
    digest = hashlib.sha256(find_weights("vit_h_14").read_bytes()).hexdigest()
    assert judge.origin == {"network": WEIGHTS["vit_h_14"].name, "weights": digest[:16]}
    assert "not the published ones" in judge.note and digest[:16] in judge.note


# Networks, with random weights, against their own libraries. Those that are large are shrunk, not rewritten.


def random_state(network: nn.Module) -> dict:
    """Small random weights for a network that was built without any; variances are positive."""
    torch.manual_seed(0)
    shapes = {name: values.shape for name, values in network.state_dict().items()}
    return {
        name: torch.zeros(shape, dtype=torch.int64) if name.endswith("tracked")
        else torch.rand(shape) + 0.5 if name.endswith("running_var") else 0.05 * torch.randn(shape)
        for name, shape in shapes.items()
    }  # fmt: skip


def filled(build, state: dict) -> nn.Module:
    with torch.device("meta"):
        network = build()
    network.load_state_dict({name: v.float() if v.is_floating_point() else v for name, v in state.items()}, assign=True)
    return network.eval()


def test_preparation_is_that_of_the_libraries(pictures):
    """Against the resizing, mean and deviation that each network was published with, written out."""
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    openai = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    bilinear, bicubic = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
    published_as = {
        "ViT-H/14": (518, bicubic, *imagenet),
        "AlexNet 2": (256, bilinear, *imagenet),
        "AlexNet 5": (256, bilinear, *imagenet),
        "Inception": (342, bilinear, *imagenet),
        "CLIP": (224, bicubic, *openai),
    }
    for name, (size, resampling, mean, deviation) in published_as.items():
        resized = [Image.fromarray(picture).resize((size, size), resampling) for picture in pictures]
        expected = (np.stack([np.asarray(picture) for picture in resized]) / 255 - mean) / deviation
        ours = NETWORKS[name].prepare(pictures)
        np.testing.assert_allclose(ours.permute(0, 2, 3, 1), expected, atol=1e-5)
    # The papers on two-way identification cut nothing off; else it is torchvision's preparation to the last digit.
    cut = torchvision.models.AlexNet_Weights.DEFAULT.transforms()(Image.fromarray(pictures[0]))
    torch.testing.assert_close(NETWORKS["AlexNet 2"].prepare(pictures)[0, :, 16:-16, 16:-16], cut)


@pytest.fixture
def tiny_vit(monkeypatch):
    """ViT-H/14 with one layer of 16 units: the whole network, and its file."""
    build = partial(VisionTransformer, patch_size=14, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16)
    torch.manual_seed(0)
    network = build(image_size=518).eval()
    nn.init.normal_(network.heads.head.weight)
    give("vit_h_14", network.state_dict())
    monkeypatch.setattr("torchvision.models.vit_h_14", build)
    return network.half().float()


def test_generation_accuracy_is_judged_as_torchvision_would(tiny_vit, pictures):
    judge = published_judge("ViT-H/14", CPU)
    (said,) = judge.look(pictures)
    transforms = torchvision.models.ViT_H_14_Weights.DEFAULT.transforms()
    with torch.no_grad():
        expected = tiny_vit(prepared(pictures, transforms))
    assert said.keys() == {"class"} and said["class"].shape == (2, 1000)
    torch.testing.assert_close(said["class"], expected, atol=1e-5, rtol=1e-4)
    assert judge.class_names == tuple(torchvision.models.ViT_H_14_Weights.DEFAULT.meta["categories"])
    assert judge.wordnet == IMAGENET_INDICES


def test_a_network_is_freed_when_it_has_answered(tiny_vit, pictures, monkeypatch):
    built = []
    build = torchvision.models.vit_h_14

    def remembered(**options):
        network = build(**options)
        built.append(weakref.ref(network))
        return network

    monkeypatch.setattr("torchvision.models.vit_h_14", remembered)
    judge = published_judge("ViT-H/14", CPU)
    assert len(built) == 1 and built[0]() is None  # opened to see whether it can be, and not kept
    judge.look(pictures, pictures)
    assert len(built) == 2 and built[1]() is None  # once for both sets


def test_alexnet_is_read_after_its_second_and_fifth_convolution(pictures, monkeypatch):
    def build():
        network = torchvision.models.AlexNet()
        network.classifier = nn.Identity()
        return network

    torch.manual_seed(0)
    give("alexnet", build().state_dict())
    monkeypatch.setattr("torchvision.models.alexnet", build)
    whole = build().eval()
    whole.load_state_dict(torch.load(find_weights("alexnet"), weights_only=True))
    reference = create_feature_extractor(whole, ["features.4", "features.11"])
    transforms = torchvision.models.AlexNet_Weights.DEFAULT.transforms(crop_size=256)
    with torch.no_grad():
        expected = reference(prepared(pictures, transforms))
    for name, layer, size in (("AlexNet 2", "features.4", (192, 31, 31)), ("AlexNet 5", "features.11", (256, 15, 15))):
        judge = published_judge(name, CPU)
        (said,) = judge.look(pictures)
        assert said["features"].shape == (2, *size) and judge.name.endswith(layer)
        torch.testing.assert_close(said["features"], expected[layer])


def test_inception_is_read_after_its_pooling(pictures):
    build = partial(torchvision.models.inception_v3, transform_input=True, init_weights=False)
    with torch.device("meta"):
        empty = build()
    file = give("inception_v3", random_state(empty))
    network = filled(build, torch.load(file, weights_only=True))
    transforms = torchvision.models.Inception_V3_Weights.DEFAULT.transforms(crop_size=342)
    pooled = []
    network.avgpool.register_forward_hook(lambda *given: pooled.append(given[-1].flatten(1)))
    with torch.no_grad():
        network(prepared(pictures, transforms))
    (said,) = published_judge("Inception", CPU).look(pictures)
    assert said["features"].shape == (2, 2048)
    torch.testing.assert_close(said["features"], pooled[0], atol=1e-5, rtol=1e-4)


def test_inception_of_fid_is_torchmetrics_own(pictures, monkeypatch):
    with monkeypatch.context() as without_file, torch.device("meta"):
        module = "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url"
        without_file.setattr(module, lambda *_, **__: {})
        without_file.setattr(NoTrainInceptionV3, "load_state_dict", lambda *_: None)
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"])
    file = give("inception_fid", random_state(network))
    (said,) = published_judge("Inception of FID", CPU).look(pictures)
    batch = torch.as_tensor(pictures).permute(0, 3, 1, 2)
    inception = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(file)).inception
    torch.testing.assert_close(said["features"], inception(batch))
    inception.features_list = ["logits_unbiased"]  # what `InceptionScore` asks for
    torch.testing.assert_close(said["class"], inception(batch), atol=1e-5, rtol=1e-4)
    assert said["features"].shape == (2, 2048) and said["class"].shape == (2, 1008)


@pytest.fixture
def tiny_clip(monkeypatch):
    configuration = open_clip.get_model_config("ViT-L-14-quickgelu")
    configuration["vision_cfg"] |= {"layers": 1, "width": 64, "patch_size": 56}
    configuration["text_cfg"] |= {"layers": 1, "width": 16, "heads": 2, "vocab_size": 50}
    monkeypatch.setattr("open_clip.get_model_config", {"ViT-L-14-quickgelu": configuration}.get)
    torch.manual_seed(0)
    network = open_clip.CLIP(**configuration).eval()
    give("clip", {name: values.contiguous() for name, values in network.state_dict().items()})
    return network.half().float()


def test_clip_is_asked_as_open_clip_would(tiny_clip, pictures):
    assert any(isinstance(module, open_clip.transformer.QuickGELU) for module in tiny_clip.modules())
    (said,) = published_judge("CLIP", CPU).look(pictures)
    transform = open_clip.image_transform(224, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN)
    with torch.no_grad():
        expected = tiny_clip.encode_image(prepared(pictures, transform), normalize=True)
    assert said["features"].shape == (2, 768)
    torch.testing.assert_close(said["features"], expected)


# All together


def bare_backbone():
    return SimpleNamespace(name="bare", judge=None, clip=None)


def test_a_backbone_without_judges_is_judged_by_the_published_ones_that_are_there(tiny_vit, tiny_clip, pictures):
    judges = judges_of(bare_backbone(), CPU)
    assert judges.classifier.key == "vit_h_14" and judges.clip.key == "clip" and judges.inception is None
    assert set(judges.identification) == {"CLIP"}
    assert len(judges.missing) == 3  # AlexNet once, though it is asked twice
    assert {row["measure"]: row["judge"] for row in judges.table()}["Inception Score, FID"] == "none: left out"
    results = evaluate_pictures(
        *(Pictures(pixels, judges, n_permutations=9) for pixels in (pictures[:, None], pictures))
    )
    assert {"generation_accuracy", "clip_similarity", "two_way_clip", "ssim"} < set(results)
    assert not {"inception_score", "fid", "two_way_inception", "two_way_alexnet_2"} & set(results)
    assert results["generation_accuracy"]["value"] == results["two_way_clip"]["value"] == 1
    assert results["notes"][:3] == list(judges.missing)


def test_with_nothing_at_all_nothing_is_judged_and_everything_is_named():
    judges = judges_of(bare_backbone(), CPU)
    assert (judges.classifier, judges.inception, judges.clip, judges.identification) == (None, None, None, {})
    assert len(judges.missing) == len(WEIGHTS)
    for weights in WEIGHTS.values():
        assert sum(Path(weights.file).name in note for note in judges.missing) == 1


def test_imagenets_order_is_that_of_wordnet_ids():
    file = Path(timm.__file__).parent / "data" / "_info" / "imagenet_synsets.txt"
    synsets = file.read_text().split()
    assert synsets == sorted(synsets) and len(synsets) == 1000
    assert IMAGENET_INDICES.keys() == CLASS_NAMES.keys()
    assert all(synsets[index] == wordnet_id for wordnet_id, index in IMAGENET_INDICES.items())
    categories = torchvision.models.ViT_H_14_Weights.DEFAULT.meta["categories"]
    different = {
        name: categories[IMAGENET_INDICES[i]]
        for i, name in CLASS_NAMES.items()
        if categories[IMAGENET_INDICES[i]] != name
    }
    assert different == {
        "sorrel horse": "sorrel",
        "smoothing iron": "iron",
        "panda": "giant panda",
        "lycaenid butterfly": "lycaenid",
    }


# What the classes are called, and how many can compete


def named_judge(names=PHANTOM_CLASSES, wordnet=None):
    return Judge("fake", None, str, tuple(names), wordnet or {})


def test_a_class_that_both_know_has_the_data_sets_name():
    """By WordNet id, not by name: the judge's "iron" is the data set's "smoothing iron"."""
    data = SimpleNamespace(
        labels=torch.tensor([0, 1, 1, 2]),
        images=torch.tensor([1, 0, 0, -1]),
        image_ids=("n07753592_7", "n03584829_12"),
        class_names=("smoothing iron", "ripe banana", "dream"),
    )
    names = ["other"] * 1000
    names[606], names[954], names[3] = "iron", "banana", "smoothing iron?"
    known = named_judge(names, IMAGENET_INDICES).vocabulary(data)
    assert (known[606], known[954], known[3]) == ("smoothing iron", "ripe banana", "smoothing iron?")
    assert agreement_with(["smoothing iron", "ripe banana"], np.array([[606], [3]]), known)["value"] == 0.5
    assert agreement_with(["dream"], np.array([[606]]), known) is None
    assert named_judge().vocabulary(data) == PHANTOM_CLASSES  # nothing in common


def test_no_more_ways_than_classes():
    assert Judges(named_judge()).ways() == 50
    assert Judges(named_judge()).ways(80) == 60
    assert Judges().ways() == 50
