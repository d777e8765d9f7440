"""Words per second of processor time that each softmax of a language model learns from: head alone, forwards and back.

    python benchmarks/language_softmax.py

30,000 words with Zipf's frequencies, 128 features, 8,192 predictions a batch (two a word), one thread. The adaptive
softmax is torch's (Grave et al. 2017, arXiv:1609.04309), which has output vectors of its own: it cannot share those
that are read. Speed only: what is learned from a word differs too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bilstm.training.sampled_softmax import WordSampler, sampled_cross_entropy
from text_runs import RESULTS, append_line, describe

WORDS, SIZE, ROWS = 30_001, 128, 8_192


def words_per_second(step: Callable[[], None], rows: int, repeats: int) -> float:
    """Return words, two predictions each, per second of processor time."""
    step()
    started = time.process_time()
    for _ in range(repeats):
        step()
    return rows / 2 * repeats / (time.process_time() - started)


def main() -> None:
    """Measure every softmax and add a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS / "language_softmax.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shares = 1 / np.arange(1, WORDS + 1)
    shares /= shares.sum()
    targets = torch.tensor(np.random.default_rng(0).choice(WORDS, size=ROWS, p=shares))
    features = torch.randn(ROWS, SIZE, requires_grad=True)
    weight = (0.1 * torch.randn(WORDS, SIZE)).requires_grad_()
    bias = torch.zeros(WORDS, requires_grad=True)
    generator = torch.Generator().manual_seed(0)

    def sampled(size: int, precision: str) -> None:
        sample = WordSampler(1e7 * shares, size).draw(generator)
        truth = (features * weight.index_select(0, targets)).sum(1) + bias.index_select(0, targets)
        rows, biases = weight.index_select(0, sample.words), bias.index_select(0, sample.words)
        sampled_cross_entropy(features, targets, sample, rows, biases, truth, precision).backward()  # type: ignore[arg-type]

    def full(rows: int) -> None:
        nn.functional.cross_entropy(features[:rows] @ weight.t() + bias, targets[:rows]).backward()

    found = {}
    for size in (500, 1_000, 2_000):
        for precision in ("bfloat16", "float32"):
            step = lambda size=size, precision=precision: sampled(size, precision)  # noqa: E731
            found[f"sampled {size:,}, {precision}"] = words_per_second(step, ROWS, options.repeats)
    for cutoffs in ([1_000, 5_000], [2_000, 10_000]):
        adaptive = nn.AdaptiveLogSoftmaxWithLoss(SIZE, WORDS, cutoffs)
        step = lambda adaptive=adaptive: adaptive(features, targets).loss.backward()  # noqa: E731
        found[f"adaptive, cut at {cutoffs[0]:,} and {cutoffs[1]:,}"] = words_per_second(step, ROWS, options.repeats)
    found["full"] = words_per_second(lambda: full(2_048), 2_048, 1)
    for name, value in found.items():
        print(f"{name:<32} {value:>10,.0f} words per second of processor time")
    append_line(options.results, {"words_per_cpu_second": {k: round(v) for k, v in found.items()}, **describe(None)})


if __name__ == "__main__":
    main()
