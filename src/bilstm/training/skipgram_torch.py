"""Steps of skip-gram training in torch, for machines where the native engine is not built: the same steps, slower.

Imports torch inside the function. The equations stand in `csrc/bilstm_skipgram.h`.
"""

from __future__ import annotations

import numpy as np

__all__ = ["run"]


def run(
    inputs: np.ndarray,
    outputs: np.ndarray,
    words: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    negatives: np.ndarray,
    rates: np.ndarray,
    batch: int,
) -> None:
    """Take one step of gradient descent for every `batch` words, in place; parameters as `engine.skipgram.run`."""
    import torch

    x_table, y_table = torch.from_numpy(inputs), torch.from_numpy(outputs)
    all_words, left, right = (torch.from_numpy(array).long() for array in (words, before, after))
    targets = torch.cat([all_words[:, None], torch.from_numpy(negatives).long()], dim=1)  # (count, 1 + negatives)
    is_used = targets != all_words[:, None]
    is_used[:, 0] = True
    with torch.no_grad():
        for step, rate in enumerate(rates.tolist()):
            rows = slice(step * batch, (step + 1) * batch)
            reach = int(max(before[rows].max(), after[rows].max()))
            if reach == 0:
                continue
            away = torch.cat([torch.arange(-reach, 0), torch.arange(1, reach + 1)])
            centres = torch.arange(rows.start, min(rows.stop, len(words)))[:, None]
            is_context = (away >= -left[rows, None]) & (away <= right[rows, None])  # (batch, 2 reach)
            context = all_words[(centres + away).clamp(0, len(words) - 1)]
            x, y = x_table[context], y_table[targets[rows]]  # (batch, 2 reach, size), (batch, 1 + negatives, size)
            errors = -torch.sigmoid(torch.bmm(x, y.transpose(1, 2)))  # (batch, 2 reach, 1 + negatives)
            errors[:, :, 0] += 1
            errors *= (is_context[:, :, None] & is_used[rows, None, :]) * rate
            d_x, d_y = torch.bmm(errors, y), torch.bmm(errors.transpose(1, 2), x)
            x_table.index_add_(0, context.reshape(-1), d_x.reshape(-1, inputs.shape[1]))
            y_table.index_add_(0, targets[rows].reshape(-1), d_y.reshape(-1, inputs.shape[1]))
