"""Cross entropy over a large vocabulary from a sample of its words, the same sample for a whole batch.

The sum over all words in softmax's denominator is replaced by an unbiased estimate. Every word w is in the sample with
its own probability p(w), independently of the others, and a sampled word counts exp(z_w) / p(w). Frequent words have
p = 1, so they are always there and counted exactly; only the tail is estimated. With p = 1 for every word the result is
the full softmax. One sample a batch makes of all logits one matrix product. Imports torch.

References
----------
.. [1] S. Jean, K. Cho, R. Memisevic, Y. Bengio, On using very large target vocabulary for neural machine translation,
   ACL 2015, arXiv:1412.2007, section 3: importance sampling with a correction of -log of the proposal. There words are
   drawn with replacement; here each is drawn by itself, which spares duplicates and the variance of frequent words.
.. [2] D. G. Horvitz, D. J. Thompson, A generalization of sampling without replacement from a finite universe,
   Journal of the American Statistical Association 47, 1952: the estimate sum of y / p.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bilstm.errors import UsageError

__all__ = ["WordSample", "WordSampler", "sampled_cross_entropy"]

# Predictions whose logits are held at once: small enough to stay in the processor's cache
BLOCK_ROWS = 512


class WordSample(NamedTuple):
    """Words drawn for a batch.

    Parameters
    ----------
    words : Tensor of shape (sampled,), int64
        In ascending order.
    log_shares : Tensor of shape (sampled,), float32
        Log of the probability with which each was drawn.
    places : Tensor of shape (words,), int64
        Where each word of the vocabulary stands in `words`; -1 if it was not drawn.
    """

    words: Tensor
    log_shares: Tensor
    places: Tensor


class WordSampler:
    """Draws words with probability p(w) = min(1, c * count(w) ** power), where c gives the wanted mean size.

    Parameters
    ----------
    counts : array-like of shape (words,)
        How often each word is a target; 0 counts as 1.
    size : int
        Mean size of a sample; the whole vocabulary, always, if it is no larger.
    power : float, default=0.75
        Between 0, all words alike, and 1 (Mikolov et al. 2013 for 0.75).
    """

    def __init__(self, counts: Any, size: int, power: float = 0.75):
        if size < 1:
            raise UsageError(f"a sample must have at least 1 word, got {size}.")
        weights = np.maximum(np.asarray(counts, dtype=np.float64), 1.0) ** power
        shares = np.ones(len(weights))
        if size < len(weights):
            is_open = np.ones(len(weights), dtype=bool)  # whose probability is below 1
            while True:
                scale = (size - np.count_nonzero(~is_open)) / weights[is_open].sum()
                too_large = is_open & (weights * scale >= 1.0)
                if not too_large.any():
                    break
                is_open &= ~too_large
            shares[is_open] = weights[is_open] * scale
        self.shares = torch.tensor(shares, dtype=torch.float64)
        self._log_shares = self.shares.log().float()

    def draw(self, generator: torch.Generator, device: torch.device | str = "cpu") -> WordSample:
        """Draw the words of a batch on the CPU, so that every device gets the same ones, and move them."""
        drawn = torch.rand(len(self.shares), generator=generator, dtype=torch.float64) < self.shares
        words = drawn.nonzero()[:, 0]
        places = torch.full((len(drawn),), -1, dtype=torch.int64)
        places[words] = torch.arange(len(words))
        return WordSample(words.to(device), self._log_shares[words].to(device), places.to(device))


def sampled_cross_entropy(
    features: Tensor,
    targets: Tensor,
    sample: WordSample,
    sampled_weight: Tensor,
    sampled_bias: Tensor,
    target_logits: Tensor,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Tensor:
    """Compute the mean cross entropy of predicting `targets`, in nats.

    Parameters
    ----------
    features : Tensor of shape (rows, size)
    targets : Tensor of shape (rows,), int64
    sample : WordSample
    sampled_weight, sampled_bias : Tensor of shape (sampled, size) and (sampled,)
        Output vectors and biases of `sample.words`.
    target_logits : Tensor of shape (rows,)
        Logit of each row's target, computed apart, as the target need not be in the sample.
    precision : {"float32", "bfloat16"}
        Of the matrix products; sums and exponentials are in the type of `features`.

    Returns
    -------
    Tensor, scalar
        mean of log(exp(z_y) + sum over sampled w != y of exp(z_w) / p(w)) - z_y.
    """
    if len(features) == 0:
        return features.sum()
    places = sample.places.index_select(0, targets)
    corrected = sampled_bias - sample.log_shares.to(sampled_bias.dtype)
    losses = _SampledLoss.apply(features, target_logits, sampled_weight, corrected, places, precision == "bfloat16")
    return losses / len(features)  # type: ignore[operator]


class _SampledLoss(torch.autograd.Function):
    """Sum of losses; its gradients are computed with it, block by block, so that no logit is ever kept."""

    @staticmethod
    def forward(ctx, features, target_logits, weight, bias, places, is_half):  # type: ignore[no-untyped-def]
        kind = torch.bfloat16 if is_half else features.dtype
        narrow_weight, narrow_features = weight.to(kind), features.to(kind)
        turned = narrow_weight.t().contiguous()
        d_features, d_targets = torch.empty_like(features), torch.empty_like(target_logits)
        d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        total = features.new_zeros((), dtype=torch.float64)
        # the same memory for every block: fresh memory costs more than the arithmetic
        wide = features.new_empty(min(len(features), BLOCK_ROWS), len(weight))
        narrow = wide.to(kind)
        for start in range(0, len(features), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            truth, place = target_logits[rows], places[rows]
            logits, products = wide[: len(truth)], narrow[: len(truth)]
            torch.add(torch.mm(narrow_features[rows], turned, out=products), bias, out=logits)  # (block, sampled)
            found = (place >= 0).nonzero()[:, 0]
            logits[found, place[found]] = -torch.inf  # the target is counted by its own logit
            highest = torch.maximum(logits.amax(dim=1), truth)
            shares = logits.sub_(highest[:, None]).exp_()
            own = (truth - highest).exp()
            sums = shares.sum(dim=1) + own
            total += (sums.log() + highest - truth).sum(dtype=torch.float64)
            inverse = sums.reciprocal()  # applied to what is small: features instead of shares
            d_targets[rows] = own * inverse - 1.0
            d_bias += inverse @ shares
            products.copy_(shares)
            torch.mul(torch.mm(products, narrow_weight), inverse[:, None], out=d_features[rows])
            d_weight += torch.mm(products.t(), (features[rows] * inverse[:, None]).to(kind))
        ctx.save_for_backward(d_features, d_targets, d_weight, d_bias)
        return total.to(features.dtype)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return *(gradient * saved for saved in ctx.saved_tensors), None, None
