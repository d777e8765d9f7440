"""Text models with scikit-learn's conventions: `TextClassifier` and `TextRegressor` over lists of strings.

They work inside `GridSearchCV`, `cross_val_score` and `Pipeline`. The parameters are the fields of
`tasks.text_classification.Config` (`seed` is called `random_state` here); a test holds both lists equal. Needs
scikit-learn and, to fit, torch; a saved model is loaded without either by `bilstm.load`.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bilstm.config import from_mapping
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.errors import MissingExtraError, UsageError
from bilstm.tasks.text_classification import Config, TextModel, Texts

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import DataConversionWarning, NotFittedError
    from sklearn.utils.multiclass import type_of_target
except ImportError as error:
    raise MissingExtraError("TextClassifier needs scikit-learn.", "pip install 'bilstm[train]'") from error

__all__ = ["TextClassifier", "TextRegressor"]


class _TextEstimator(BaseEstimator):
    """Shared half: parameters, input checks, saving.

    Parameters
    ----------
    random_state : int, RandomState or None, default=0
        Seed of weights, order, masks and the development part. None is 0: equal data give equal models.
    max_epochs, batch_size, ... :
        The settings of `bilstm train`, with the same names and defaults; `bilstm train --help` describes each one.
    verbose : bool, default=False
        Show progress on standard error.

    Attributes
    ----------
    model_ : TextModel
        What predicts; free of torch.
    history_ : tuple of EpochRow
        Loss and score of each epoch, on the training and the development part.
    best_epoch_ : int
        Epoch whose weights are kept.
    dev_metrics_ : dict
        Scores on the development part.
    """

    def __init__(
        self,
        *,
        random_state: int = 0,
        max_epochs: int | None = None,
        batch_size: int = 64,
        batch_steps: int | None = 12000,
        learning_rate: float = 0.002,
        schedule: Literal["constant", "linear", "cosine", "one-cycle"] = "linear",
        warmup: float | None = 0.05,
        optimizer: Literal["adam", "adamw"] = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-08,
        weight_decay: float = 0.0,
        clip_norm: float | None = 1.0,
        patience: int | None = 3,
        average_decay: float | None = 0.998,
        adversarial_norm: float | None = None,
        class_weights: Literal["none", "balanced"] = "none",
        label_smoothing: float = 0.0,
        threads: int | None = None,
        backend: Literal["auto", "engine", "torch", "reference"] = "auto",
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        checkpoint_minutes: float | None = 5.0,
        checkpoint_steps: int | None = None,
        tokenizer: Literal["words", "characters", "byte-pairs"] = "words",
        lowercase: bool = True,
        vocabulary_size: int = 30000,
        min_count: int = 2,
        max_length: int | None = None,
        keep: Literal["head", "tail", "both"] = "head",
        dev_share: float | None = None,
        dev_groups: bool = True,
        embedding_size: int = 128,
        vectors: Literal["in-domain", "random"] = "in-domain",
        vector_epochs: int = 5,
        subwords: bool | None = None,
        convolution_size: int | None = None,
        kernel_size: int = 3,
        cell: Literal["lstm", "gru", "rnn", "none"] = "lstm",
        hidden_size: int = 128,
        num_layers: int = 1,
        layer_sizes: tuple[int, ...] | None = None,
        bidirectional: bool = True,
        merge_mode: Literal["concat", "sum", "mul", "ave"] = "concat",
        pooling: tuple[str, ...] = ("max", "mean"),
        dense_size: int | None = None,
        word_dropout: float | None = None,
        embedding_dropout: float = 0.2,
        dropout: float = 0.5,
        output_dropout: float | None = None,
        variational_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        layer_decay: float = 1.0,
        gradual_unfreezing: bool = False,
        members: int = 1,
        phases: tuple[str, ...] = ("language-model", "linear-teacher", "joined-teacher", "mixed", "self-training"),
        join_linear: bool = True,
        verbose: bool = False,
    ):
        self.random_state = random_state
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.batch_steps = batch_steps
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.warmup = warmup
        self.optimizer = optimizer
        self.betas = betas
        self.epsilon = epsilon
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.patience = patience
        self.average_decay = average_decay
        self.adversarial_norm = adversarial_norm
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing
        self.threads = threads
        self.backend = backend
        self.precision = precision
        self.checkpoint_minutes = checkpoint_minutes
        self.checkpoint_steps = checkpoint_steps
        self.tokenizer = tokenizer
        self.lowercase = lowercase
        self.vocabulary_size = vocabulary_size
        self.min_count = min_count
        self.max_length = max_length
        self.keep = keep
        self.dev_share = dev_share
        self.dev_groups = dev_groups
        self.embedding_size = embedding_size
        self.vectors = vectors
        self.vector_epochs = vector_epochs
        self.subwords = subwords
        self.convolution_size = convolution_size
        self.kernel_size = kernel_size
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.layer_sizes = layer_sizes
        self.bidirectional = bidirectional
        self.merge_mode = merge_mode
        self.pooling = pooling
        self.dense_size = dense_size
        self.word_dropout = word_dropout
        self.embedding_dropout = embedding_dropout
        self.dropout = dropout
        self.output_dropout = output_dropout
        self.variational_dropout = variational_dropout
        self.weight_dropout = weight_dropout
        self.layer_decay = layer_decay
        self.gradual_unfreezing = gradual_unfreezing
        self.members = members
        self.phases = phases
        self.join_linear = join_linear
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.non_deterministic = False
        return tags

    def _config(self) -> Config:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Config) if field.name != "seed"}
        random_state = self.random_state
        if isinstance(random_state, np.random.RandomState):
            random_state = int(random_state.randint(2**31 - 1))
        return from_mapping(
            Config, {**values, "seed": 0 if random_state is None else random_state}, type(self).__name__
        )

    def _fit(
        self,
        texts: Texts,
        targets: np.ndarray,
        labels: LabelSet,
        valid: tuple[Texts, np.ndarray] | None,
        unlabelled: Texts | None,
        budget: float | None,
    ) -> None:
        from bilstm.tasks.text_training import Unlabelled, fit
        from bilstm.training.budget import Budget
        from bilstm.training.progress import ProgressPrinter

        with ProgressPrinter("auto" if self.verbose else "silent") as progress:
            config = self._config()
            further = None
            if unlabelled is not None:
                further = Unlabelled(unlabelled, Budget(None if budget is None else 60.0 * budget))
            outcome = fit(
                texts,
                targets,
                labels,
                config,
                valid=valid,
                baseline=config.join_linear,
                unlabelled=further,
                progress=progress,
            )
        self.model_: TextModel = outcome.model
        self.history_ = outcome.result.history
        self.best_epoch_ = outcome.result.best_epoch
        self.dev_metrics_ = outcome.dev_metrics

    def _fitted(self) -> TextModel:
        if not hasattr(self, "model_"):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet. Call fit(texts, labels) first.")
        return self.model_

    def explain(self, X: str | Texts, method: str = "auto", target: Any = None, *, phrases: bool = False) -> Any:
        """Say which words and phrases made the answers.

        Parameters
        ----------
        X : str, or sequence of str
        method : str, default="auto"
        target : class, sequence of classes, "all", optional
            By default the most probable class of each text.
        phrases : bool, default=False
            Also the tree of phrases of each text.

        Returns
        -------
        Explanation
            Of a single text; `Explanations` of several. See `bilstm.explanation.explain`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        UsageError
            For an unknown method or class.
        """
        names = target if target is None or isinstance(target, str) else _class_names(target)
        return self._fitted().explain(X if isinstance(X, str) else _checked_texts(X), method, names, phrases=phrases)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model as a folder that `bilstm.load` and the command line read; return its path.

        Raises
        ------
        NotFittedError
            Before `fit`.
        OutputError, WriteFailedError
            If the folder cannot be written; see `bilstm.model_folder.save_model`.
        """
        return self._fitted().save(
            folder, settings=self._config(), metrics={"dev": self.dev_metrics_}, overwrite=overwrite
        )


class TextClassifier(ClassifierMixin, _TextEstimator):
    """Classify texts by a bidirectional LSTM.

    Labels may be strings or numbers of two or more classes, or an indicator matrix of several labels per text.

    Attributes
    ----------
    classes_ : ndarray
        Classes in the order of the columns of `predict_proba`.

    Examples
    --------
    >>> from bilstm import TextClassifier
    >>> classifier = TextClassifier(max_epochs=5, hidden_size=32)
    >>> classifier.fit(["good film", "bad film"] * 20, ["pos", "neg"] * 20).predict(["good film"]).tolist()
    ['pos']
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(
        self,
        X: Texts,
        y: Any,
        *,
        valid: tuple[Texts, Any] | None = None,
        unlabelled: Texts | None = None,
        budget: float | None = 60.0,
    ) -> TextClassifier:
        """Train on texts and their labels.

        Parameters
        ----------
        X : sequence of str, shape (rows,)
            Or a Ragged of word ids.
        y : array-like of shape (rows,), or (rows, labels) of 0 and 1
        valid : (texts, labels), optional
            Part that chooses the epoch; by default a stratified share of the rows, see `dev_groups`.
        unlabelled : sequence of str, or Ragged, optional
            Further texts to learn from.
        budget : float or None, default=60.0
            Time for everything where there are unlabelled texts, in minutes. None: no limit.

        Raises
        ------
        UsageError
            If X is not a list of texts, or X and y differ in length.
        DataError
            If y has one class only.
        """
        texts = _checked_texts(X)
        y = _checked_targets(texts, y)
        if y.ndim == 2 and y.shape[1] > 1:
            self.classes_ = np.arange(y.shape[1])
            labels = LabelSet("multilabel", tuple(str(name) for name in self.classes_), "|")
        else:
            y = _column(y)
            kind = type_of_target(y, raise_unknown=True)
            if kind not in ("binary", "multiclass"):
                raise UsageError(
                    f"Unknown label type: {kind}; labels must be classes.", "For numbers use TextRegressor."
                )
            self.classes_ = np.unique(y)
            if len(self.classes_) < 2:
                raise UsageError("y has 1 class; a classifier needs samples of at least 2 classes in the data.")
            names = tuple(str(name) for name in self.classes_)
            labels = LabelSet("binary" if len(names) == 2 else "multiclass", names)
        given = None
        if valid is not None:
            given = (_checked_texts(valid[0]), self._targets(np.asarray(valid[1]), labels))
        further = None if unlabelled is None else _checked_texts(unlabelled)
        self._fit(texts, self._targets(y, labels), labels, given, further, budget)
        return self

    def _targets(self, y: np.ndarray, labels: LabelSet) -> np.ndarray:
        if labels.kind == "multilabel":
            return y.astype(np.float32)
        y = _column(y)
        targets = np.searchsorted(self.classes_, y)
        is_known = self.classes_[np.minimum(targets, len(self.classes_) - 1)] == y
        if not is_known.all():
            raise UsageError(f"the label {y[~is_known][0]!r} was not in the training data.")
        return targets.astype(np.int64)

    def predict_proba(self, X: Texts) -> np.ndarray:
        """Return probabilities, calibrated on the development part, shape (rows, classes), float64."""
        return self._fitted().predict_proba(_checked_texts(X))

    def predict(self, X: Texts) -> np.ndarray:
        """Return the most probable class of each text, shape (rows,); (rows, labels) of 0 and 1 for several labels."""
        probabilities = self.predict_proba(X)
        if self.model_.labels.kind == "multilabel":
            return (probabilities > 0.5).astype(np.int64)
        return self.classes_[probabilities.argmax(axis=1)]


class TextRegressor(RegressorMixin, _TextEstimator):
    """Predict a number from a text by a bidirectional LSTM.

    Examples
    --------
    >>> from bilstm import TextRegressor
    >>> regressor = TextRegressor(max_epochs=5, hidden_size=32)
    >>> regressor.fit(["good film", "bad film"] * 20, [9.0, 2.0] * 20).predict(["good film"]).shape
    (1,)
    """

    def fit(
        self,
        X: Texts,
        y: Any,
        *,
        valid: tuple[Texts, Any] | None = None,
        unlabelled: Texts | None = None,
        budget: float | None = 60.0,
    ) -> TextRegressor:
        """Train on texts and their numbers; parameters as in `TextClassifier.fit`, y of shape (rows,).

        From unlabelled texts come word vectors.
        """
        texts = _checked_texts(X)
        y = _numbers(_checked_targets(texts, y))
        given = None if valid is None else (_checked_texts(valid[0]), _numbers(valid[1]))
        further = None if unlabelled is None else _checked_texts(unlabelled)
        self._fit(texts, y, LabelSet("regression"), given, further, budget)
        return self

    def predict(self, X: Texts) -> np.ndarray:
        """Return one number a text, shape (rows,), float64."""
        return self._fitted().predict_proba(_checked_texts(X))


def _class_names(target: Any) -> str | list[str]:
    """Return classes as the model names them: by their text."""
    return [str(one) for one in target] if isinstance(target, list | tuple | np.ndarray) else str(target)


def _checked_texts(X: Any) -> Texts:
    """Return X as a list of strings (or the Ragged it is); raise UsageError for anything else."""
    if isinstance(X, Ragged):
        return X
    if isinstance(X, str) or not hasattr(X, "__iter__"):
        raise UsageError(f"Expected a list of texts, got {type(X).__name__}.", "Put a single text in a list: [text].")
    if hasattr(X, "toarray"):
        raise UsageError("Expected a list of texts, got a sparse matrix; sparse input is not supported.")
    if getattr(X, "ndim", 1) != 1:
        raise UsageError(f"Expected a list of texts, got an array of shape {X.shape}. Reshape your data.")
    texts = list(X)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(f"X[{row}] is {type(text).__name__}, not a text.")
    if not texts:
        raise UsageError("Found array with 0 sample(s); at least 1 text is needed.")
    return [str(text) for text in texts]


def _checked_targets(texts: Texts, y: Any) -> np.ndarray:
    """Return y as an array as long as X; raise UsageError if there is none, or too few to keep a development part."""
    if y is None:
        raise UsageError("fit requires y to be passed, but the target y is None.")
    y = np.asarray(y)
    if y.ndim == 0 or len(texts) != len(y):
        raise UsageError(f"X has {len(texts)} texts, y has shape {y.shape}; they must be of the same length.")
    if len(texts) < 2:
        raise UsageError("n_samples=1: at least 2 texts are needed, one to train on and one to choose the epoch by.")
    return y


def _column(y: np.ndarray) -> np.ndarray:
    """Return a column as the vector it means, with scikit-learn's warning."""
    if y.ndim == 2 and y.shape[1] == 1:
        message = "A column-vector y was passed when a 1d array was expected. Please use y.ravel()."
        warnings.warn(message, DataConversionWarning, stacklevel=4)
        return y[:, 0]
    return y


def _as_floats(y: np.ndarray) -> np.ndarray:
    """Return objects as numbers where every one is a number, else as they are."""
    return y.astype(np.float64) if all(isinstance(value, int | float) for value in y.flat) else y


def _numbers(y: Any) -> np.ndarray:
    y = _column(np.asarray(y))
    if y.dtype == object:
        y = _as_floats(y)
    if y.dtype.kind not in "biuf":
        raise UsageError(f"Unknown label type: y must be numbers, got {y.dtype}.", "For classes use TextClassifier.")
    numbers = y.astype(np.float32)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise UsageError(f"y must be finite numbers of shape (rows,), got shape {numbers.shape} or NaN, infinity.")
    return numbers
