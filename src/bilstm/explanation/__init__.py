"""Why a model gave its answer: attributions of words and phrases, and how true they are.

`explain(model, texts, method="auto", target=None)` takes what `bilstm.load(folder)` returns and needs no torch.
"""

from bilstm.explanation.explaining import explain
from bilstm.explanation.explanation import Explanation, Explanations, Neighbour, Phrase

__all__ = ["Explanation", "Explanations", "Neighbour", "Phrase", "explain"]
