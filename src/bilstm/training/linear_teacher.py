"""A linear teacher for few labels: what linear models make of a few labelled texts and many unlabelled ones.

Place in the way of the data: ids of labelled and unlabelled texts, word vectors -> an answer to every text and how sure
it is -> labels for the network. Two steps:

1. Short descriptions of each text need no labels: its document vector (`document_vectors.py`) where there is one, the
   mean of its word vectors, and its place in a latent space of a few dimensions ([1]_, by the randomised decomposition
   of [2]_). A logistic regression reads each, and their sum answers. So few numbers are learned from the labels that a
   hundred of them say much.
2. The surer part of the answers become labels of a ridge regression over one- and two-word n-grams ([3]_), and of one
   over the document vectors; the sum of both answers the texts anew, a few times over ([4]_: two descriptions that
   teach each other). N-grams say more than the short descriptions do, but only to a model that has seen thousands of
   texts.

Imports numpy; scipy and scikit-learn inside the functions.

References
----------
.. [1] S. Deerwester, S. Dumais, G. Furnas, T. Landauer, R. Harshman, Indexing by latent semantic analysis, JASIS 1990.
.. [2] N. Halko, P.-G. Martinsson, J. Tropp, Finding structure with randomness, SIAM Review 2011, algorithm 4.4.
.. [3] D. Yarowsky, Unsupervised word sense disambiguation rivaling supervised methods, ACL 1995.
.. [4] A. Blum, T. Mitchell, Combining labeled and unlabeled data with co-training, COLT 1998.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bilstm.data.ragged import Ragged
from bilstm.data.weighed_rows import weigh
from bilstm.errors import MissingExtraError
from bilstm.training.ridge import sparse_ridge
from bilstm.training.self_training import PseudoLabels, choose_pseudo_labels

__all__ = [
    "NgramFeatures",
    "TaughtNgrams",
    "Teaching",
    "ask_linear_teacher",
    "document_margins",
    "ngram_features",
    "ngram_margins",
    "pseudo_labels",
    "short_descriptions",
]

LATENT_SIZE = 20
POWER_STEPS = 4  # of [2]
VIEW_STRENGTHS = (1.0, 1.0)  # C of the logistic regressions: mean word vectors, latent space
MEAN_NORM = 3.0  # of a text's standardised mean of word vectors, about
DOCUMENT_STRENGTH, MANY_LABELS_STRENGTH = 1.0, 10.0  # C of those over document vectors, with few labels and with many
DOCUMENT_WEIGHT = 2.0  # of their answers beside the two others'
TAUGHT_SHARE = 0.7  # of all texts, those answered most surely
ROUNDS, DOCUMENT_ROUNDS = 3, 4  # without and with document vectors
RIDGE = 1.0
SOLVER_STEPS = 20
LABELLED_WEIGHT = 1_000.0  # of all labelled texts together, at least: that of as many taught ones
MOST_SURE = 30.0  # spreads from the border: beyond it nothing is surer
RARE_SHARE, FEWEST_TEXTS, MOST_NEEDED = 1 / 4_000, 2, 20  # an n-gram needs this share of the texts, within bounds


@dataclass(frozen=True)
class TaughtNgrams:
    """The linear model of the last round, in the form of `runtime.ngram_linear`.

    Parameters
    ----------
    words : ndarray of shape (words,), int64
        Word ids of the one-word n-grams, rising.
    pairs : ndarray of shape (pairs,), int64
        (place of the first word in `words`) * number of words + place of the second, rising.
    inverse_frequency : ndarray of shape (words + pairs,), float64
    weights : ndarray of shape (outputs, words + pairs), float32
    intercepts : ndarray of shape (outputs,), float64
        With two classes margins are counted from the border, in spreads of the unlabelled texts.
    """

    words: np.ndarray
    pairs: np.ndarray
    inverse_frequency: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray


@dataclass(frozen=True)
class Teaching:
    """What a linear teacher says.

    Parameters
    ----------
    answers : ndarray of shape (texts, classes), float64
        Probabilities; they rise with the sureness, but are not calibrated.
    model : TaughtNgrams
    """

    answers: np.ndarray
    model: TaughtNgrams


@dataclass(frozen=True)
class NgramFeatures:
    """TF-IDF of texts, csr matrix (texts, words + pairs), float32; the other fields as in `TaughtNgrams`."""

    matrix: Any
    words: np.ndarray
    pairs: np.ndarray
    inverse_frequency: np.ndarray


def ask_linear_teacher(
    texts: Ragged,
    targets: np.ndarray,
    classes: int,
    vectors: np.ndarray,
    *,
    documents: np.ndarray | None = None,
    seed: int = 0,
) -> Teaching:
    """Answer all texts after learning from the first ones' labels and from the others as they are.

    Parameters
    ----------
    texts : Ragged of int64
        Word ids; 0 is the unknown word. The labelled texts stand first.
    targets : ndarray of shape (labelled,), int64
        Classes of the first texts, each class at least once.
    classes : int
        At least 2.
    vectors : ndarray of shape (vocabulary, size), float
        Word vectors that were learned without labels.
    documents : ndarray of shape (texts, size), float, optional
        Document vectors of all texts, rows of norm 1.
    seed : int, default=0
        Of the randomised decomposition.

    Returns
    -------
    Teaching
        Equal arguments give equal answers.

    Raises
    ------
    MissingExtraError
        If scipy or scikit-learn is not installed.
    """
    labelled = len(targets)
    signs = _signs(targets, classes)
    shares = np.bincount(targets, minlength=classes) / labelled
    scores = np.zeros((len(texts), signs.shape[1]))
    for view, strength in zip(short_descriptions(texts, vectors, seed=seed), VIEW_STRENGTHS, strict=True):
        scores += _of_one_spread(_logistic(view, signs, strength), labelled)
    if documents is not None:
        documents = _centred(documents)
        scores += DOCUMENT_WEIGHT * _of_one_spread(_logistic(documents, signs, DOCUMENT_STRENGTH), labelled)
    features = ngram_features(texts)
    for _ in range(ROUNDS if documents is None else DOCUMENT_ROUNDS):
        found = pseudo_labels(_probabilities(_margins(scores, shares, labelled)[0])[labelled:], shares)
        rows = np.concatenate([np.arange(labelled), labelled + found.rows])
        columns = np.concatenate([signs, _signs(found.targets, classes)])
        importance = np.ones(len(rows))
        importance[:labelled] = max(1.0, LABELLED_WEIGHT / labelled)
        weights = sparse_ridge(features.matrix[rows], columns, importance, RIDGE, SOLVER_STEPS)
        scores = ngram_scores = features.matrix @ weights.T
        if documents is not None:
            own = _dense_ridge(documents, rows, columns, importance)
            scores = _of_one_spread(ngram_scores, labelled) + _of_one_spread(own, labelled)
    _, scale, shift = _margins(ngram_scores, shares, labelled)
    model = TaughtNgrams(
        features.words,
        features.pairs,
        features.inverse_frequency,
        np.asarray(weights / scale, dtype=np.float32),
        np.full(len(weights), -shift / scale),
    )
    return Teaching(_probabilities(_margins(scores, shares, labelled)[0]), model)


def document_margins(documents: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    """Answer all texts by their document vectors (texts, size), after learning from the first ones' many labels.

    Returns margins (texts, 1) of class 1 of two, else (texts, classes), each class against the rest.
    """
    return _logistic(_centred(documents), _signs(targets, classes), MANY_LABELS_STRENGTH)


def ngram_margins(texts: Ragged, targets: np.ndarray, classes: int) -> np.ndarray:
    """Answer all texts by their n-grams, after learning from the first ones' labels; see `document_margins`."""
    signs = _signs(targets, classes)
    features = ngram_features(texts).matrix
    return features @ sparse_ridge(features[: len(signs)], signs, np.ones(len(signs)), RIDGE, SOLVER_STEPS).T


def pseudo_labels(answers: np.ndarray, shares: np.ndarray) -> PseudoLabels:
    """Choose the surer part of the answers (rows, classes), each class in its share among the labelled texts."""
    return choose_pseudo_labels(answers, shares, share=TAUGHT_SHARE, threshold=0.0)


def short_descriptions(texts: Ragged, vectors: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Describe each text in two short ways that need no labels.

    Parameters
    ----------
    texts : Ragged of int64
    vectors : ndarray of shape (vocabulary, size)
    seed : int, default=0

    Returns
    -------
    ndarray of shape (texts, size), float32
        Mean of the word vectors, words weighed by 1 + ln of how often they stand in the text; each feature with mean 0
        and the same spread over the texts.
    ndarray of shape (texts, dimensions), float32
        Place in the latent space of word TF-IDF, at most 20 dimensions; each text of norm 1 before the mean of all is
        taken away.
    """
    counts = _word_counts(texts, len(vectors))
    equal = np.ones(len(vectors), dtype=np.float32)
    means = weigh(counts.copy(), equal) @ vectors.astype(np.float32)
    spread = np.maximum(means.std(axis=0), 1e-12)
    means = (means - means.mean(axis=0)) / spread * np.float32(MEAN_NORM / np.sqrt(vectors.shape[1]))
    places = _latent(weigh(counts, _inverse_frequency(counts).astype(np.float32)), seed)
    norms = np.sqrt((places**2).sum(axis=1, keepdims=True))
    places = places / np.maximum(norms, 1e-12)
    return means.astype(np.float32), (places - places.mean(axis=0)).astype(np.float32)


def ngram_features(texts: Ragged) -> NgramFeatures:
    """Return TF-IDF of one- and two-word n-grams, rows of norm 1.

    (1 + ln count) times ln(texts / texts with the n-gram); n-grams of very few texts, and those with unknown words, are
    left out.
    """
    from scipy import sparse

    needed = int(np.clip(len(texts) * RARE_SHARE, FEWEST_TEXTS, MOST_NEEDED))
    rows = np.repeat(np.arange(len(texts)), texts.lengths)
    values = texts.values
    known = values > 0
    width = int(values.max(initial=0)) + 1
    words, counts = _frequent(values[known], rows[known], len(texts), needed)
    is_pair = (rows[1:] == rows[:-1]) & known[1:] & known[:-1]
    pairs, pair_counts = _frequent(
        values[:-1][is_pair] * width + values[1:][is_pair], rows[:-1][is_pair], len(texts), needed
    )
    joined = sparse.hstack([counts, pair_counts], format="csr")
    frequency = _inverse_frequency(joined)
    places = np.searchsorted(words, np.stack(np.divmod(pairs, width)))  # words of a frequent pair are frequent
    return NgramFeatures(
        weigh(joined, frequency.astype(np.float32)), words, places[0] * len(words) + places[1], frequency
    )


def _frequent(keys: np.ndarray, rows: np.ndarray, count: int, needed: int) -> tuple[np.ndarray, Any]:
    """Return keys that stand in enough rows, rising, and how often in each, csr (count, keys), float32."""
    from scipy import sparse

    different, numbers, often = np.unique(keys, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(often >= needed)  # in as many rows at most; the rest goes below
    place = np.full(len(different), -1)
    place[kept] = np.arange(len(kept))
    columns = place[numbers]
    chosen = columns >= 0
    ones = np.ones(int(chosen.sum()), dtype=np.float32)
    matrix = sparse.csr_array((ones, (rows[chosen], columns[chosen])), shape=(count, len(kept)))
    enough = np.flatnonzero(np.bincount(matrix.indices, minlength=len(kept)) >= needed)
    return different[kept[enough]], matrix[:, enough]


def _word_counts(texts: Ragged, width: int) -> Any:
    """Return how often each known word stands in each text, csr (texts, width), float32."""
    from scipy import sparse

    known = texts.values > 0
    rows = np.repeat(np.arange(len(texts)), texts.lengths)[known]
    ones = np.ones(len(rows), dtype=np.float32)
    return sparse.csr_array((ones, (rows, texts.values[known])), shape=(len(texts), width))


def _inverse_frequency(counts: Any) -> np.ndarray:
    """Return ln(rows / rows that have it) of each column."""
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    return np.log(counts.shape[0] / np.maximum(frequency, 1))


def _latent(matrix: Any, seed: int) -> np.ndarray:
    """Return the rows' places along the strongest right singular vectors of a csr matrix (rows, columns)."""
    size = min(LATENT_SIZE, *matrix.shape)
    wide = min(size + 10, *matrix.shape)
    across = matrix.T.tocsr()
    basis = np.random.default_rng(seed).standard_normal((matrix.shape[1], wide)).astype(np.float32)
    for _ in range(POWER_STEPS + 1):
        found, _ = np.linalg.qr(matrix @ basis)
        basis, _ = np.linalg.qr(across @ found)  # (columns, wide)
    projected = matrix @ basis
    _, _, turned = np.linalg.svd(projected, full_matrices=False)
    return projected @ turned[:size].T


def _signs(targets: np.ndarray, classes: int) -> np.ndarray:
    """Return 1 and -1: class 1 against class 0, or each class against the rest. -> (rows, 1 or classes)."""
    wanted = np.array([1]) if classes == 2 else np.arange(classes)
    return np.where(targets[:, None] == wanted, 1.0, -1.0)


def _logistic(view: np.ndarray, signs: np.ndarray, strength: float) -> np.ndarray:
    """Fit one regression a column to the first rows; return its margins of all rows."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtraError(
            "The linear teacher needs scipy and scikit-learn.", "pip install 'bilstm[train]'"
        ) from error
    margins = []
    for column in signs.T:
        model = LogisticRegression(C=strength, max_iter=1_000)
        model.fit(view[: len(signs)], column)
        margins.append(model.decision_function(view))
    return np.stack(margins, axis=1)


def _dense_ridge(view: np.ndarray, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Fit weighted least squares with a ridge over a view (texts, size) to rows of it; return answers to all texts."""
    full = np.concatenate([view, np.ones((len(view), 1), dtype=view.dtype)], axis=1).astype(np.float64)
    own = full[rows]
    square = (own * weights[:, None]).T @ own + RIDGE * np.eye(full.shape[1])
    return full @ np.linalg.solve(square, own.T @ (weights[:, None] * columns))


def _centred(documents: np.ndarray) -> np.ndarray:
    return (documents - documents.mean(axis=0)).astype(np.float32)


def _of_one_spread(scores: np.ndarray, labelled: int) -> np.ndarray:
    """Divide scores (texts, outputs) by their spread over the unlabelled texts."""
    return scores / np.maximum(scores[labelled:].std(axis=0), 1e-12)


def _margins(scores: np.ndarray, shares: np.ndarray, labelled: int) -> tuple[np.ndarray, float, float]:
    """Return (scores - shift) / scale, scale and shift; scores (rows, 1 or classes), the labelled rows first.

    With two classes the border lies where the unlabelled texts have the classes in their shares: a teacher that leans
    to one class would lean further at each round.
    """
    rest = scores[labelled:]
    scale = max(float(rest.std()), 1e-12)
    shift = float(np.quantile(rest, 1 - shares[1])) if scores.shape[1] == 1 else 0.0
    return (scores - shift) / scale, scale, shift


def _probabilities(margins: np.ndarray) -> np.ndarray:
    """Turn margins (rows, 1 or classes) into something like probabilities (rows, classes)."""
    if margins.shape[1] > 1:
        exponentials = np.exp(margins - margins.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)
    positive = 1 / (1 + np.exp(-np.clip(margins, -MOST_SURE, MOST_SURE)))
    return np.concatenate([1 - positive, positive], axis=1)
