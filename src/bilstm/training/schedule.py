"""How the learning rate moves over a run. Imports only `config`.

The rate is a function of the share of the run that is done, so batches may differ in number from epoch to epoch.
"""

from __future__ import annotations

import math

from bilstm.train_config import TrainConfig

__all__ = ["learning_rate_at"]

_ONE_CYCLE_WARMUP = 0.3
_ONE_CYCLE_START = 1 / 25  # of the peak
_ONE_CYCLE_END = 1 / 25e4


def learning_rate_at(config: TrainConfig, done: float) -> float:
    """Compute the learning rate at a point of the run.

    Parameters
    ----------
    config : TrainConfig
        `learning_rate` is the peak, `warmup` the share of the run in which it rises from 0 to the peak.
    done : float
        Share of the run, 0 to 1; the loop gives the middle of each step, so neither end is a step without effect.

    Returns
    -------
    float
        "constant" stays at the peak, "linear" falls to 0, "cosine" falls to 0 along half a cosine, "one-cycle" rises
        from 1/25 of the peak and falls to 1/250,000 of it, both along half a cosine (Smith and Topin 2017,
        arXiv:1708.07120, with the two shares that torch's OneCycleLR has).
    """
    is_one_cycle = config.schedule == "one-cycle"
    warmup = config.warmup if config.warmup is not None else _ONE_CYCLE_WARMUP if is_one_cycle else 0.0
    peak = config.learning_rate
    if done < warmup:
        rise = done / warmup
        return peak * (_between(_ONE_CYCLE_START, 1.0, rise) if is_one_cycle else rise)
    fall = (done - warmup) / (1.0 - warmup)
    if is_one_cycle:
        return peak * _between(1.0, _ONE_CYCLE_END, fall)
    if config.schedule == "cosine":
        return peak * _between(1.0, 0.0, fall)
    if config.schedule == "linear":
        return peak * (1.0 - fall)
    return peak


def _between(start: float, end: float, share: float) -> float:
    """Go from `start` to `end` along half a cosine."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))
