"""Settings of well-known tutorial programs, by name, so that anyone can see where they end.

The layers, sizes, batches and epochs are the tutorials', and so is what Keras does unless told otherwise: Adam with a
rate of 0.001 and an epsilon of 1e-7, random vectors uniform in -0.05 to 0.05, Glorot and orthogonal weights, a bias of
1 at the forget gate, the last state of each direction, one output through a sigmoid, no clipping, no schedule.

What differs, and stays so on purpose:

- A text has the length it has; the programs pad it with zeros and let the network read them.
- A share of the training rows is kept for choosing the epoch (`dev_share`), with the linear baseline beside it; the
  programs train on all rows and keep the last epoch.
- Words come from our tokenizer: punctuation counts as words, where the programs throw it away. One entry of the
  vocabulary is the unknown word, where they also have entries for the padding or for the start of a text; the table of
  vectors has the same number of rows.
- Batches hold texts of similar length.
- A dropped feature of a word vector is dropped in the whole text (`embedding_dropout`), where the programs draw anew
  for each word.
- Initial weights are drawn gate by gate, where Keras draws one matrix for all gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bilstm.config import FLAGS, from_mapping, read_toml
from bilstm.errors import UsageError
from bilstm.tasks.text_classification import Config

__all__ = ["PRESETS", "resolve_settings", "wide_settings"]

# What the tutorials' programs have in common: random vectors, last states, plain Adam, none of our regularisers.
_PLAIN: dict[str, Any] = {
    "learning_rate": 0.001,
    "schedule": "constant",
    "warmup": None,
    "clip_norm": None,
    "average_decay": None,
    "adversarial_norm": None,
    "vectors": "random",
    "min_count": 1,
    "pooling": ("last",),
    "word_dropout": 0.0,
    "embedding_dropout": 0.0,
    "dropout": 0.0,
    "patience": None,
    "batch_steps": None,
    "epsilon": 1e-7,
    "precision": "float32",
    "join_linear": False,
    "dev_share": 0.1,
    "dev_groups": False,
}

PRESETS: dict[str, dict[str, Any]] = {
    "imdb-16": {
        **_PLAIN,
        "vocabulary_size": 5_000,
        "embedding_size": 16,
        "hidden_size": 16,
        "batch_size": 512,
        "max_epochs": 12,
    },
    "imdb-16-deep": {
        **_PLAIN,
        "vocabulary_size": 5_000,
        "embedding_size": 64,
        "embedding_dropout": 0.3,
        "layer_sizes": (32, 16),
        "dropout": 0.2,
        "output_dropout": 0.0,
        "batch_size": 512,
        "max_epochs": 3,
    },
    "imdb-64": {
        **_PLAIN,
        "vocabulary_size": 10_000,
        "max_length": 200,
        "keep": "tail",
        "embedding_size": 128,
        "hidden_size": 64,
        "dropout": 0.5,
        "batch_size": 128,
        "max_epochs": 12,
    },
    "keras-docs": {
        **_PLAIN,
        "vocabulary_size": 20_000,
        "max_length": 200,
        "keep": "tail",
        "embedding_size": 128,
        "layer_sizes": (64, 64),
        "batch_size": 32,
        "max_epochs": 2,
    },
}


WIDE_SECONDS = 40 * 60


def wide_settings(seconds: float | None) -> dict[str, Any]:
    """Return sizes that a training with unlabelled texts can use in a time: more units need longer steps.

    Parameters
    ----------
    seconds : float or None
        None: no limit.
    """
    if seconds is None:
        return {"embedding_size": 300, "hidden_size": 512}
    return {"embedding_size": 128, "hidden_size": 128 if seconds < WIDE_SECONDS else 256}


def resolve_settings(
    preset: str | None, toml: str | None, flags: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> Config:
    """Merge defaults < `base` < preset < TOML file < flags.

    Raises
    ------
    UsageError
        For an unknown preset or setting, or a value that is not allowed.
    InputNotFoundError
        If the TOML file cannot be read.
    """
    settings = from_mapping(Config, dict(base or {}), "settings of the budget", Config())
    if preset is not None:
        if preset not in PRESETS:
            raise UsageError(f"--preset {preset}: not known.", f"Known are {', '.join(PRESETS)}.")
        settings = from_mapping(Config, PRESETS[preset], f"preset {preset}", settings)
    if toml is not None:
        settings = from_mapping(Config, read_toml(toml), toml, settings)
    return from_mapping(Config, flags, FLAGS, settings)
