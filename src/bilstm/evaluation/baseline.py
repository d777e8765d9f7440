"""The linear model that every trained model has to beat. Place: tokens and labels -> dev score beside the model's.

Two families, tuned on the development part, the better one kept: TF-IDF of one- and two-word n-grams, and NB-SVM
(Wang and Manning 2012, "Baselines and Bigrams", ACL) with n-grams of up to three words; each with a logistic and a
squared hinge loss. Numbers as targets get ridge regression. Imports scikit-learn and scipy inside the functions.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bilstm.data.ngrams import NgramIndex
from bilstm.data.weighed_rows import weigh
from bilstm.errors import DataError, MissingExtraError, ShapeError
from bilstm.metrics.calibration import apply_temperature, fit_temperature
from bilstm.metrics.multilabel import micro_f1
from bilstm.runtime.ngram_linear import LinearHead, NgramLinear

__all__ = ["BaselineKind", "Candidate", "LinearBaseline", "fit_linear_baseline"]

BaselineKind = Literal["classification", "multilabel", "regression"]
Family = Literal["tf-idf", "nb-svm"]
Loss = Literal["logistic", "squared hinge", "ridge"]
Grid = dict[tuple[Family, Loss], tuple[float, ...]]
TokenLists = Sequence[Sequence[str]]

MAX_TOKENS = 8_000_000  # of training text read at once: about 0.8 GiB at the peak; more rows are sampled
MAX_FULL_COST, MAX_COST = 60e6, 600e6  # matrix entries x outputs: about 2 s a candidate, 60 s a candidate
MAX_WEIGHTS = 20_000_000  # outputs x features: 160 MB a set of weights, three sets at the peak
ROWS_FOR_SINGLES = 5_000  # below this many rows n-grams that stand in one text only are kept too
MAX_ITERATIONS = 1_000
NB_SMOOTHING = 1.0  # alpha of Wang and Manning 2012, section 2.1
ORDERS: dict[Family, int] = {"tf-idf": 2, "nb-svm": 3}
NAMES: dict[Family, str] = {"tf-idf": "TF-IDF of 1-2-grams", "nb-svm": "NB-SVM of 1-3-grams"}
# Strength of the fit, larger fits closer. The grids reach past the best value on either side on films and questions.
GRID: Grid = {
    ("tf-idf", "logistic"): (3.0, 10.0, 30.0),
    ("tf-idf", "squared hinge"): (0.3, 1.0, 3.0),
    ("nb-svm", "logistic"): (0.03, 0.1, 0.3, 1.0),
    ("nb-svm", "squared hinge"): (0.003, 0.01),
}
SHORT_GRID: Grid = {
    ("tf-idf", "logistic"): (10.0,),
    ("nb-svm", "logistic"): (0.1,),
}
RIDGE_GRID = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
INTERPOLATIONS = (0.25, 0.5, 1.0)  # beta of Wang and Manning 2012, section 2.3; 1 uses the fitted weights as they are


@dataclass(frozen=True)
class Candidate:
    """One setting that was tried.

    Parameters
    ----------
    family, loss : str
    strength : float
        C of the linear model, alpha of ridge.
    interpolation : float
        Share of the fitted weights against their mean size (NB-SVM); 1 elsewhere.
    dev_score : float
        Accuracy, micro F1 or root mean squared error on the development part.
    """

    family: Family
    loss: Loss
    strength: float
    interpolation: float
    dev_score: float


@dataclass
class LinearBaseline:
    """A fitted linear model over n-grams; made by `fit_linear_baseline`.

    Attributes
    ----------
    kind : str
    chosen : Candidate
        The best on the development part, whose score is `dev_score`.
    candidates : list of Candidate
        All that were tried.
    dev_probabilities : ndarray of shape (dev rows, classes or labels); predictions (dev rows,) for regression
    seconds : float
        Wall time of fitting and tuning.
    notes : list of str
        What a reader of the score should know, for example that rows were sampled.
    """

    kind: BaselineKind
    chosen: Candidate
    candidates: list[Candidate]
    dev_probabilities: np.ndarray
    seconds: float
    notes: list[str]
    _index: NgramIndex = field(repr=False)
    _inverse_frequency: np.ndarray = field(repr=False)
    _weights: np.ndarray = field(repr=False)  # (outputs, features), the NB ratios multiplied in
    _intercepts: np.ndarray = field(repr=False)  # (outputs,)
    _spreads: np.ndarray = field(repr=False)  # (features,) standard deviation over the training rows
    _families: dict[Family, tuple[np.ndarray, np.ndarray]] = field(repr=False)  # the best of each: weights, intercepts
    _temperature: float = 1.0

    @property
    def name(self) -> str:
        """What the model is, in words."""
        return f"{NAMES[self.chosen.family]}, {self.chosen.loss} loss"

    @property
    def score_name(self) -> str:
        """Name of `dev_score`."""
        return {"classification": "accuracy", "multilabel": "micro_f1"}.get(self.kind, "root_mean_squared_error")

    @property
    def dev_score(self) -> float:
        """Score on the development part (the settings were chosen on it)."""
        return self.chosen.dev_score

    @property
    def settings(self) -> dict[str, Any]:
        """The chosen setting, ready for JSON."""
        return {
            "family": self.chosen.family,
            "loss": self.chosen.loss,
            "strength": self.chosen.strength,
            "interpolation": self.chosen.interpolation,
            "temperature": self._temperature,
            "ngrams": self._index.sizes[: ORDERS[self.chosen.family]],
            "min_rows": self._index.min_rows,
            "tried": len(self.candidates),
        }

    def predict(self, token_lists: TokenLists) -> np.ndarray:
        """Return probabilities (rows, classes), independent ones (rows, labels), or numbers (rows,)."""
        margins = [np.zeros((0, len(self._intercepts)))]
        for part in _parts(token_lists):
            counts = self._index.transform(part)
            margins.append(_features(counts, self.chosen.family, self._inverse_frequency) @ self._weights.T)
        return _probabilities(np.concatenate(margins) + self._intercepts, self.kind, self._temperature)

    def to_runtime(self) -> NgramLinear:
        """Return the best model of every family, free of scikit-learn and scipy; their margins are not calibrated."""
        most = max(ORDERS[family] for family in self._families)
        heads = tuple(
            LinearHead(
                ORDERS[family],
                weights.astype(np.float32),
                intercepts.astype(np.float64),
                self._inverse_frequency if family == "tf-idf" else None,
            )
            for family, (weights, intercepts) in self._families.items()
        )
        return NgramLinear(NgramIndex.from_arrays(*self._index.to_arrays(most)), heads)

    def telling(self, count: int = 15) -> list[list[tuple[str, float]]]:
        """Return the n-grams that speak most for each class, strongest first, each with its effect.

        Two classes: n-grams for class 0, then for class 1. Several: one list a class or label. Numbers: n-grams that
        lower the prediction, then those that raise it. The effect is weight times standard deviation of the feature
        over the training rows, so that an n-gram of two texts does not stand above one of two thousand; an n-gram
        that speaks against the class is left out.
        """
        one_output = len(self._weights) == 1 and self.kind != "multilabel"
        effects = self._weights * self._spreads
        sides = np.concatenate([-effects, effects]) if one_output else effects
        lists = []
        for effect in sides:
            top = np.argsort(-effect, kind="stable")[:count]
            top = top[effect[top] > 0]
            lists.append(list(zip(self._index.names(top), effect[top].tolist(), strict=True)))
        return lists


def fit_linear_baseline(
    token_lists: TokenLists,
    targets: np.ndarray,
    dev_token_lists: TokenLists,
    dev_targets: np.ndarray,
    kind: BaselineKind,
    num_classes: int | None = None,
    seed: int = 0,
    families: Sequence[Family] = ("tf-idf", "nb-svm"),
    choose_by: Literal["score", "loss"] = "score",
) -> LinearBaseline:
    """Fit both families on the training part, choose by the development part.

    Parameters
    ----------
    token_lists, dev_token_lists : sequences of sequences of str
        Words of each text.
    targets, dev_targets : ndarray
        (rows,) class indices, (rows, labels) of 0 and 1, or (rows,) numbers, as `kind` says.
    kind : {"classification", "multilabel", "regression"}
    num_classes : int, optional
        Classes or labels; by default as many as the training targets show.
    seed : int, default=0
        Of the solver's order and of the sample, where rows are sampled.
    families : sequence of str, default=both
        What is tried.
    choose_by : {"score", "loss"}, default="score"
        What decides on the development part: the score that the baseline is measured by, or the log loss at its best
        temperature. The loss sees more of few rows, and is what a joining gains by.

    Returns
    -------
    LinearBaseline

    Raises
    ------
    DataError
        If a part has no rows.
    ShapeError
        If targets do not fit the texts.
    MissingExtraError
        If scikit-learn is not installed.

    Notes
    -----
    Training text beyond 8 million words, or rows x outputs too many to fit in a minute, are sampled; `notes` says so.
    """
    started = time.perf_counter()
    targets, dev_targets = np.asarray(targets), np.asarray(dev_targets)
    _check_parts(token_lists, targets, dev_token_lists, dev_targets, kind)
    if kind == "classification" and num_classes is None:
        num_classes = int(max(targets.max(), dev_targets.max())) + 1
    columns = _output_columns(targets, kind, num_classes)
    notes: list[str] = []
    rows = _sampled_rows(token_lists, columns.shape[1], seed, notes)
    token_lists, columns = [token_lists[row] for row in map(int, rows)], columns[rows]
    max_order = ORDERS["tf-idf"] if kind == "regression" else ORDERS["nb-svm"]
    index, counts = _indexed(token_lists, max_order, columns.shape[1])
    dev_counts = index.transform(dev_token_lists)
    inverse_frequency = _inverse_frequency(counts, len(rows))
    grid = _grid(kind, sum(matrix.nnz for matrix in counts) * columns.shape[1], notes)
    best, candidates = _best(
        {setting: strengths for setting, strengths in grid.items() if setting[0] in families},
        lambda family: (_features(counts, family, inverse_frequency), _features(dev_counts, family, inverse_frequency)),
        columns,
        dev_targets,
        kind,
        seed,
        choose_by,
    )
    _, chosen, weights, intercepts = max(best.values(), key=lambda found: found[0])
    margins = _features(dev_counts, chosen.family, inverse_frequency) @ weights.T + intercepts
    temperature = 1.0 if kind == "regression" else fit_temperature(_logits(margins, kind), dev_targets).value
    return LinearBaseline(
        kind=kind,
        chosen=chosen,
        candidates=candidates,
        dev_probabilities=_probabilities(margins, kind, temperature),
        seconds=time.perf_counter() - started,
        notes=notes,
        _index=index,
        _inverse_frequency=inverse_frequency,
        _weights=weights,
        _intercepts=intercepts,
        _spreads=_spreads(_features(counts, chosen.family, inverse_frequency)),
        _families={family: (found[2], found[3]) for family, found in best.items()},
        _temperature=temperature,
    )


_Fitted = tuple[tuple[float, float], Candidate, np.ndarray, np.ndarray]  # rank, setting, weights, intercepts


def _grid(kind: BaselineKind, cost: int, notes: list[str]) -> Grid:
    """Return the settings to try; `cost` is matrix entries x outputs."""
    if kind == "regression":
        return {("tf-idf", "ridge"): RIDGE_GRID}
    if cost > MAX_FULL_COST:
        notes.append("Large data: one setting of each family was tried, not the whole grid.")
        return SHORT_GRID
    return GRID


def _best(
    grid: Grid,
    features_of: Callable[[Family], tuple[Any, Any]],
    columns: np.ndarray,
    dev_targets: np.ndarray,
    kind: BaselineKind,
    seed: int,
    choose_by: Literal["score", "loss"],
) -> tuple[dict[Family, _Fitted], list[Candidate]]:
    """Try the grid; return the best of each family, and all candidates."""
    best: dict[Family, _Fitted] = {}
    candidates: list[Candidate] = []
    families: dict[Family, None] = {family: None for family, _ in grid}
    for family in families:
        train, dev = features_of(family)
        for weights, intercepts, candidate, loss in _tried(family, grid, train, columns, dev, dev_targets, kind, seed):
            candidates.append(candidate)
            score = -candidate.dev_score if kind == "regression" else candidate.dev_score
            rank = (score, -loss) if choose_by == "score" else (-loss, score)
            if family not in best or rank > best[family][0]:
                best[family] = (rank, candidate, weights, intercepts)
    return best, candidates


def _tried(
    family: Family,
    grid: Grid,
    train: Any,
    columns: np.ndarray,
    dev: Any,
    dev_targets: np.ndarray,
    kind: BaselineKind,
    seed: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, Candidate, float]]:
    """Yield weights (outputs, features), intercepts (outputs,), the candidate and its dev loss for every setting."""
    num_outputs = columns.shape[1]
    scales = [_nb_ratios(train, columns[:, k]) if family == "nb-svm" else None for k in range(num_outputs)]
    inputs = [train if scale is None else _scaled(train, scale) for scale in scales[:1]]  # one output: scaled once
    for (other, loss), strengths in grid.items():
        for strength in strengths if other == family else ():
            fitted, intercepts = np.zeros((num_outputs, train.shape[1])), np.zeros(num_outputs)
            for k, scale in enumerate(scales):
                matrix = inputs[0] if k == 0 or scale is None else _scaled(train, scale)
                fitted[k], intercepts[k] = _fit_one(matrix, columns[:, k], loss, strength, seed)
            for interpolation in INTERPOLATIONS if family == "nb-svm" else (1.0,):
                # section 2.3: w' = (1 - beta) * mean |w| + beta * w, over features already multiplied by their ratio
                weights = interpolation * fitted
                if interpolation < 1:
                    weights += (1 - interpolation) * np.abs(fitted).sum(axis=1, keepdims=True) / max(1, fitted.shape[1])
                if family == "nb-svm":
                    weights *= np.stack([scale for scale in scales if scale is not None])
                margins = dev @ weights.T + intercepts
                score, dev_loss = _dev_score(margins, dev_targets, kind)
                yield weights, intercepts, Candidate(family, loss, strength, interpolation, score), dev_loss


def _fit_one(matrix: Any, column: np.ndarray, loss: Loss, strength: float, seed: int) -> tuple[np.ndarray, float]:
    """Fit one output. matrix (rows, features), column (rows,) -> weights (features,), intercept."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise MissingExtraError(
            "The linear baseline needs scipy and scikit-learn.", "pip install 'bilstm[train]'"
        ) from error
    if loss == "ridge" and matrix.shape[1] == 0:
        return np.zeros(0), float(column.mean())
    if loss != "ridge" and (matrix.shape[1] == 0 or column.all() or not column.any()):
        # nothing to learn from: the log odds of the class, half a row added to each side
        positives = float(column.sum())
        return np.zeros(matrix.shape[1]), float(np.log((positives + 0.5) / (len(column) - positives + 0.5)))
    model: Any
    if loss == "ridge":
        model = Ridge(alpha=strength, solver="sparse_cg", tol=1e-4)
    elif loss == "logistic":
        model = LogisticRegression(
            C=strength, solver="liblinear", dual=True, max_iter=MAX_ITERATIONS, random_state=seed
        )
    else:
        model = LinearSVC(C=strength, loss="squared_hinge", max_iter=MAX_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        # a candidate stopped early is still a candidate: it is judged by its dev score like the others
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(matrix, column)
    return np.asarray(model.coef_).reshape(-1), float(np.asarray(model.intercept_).reshape(-1)[0])


def _nb_ratios(presence: Any, column: np.ndarray) -> np.ndarray:
    """Return r = ln((p / |p|_1) / (q / |q|_1)), p and q smoothed counts of rows by side. -> (features,).

    Wang and Manning 2012, section 2.1, with binary features as in section 2.3.
    """
    is_positive = column.astype(bool)
    above = NB_SMOOTHING + np.asarray(presence[is_positive].sum(axis=0)).reshape(-1)
    below = NB_SMOOTHING + np.asarray(presence[~is_positive].sum(axis=0)).reshape(-1)
    return np.log(above / above.sum()) - np.log(below / below.sum())


def _scaled(matrix: Any, scale: np.ndarray) -> Any:
    """Return the csr matrix with column j multiplied by scale[j], sharing the pattern of entries."""
    from scipy import sparse

    return sparse.csr_matrix((matrix.data * scale[matrix.indices], matrix.indices, matrix.indptr), shape=matrix.shape)


def _inverse_frequency(counts: list[Any], num_rows: int) -> np.ndarray:
    """Return ln((1 + rows) / (1 + rows with the n-gram)) + 1 for TF-IDF's n-grams (Salton and Buckley 1988)."""
    used = counts[: ORDERS["tf-idf"]]
    frequency = np.concatenate([np.bincount(matrix.indices, minlength=matrix.shape[1]) for matrix in used])
    return np.log((1 + num_rows) / (1 + frequency)) + 1


def _features(counts: list[Any], family: Family, inverse_frequency: np.ndarray) -> Any:
    """Return what a family sees of the counts, csr (rows, features).

    TF-IDF: (1 + ln count) * inverse frequency, each row divided by its length. NB-SVM: 1 where the n-gram occurs.
    """
    from scipy import sparse

    joined: Any = sparse.hstack(counts[: ORDERS[family]], format="csr")
    if family == "nb-svm":
        joined.data[:] = 1.0
        return joined
    return weigh(joined, inverse_frequency)


def _spreads(matrix: Any) -> np.ndarray:
    """Return the standard deviation of each column of a csr matrix. -> (features,)."""
    totals = np.bincount(matrix.indices, weights=matrix.data, minlength=matrix.shape[1])
    squares = np.bincount(matrix.indices, weights=matrix.data**2, minlength=matrix.shape[1])
    return np.sqrt(np.maximum(squares / matrix.shape[0] - (totals / matrix.shape[0]) ** 2, 0.0))


def _dev_score(margins: np.ndarray, targets: np.ndarray, kind: BaselineKind) -> tuple[float, float]:
    """Return the score by which candidates are compared, and a loss for ties (lower is better)."""
    if kind == "regression":
        error = float(np.sqrt(np.mean((margins[:, 0] - targets) ** 2)))
        return error, error
    logits = _logits(margins, kind)
    loss = fit_temperature(logits, targets).loss_after
    if kind == "multilabel":
        return micro_f1(targets, logits > 0), loss
    predicted = (logits > 0).astype(np.int64) if logits.ndim == 1 else logits.argmax(axis=1)
    return float(np.mean(predicted == targets)), loss


def _logits(margins: np.ndarray, kind: BaselineKind) -> np.ndarray:
    return margins[:, 0] if kind == "classification" and margins.shape[1] == 1 else margins


def _probabilities(margins: np.ndarray, kind: BaselineKind, temperature: float) -> np.ndarray:
    """Turn margins (rows, outputs) into what `predict` returns."""
    if kind == "regression":
        return margins[:, 0]
    probabilities = apply_temperature(_logits(margins, kind), temperature, multilabel=kind == "multilabel")
    return np.stack([1 - probabilities, probabilities], axis=1) if probabilities.ndim == 1 else probabilities


def _output_columns(targets: np.ndarray, kind: BaselineKind, num_classes: int | None) -> np.ndarray:
    """Return one column per linear model: class 1 of two, each class against the rest, each label, or the number."""
    if kind == "regression":
        return targets.astype(np.float64)[:, None]
    if kind == "multilabel":
        return targets.astype(bool)
    assert num_classes is not None  # set by the caller for classification
    if num_classes < 2:
        raise DataError("A classifier needs at least two classes, and the training part has one.")
    return (targets == 1)[:, None] if num_classes == 2 else targets[:, None] == np.arange(num_classes)


def _check_parts(
    token_lists: TokenLists,
    targets: np.ndarray,
    dev_token_lists: TokenLists,
    dev_targets: np.ndarray,
    kind: BaselineKind,
) -> None:
    for part, texts, labels in (
        ("training", token_lists, targets),
        ("development", dev_token_lists, dev_targets),
    ):
        if len(texts) == 0:
            raise DataError(f"The linear baseline needs rows in the {part} part, and there are none.")
        if len(texts) != len(labels) or labels.ndim != (2 if kind == "multilabel" else 1):
            raise ShapeError(f"{part} part: targets of shape {labels.shape} do not fit {len(texts)} texts ({kind}).")


def _sampled_rows(token_lists: TokenLists, num_outputs: int, seed: int, notes: list[str]) -> np.ndarray:
    """Return the rows to fit on, in order: all, or a seeded sample that keeps memory and time within their limits."""
    lengths = np.array([len(tokens) for tokens in token_lists], dtype=np.int64)
    # a text has about two distinct n-grams of kept orders per word
    limit = min(MAX_TOKENS, MAX_COST / (2 * num_outputs))
    if lengths.sum() <= limit:
        return np.arange(len(lengths))
    order = np.random.default_rng(seed).permutation(len(lengths))
    kept = max(1, int(np.searchsorted(np.cumsum(lengths[order]), limit, side="right")))
    notes.append(f"Fitted on a random {kept:,} of {len(lengths):,} training rows, to keep memory and time small.")
    return np.sort(order[:kept])


def _indexed(token_lists: TokenLists, max_order: int, num_outputs: int) -> tuple[NgramIndex, list[Any]]:
    """Return the index and its counts; rare n-grams are left out where outputs x features would not fit in memory."""
    min_rows = 1 if len(token_lists) < ROWS_FOR_SINGLES else 2
    while True:
        index = NgramIndex(max_order, min_rows)
        counts = index.fit_transform(token_lists)
        if sum(index.sizes) * num_outputs <= MAX_WEIGHTS:
            return index, counts
        min_rows *= 2


def _parts(token_lists: TokenLists, rows: int = 4096) -> Iterator[TokenLists]:
    for start in range(0, len(token_lists), rows):
        yield token_lists[start : start + rows]
