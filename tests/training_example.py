"""A small problem for the tests of the loop: noisy exclusive-or of two features, with a model that needs both."""

import numpy as np
import torch
from torch import nn

from bilstm.training.loop import DevScore


class Example:
    """Model, data and closures; equal arguments give equal starts."""

    def __init__(self, seed=0, rows=64, batch_size=16, dtype=torch.float32, dropout=0.2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2)).to(dtype)
        data = np.random.default_rng(5)
        self.inputs = torch.tensor(data.normal(size=(rows + 32, 3)), dtype=dtype)
        self.targets = (self.inputs[:, 0] * self.inputs[:, 1] > 0).long()
        self.rows, self.batch_size = rows, batch_size
        self.steps_seen = 0

    def batches_of_epoch(self, epoch):
        order = np.random.default_rng([1, epoch]).permutation(self.rows)
        return [order[i : i + self.batch_size] for i in range(0, self.rows, self.batch_size)]

    def step_loss(self, batch):
        self.steps_seen += 1
        logits = self.model(self.inputs[batch])
        loss = nn.functional.cross_entropy(logits, self.targets[batch])
        return loss, float((logits.argmax(1) == self.targets[batch]).float().mean())

    def dev_score(self):
        logits = self.model(self.inputs[self.rows :])
        targets = self.targets[self.rows :]
        loss = float(nn.functional.cross_entropy(logits, targets))
        return DevScore(float((logits.argmax(1) == targets).float().mean()), loss)

    @property
    def closures(self):
        return self.model, self.step_loss, self.dev_score, self.batches_of_epoch

    def weights(self):
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}


def equal_weights(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
