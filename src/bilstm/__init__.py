"""Train, explain and ship bidirectional LSTM models, on a CPU, from your own files.

Names are imported when they are first used, so that `import bilstm` is fast and needs neither torch nor scikit-learn.

Examples
--------
>>> import bilstm
>>> classifier = bilstm.TextClassifier(max_epochs=3)  # doctest: +SKIP
>>> classifier.fit(texts, labels).save("model")  # doctest: +SKIP
>>> bilstm.load("model").predict(["Not bad at all."])  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bilstm.data.records import read_records
    from bilstm.estimators import TextClassifier, TextRegressor
    from bilstm.model_summary import summary
    from bilstm.nn.accelerate import accelerate
    from bilstm.sequence_tagger import SequenceTagger
    from bilstm.tasks import load

__all__ = [
    "SequenceTagger",
    "TextClassifier",
    "TextRegressor",
    "__version__",
    "accelerate",
    "load",
    "read_records",
    "summary",
]

_HOMES = {
    "SequenceTagger": "bilstm.sequence_tagger",
    "TextClassifier": "bilstm.estimators",
    "TextRegressor": "bilstm.estimators",
    "accelerate": "bilstm.nn.accelerate",
    "load": "bilstm.tasks",
    "read_records": "bilstm.data.records",
    "summary": "bilstm.model_summary",
}
_SUBPACKAGES = ("engine", "nn")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from bilstm.versions import tool_version

        return tool_version()
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"bilstm.{name}")
    raise AttributeError(f"module 'bilstm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
