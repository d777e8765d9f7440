"""The sampled cross entropy against torch's full one, hand-worked numbers, and its own definition."""

import math

import numpy as np
import pytest
import torch

from bilstm.errors import UsageError
from bilstm.training.sampled_softmax import BLOCK_ROWS, WordSample, WordSampler, sampled_cross_entropy

WORDS, SIZE = 23, 5


def problem(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    features = torch.randn(rows, SIZE, **draw).requires_grad_()
    table = torch.randn(WORDS, SIZE, **draw).requires_grad_()
    bias = torch.randn(WORDS, **draw).requires_grad_()
    return features, table, bias, torch.randint(WORDS, (rows,), generator=generator)


def loss_of(features, table, bias, targets, sample, precision="float32"):
    truth = (features * table[targets]).sum(1) + bias[targets]
    return sampled_cross_entropy(features, targets, sample, table[sample.words], bias[sample.words], truth, precision)


def test_with_every_word_sampled_it_is_the_full_softmax():
    rows = BLOCK_ROWS + 7  # two blocks
    features, table, bias, targets = problem(rows)
    sample = WordSampler(np.ones(WORDS), WORDS).draw(torch.Generator())
    assert sample.words.tolist() == list(range(WORDS))
    ours = loss_of(features, table, bias, targets, sample)
    theirs = torch.nn.functional.cross_entropy(features @ table.t() + bias, targets)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    for mine, reference in zip(
        torch.autograd.grad(3 * ours, (features, table, bias)),
        torch.autograd.grad(3 * theirs, (features, table, bias)),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, atol=1e-12, rtol=1e-9)


def test_a_sample_against_its_definition_in_plain_numbers():
    features, table, bias, targets = problem(4)
    words, shares = [2, 7, 11], [1.0, 0.25, 0.5]
    places = torch.full((WORDS,), -1)
    places[words] = torch.arange(3)
    targets = torch.tensor([7, 3, 2, 20])  # two of them in the sample
    sample = WordSample(torch.tensor(words), torch.tensor(shares).log(), places)
    wanted = 0.0
    for row, target in enumerate(targets.tolist()):
        logits = [(features[row] * table[w]).sum().add(bias[w]).item() for w in range(WORDS)]
        sums = math.exp(logits[target])
        sums += sum(math.exp(logits[w]) / share for w, share in zip(words, shares, strict=True) if w != target)
        wanted += math.log(sums) - logits[target]
    assert loss_of(features, table, bias, targets, sample).item() == pytest.approx(wanted / 4, rel=1e-7)


def test_gradients_of_a_sample():
    features, table, bias, targets = problem(6)
    sample = WordSampler(np.arange(WORDS) + 1.0, 8).draw(torch.Generator().manual_seed(4))
    assert 0 < len(sample.words) < WORDS
    assert torch.autograd.gradcheck(
        lambda f, w, b: loss_of(f, w, b, targets, sample), (features, table, bias), atol=1e-6
    )


def test_the_denominator_is_right_on_average():
    # the mean of the estimated sums over many samples is the full sum; log and target are undone here
    features, table, bias, _ = (tensor.detach() for tensor in problem(1))
    target = torch.tensor([0])
    sampler = WordSampler(np.arange(WORDS)[::-1] + 1.0, 9)
    generator = torch.Generator().manual_seed(1)
    full = (features @ table.t() + bias).exp().sum().item()
    truth = (features @ table[0] + bias[0]).exp().item()
    sums = [
        math.exp(loss_of(features, table, bias, target, sampler.draw(generator)).item()) * truth for _ in range(3000)
    ]
    error = np.std(sums) / math.sqrt(len(sums))
    assert error < 0.02 * full
    assert abs(np.mean(sums) - full) < 4 * error


def test_shares_of_a_sampler():
    counts = np.array([0.0, 1, 10, 100, 1000, 10000])
    sampler = WordSampler(counts, 3)
    assert float(sampler.shares.sum()) == pytest.approx(3)
    assert sampler.shares.tolist() == sorted(sampler.shares.tolist())
    assert float(sampler.shares[-1]) == 1.0
    assert float(sampler.shares[3] / sampler.shares[2]) == pytest.approx(10**0.75)
    assert float(sampler.shares[0]) == float(sampler.shares[1]) > 0


def test_draws_repeat_with_their_generator_and_have_the_shares():
    sampler = WordSampler(np.arange(10) + 1.0, 4)
    first = sampler.draw(torch.Generator().manual_seed(5))
    again = sampler.draw(torch.Generator().manual_seed(5))
    assert first.words.tolist() == again.words.tolist() == sorted(first.words.tolist())
    generator = torch.Generator().manual_seed(0)
    found = np.zeros(10)
    for _ in range(2000):
        found[sampler.draw(generator).words] += 1
    # four standard deviations of a mean of 2,000 draws at most
    assert np.abs(found / 2000 - sampler.shares.numpy()).max() < 4 * 0.5 / math.sqrt(2000)


def test_bfloat16_is_near_and_no_rows_is_zero():
    features, table, bias, targets = (t.detach().float() if t.is_floating_point() else t for t in problem(50))
    sample = WordSampler(np.ones(WORDS), 12).draw(torch.Generator().manual_seed(2))
    exact = loss_of(features, table, bias, targets, sample)
    # bfloat16 keeps 8 bits: logits of about 3 are off by at most about 0.02
    assert float(loss_of(features, table, bias, targets, sample, "bfloat16")) == pytest.approx(float(exact), abs=0.03)
    assert float(loss_of(features[:0], table, bias, targets[:0], sample)) == 0.0


def test_an_empty_sample_is_refused():
    with pytest.raises(UsageError, match="at least 1 word"):
        WordSampler(np.ones(3), 0)
