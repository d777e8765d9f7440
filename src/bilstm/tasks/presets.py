"""Settings of well-known tutorial programs, by name, so that anyone can see where they end.

The layers, sizes, batches and epochs are the tutorials'; the linear baseline, the development part and early choice of
the best epoch are ours and always on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bilstm.config import FLAGS, from_mapping, read_toml
from bilstm.errors import UsageError
from bilstm.tasks.text_classification import Config

__all__ = ["PRESETS", "resolve_settings"]

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


def resolve_settings(preset: str | None, toml: str | None, flags: Mapping[str, Any]) -> Config:
    """Merge defaults < preset < TOML file < flags.

    Raises
    ------
    UsageError
        For an unknown preset or setting, or a value that is not allowed.
    InputNotFoundError
        If the TOML file cannot be read.
    """
    settings = Config()
    if preset is not None:
        if preset not in PRESETS:
            raise UsageError(f"--preset {preset}: not known.", f"Known are {', '.join(PRESETS)}.")
        settings = from_mapping(Config, PRESETS[preset], f"preset {preset}", settings)
    if toml is not None:
        settings = from_mapping(Config, read_toml(toml), toml, settings)
    return from_mapping(Config, flags, FLAGS, settings)
