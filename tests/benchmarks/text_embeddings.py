"""Text embeddings at Stable Diffusion 1.5's size, from a text encoder with random weights: times and memory.

python tests/benchmarks/text_embeddings.py [--texts 2040] [--test 330] [--train 1330] [--threads 1] [--instant]

Builds the file, opens it in a fresh process, and does there what notebook 05 does with states at its full size, but
for training and figures. With --instant, the text encoder is a random number generator: everything but its time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from brainvis.generation.text_embeddings import (
    TextEmbeddings,
    average_embeddings,
    build_text_embeddings,
    interpolation_position,
    retrieval_ranks,
    text_cosines,
)

CLASSES, TOKENS, WIDTH, VOCABULARY = 40, 77, 768, 49408


@dataclass
class RandomEncoder:
    """As much of a backbone as text embeddings need: CLIP ViT-L/14's text encoder, 123 million random weights."""

    instant: bool
    fingerprint: str = "random"
    conditioning_shape: tuple[int, int] = (TOKENS, WIDTH)

    def __post_init__(self):
        if not self.instant:
            from transformers import CLIPTextConfig, CLIPTextModel

            config = CLIPTextConfig(
                vocab_size=VOCABULARY,
                hidden_size=WIDTH,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                projection_dim=WIDTH,
            )
            self.model = CLIPTextModel(config).eval()

    @torch.inference_mode()
    def text_embeddings(self, texts: list[str]) -> Tensor:
        if self.instant:
            return torch.randn(len(texts), TOKENS, WIDTH)
        tokens = torch.randint(0, VOCABULARY, (len(texts), TOKENS))
        return torch.cat([self.model(input_ids=batch).last_hidden_state for batch in tokens.split(64)])


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def megabytes(what: str, file: str = "smaps_rollup") -> float:
    """Rss (all pages of this process), Pss_Anon (those of its own) now, or VmHWM (the most it had) in `status`."""
    return int(Path(f"/proc/self/{file}").read_text().split(f"{what}:")[1].split()[0]) / 1000


def report(name: str, start: float, states: TextEmbeddings | None = None) -> None:
    own, most = megabytes("Pss_Anon"), megabytes("VmHWM", "status")
    print(f"{time.perf_counter() - start:9.2f} s  {own:8.0f} MB own  {most:8.0f} MB at most  {name}", flush=True)
    Path("/proc/self/clear_refs").write_text("5")  # the most it had, from now on


def build(file: Path, arguments: argparse.Namespace) -> None:
    encoder = RandomEncoder(arguments.instant)
    report("before", time.perf_counter())
    start = time.perf_counter()
    build_text_embeddings(encoder, texts(arguments.texts), file)
    report(f"build {arguments.texts} texts, {file.stat().st_size / 1e6:.0f} MB", start)


def work(file: Path, arguments: argparse.Namespace) -> None:
    encoder, generator = RandomEncoder(instant=True), torch.Generator().manual_seed(0)
    report("before", time.perf_counter())
    start = time.perf_counter()
    states = build_text_embeddings(encoder, texts(arguments.texts), file)
    report("open", start)
    start = time.perf_counter()
    coarse, fine = states.lookup(texts(CLASSES)), states.lookup(texts(arguments.texts)[CLASSES:])
    report("look up class names and captions", start)
    predicted = torch.randn(arguments.test, TOKENS, WIDTH)
    trials = arguments.train + arguments.test
    labels, captions = (torch.randint(0, count, (trials,), generator=generator) for count in (len(coarse), len(fine)))
    train, test = torch.arange(trials).split([arguments.train, arguments.test])
    same = (captions[test][:, None] - torch.arange(len(fine))).abs() < 25
    of_test = coarse[labels[test]], fine[captions[test]]
    report(f"{len(test)} predictions, and the texts of their trials", start)
    average = average_embeddings(coarse, fine, labels[train], captions[train]).expand_as(predicted)
    for name, call in {
        "cosines of all captions": lambda: text_cosines(fine, fine),
        "average of the training trials": lambda: average_embeddings(coarse, fine, labels[train], captions[train]),
        "position between coarse and fine": lambda: interpolation_position(predicted, *of_test),
        "position of the average": lambda: interpolation_position(average, *of_test),
        "retrieval among captions": lambda: retrieval_ranks(predicted, fine, captions[test]),
        "retrieval among captions of the class": lambda: retrieval_ranks(predicted, fine, captions[test], same),
    }.items():
        start = time.perf_counter()
        call()
        report(name, start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("texts", 2040), ("test", 330), ("train", 1330), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--instant", action="store_true")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)  # the second process
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.file:
        return work(arguments.file, arguments)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "states.safetensors"
        build(file, arguments)
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--file", str(file)], check=True)


if __name__ == "__main__":
    main()
