"""A teacher for many labels: network, linear models and document vectors answer the unlabelled texts together.

With thousands of labels each of them is good, and they err in different places. Their logits are added with weights
fitted on the development part (`evaluation.joining`), which also calibrates them; a new network learns from the labels
and, with word dropout as noise, from these probabilities (Xie, Luong, Hovy, Le, Self-training with Noisy Student,
CVPR 2020; Hinton, Vinyals, Dean, Distilling the knowledge in a neural network, 2015). Imports numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.evaluation.joining import fit_joining
from bilstm.tasks.phase_documents import Documents
from bilstm.tasks.text_network import Part

__all__ = ["TeacherMargins", "joined_answers"]


@dataclass(frozen=True)
class TeacherMargins:
    """What a model says of the development texts and of the unlabelled ones, each (rows, outputs, models)."""

    dev: np.ndarray
    unlabelled: np.ndarray


def joined_answers(
    train: Part,
    dev: Part,
    unlabelled: Ragged,
    classes: int,
    networks: TeacherMargins,
    linear: TeacherMargins | None,
    documents: Documents | None,
) -> tuple[np.ndarray, str]:
    """Answer the unlabelled texts.

    Parameters
    ----------
    train, dev : Part
        With classes as targets.
    unlabelled : Ragged of int64
        Word ids.
    classes : int
        At least 2; with 2 there is one output, the logit of class 1.
    networks : TeacherMargins
        Logits: of the best one first.
    linear : TeacherMargins, optional
        Of linear models that are fitted already; without them one over n-grams is fitted here.
    documents : Documents, optional

    Returns
    -------
    ndarray of shape (texts, classes), float32
        Calibrated probabilities.
    str
        What answered, and the log loss of the best network alone and of all on the development part.
    """
    from bilstm.training.linear_teacher import document_margins, ngram_margins
    from bilstm.training.unlabelled import joined_rows

    targets = train.targets.astype(np.int64)
    count = len(targets), len(dev.targets)
    others = networks.dev.shape[-1] - 1
    parts = [TeacherMargins(networks.dev[..., 1:], networks.unlabelled[..., 1:])]
    names = ["network" if others == 0 else f"{others + 1} networks"]
    if linear is not None:
        parts.append(linear)
        names.append("linear models")
    else:
        own = ngram_margins(joined_rows(joined_rows(train.ids, dev.ids), unlabelled), targets, classes)
        parts.append(TeacherMargins(own[count[0] : sum(count), :, None], own[sum(count) :, :, None]))
        names.append("n-grams")
    if documents is not None:
        every = np.concatenate([documents.train, documents.dev, documents.unlabelled])
        own = document_margins(every, targets, classes)
        parts.append(TeacherMargins(own[count[0] : sum(count), :, None], own[sum(count) :, :, None]))
        names.append("document vectors")
    dev_margins = np.concatenate([part.dev for part in parts], axis=-1)
    own_targets = dev.targets.astype(np.int64)
    nothing = np.zeros((*dev_margins.shape[:2], 0))
    alone = fit_joining(networks.dev[..., 0], nothing, own_targets)
    joining = fit_joining(networks.dev[..., 0], dev_margins, own_targets)
    logits = joining.join(networks.unlabelled[..., 0], np.concatenate([part.unlabelled for part in parts], axis=-1))
    said = f"{names[0]}, {' and '.join(names[1:])}: development log loss {alone.loss:.4f} -> {joining.loss:.4f}"
    return _probabilities(logits).astype(np.float32), said


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """Return class probabilities (rows, classes) of logits (rows, outputs)."""
    full = np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits
    exponentials = np.exp(full - full.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
