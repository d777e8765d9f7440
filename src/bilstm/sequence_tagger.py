"""`SequenceTagger`: the tagger with scikit-learn's conventions, over lists of token lists.

The parameters are the fields of `tasks.sequence_tagging.Config` (`seed` is called `random_state` here); a test holds
both lists equal. Needs scikit-learn and, to fit, torch; a saved model is loaded without either by `bilstm.load`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bilstm.config import from_mapping
from bilstm.data.tagged_files import sentences_of
from bilstm.errors import MissingExtraError, UsageError
from bilstm.tasks.sequence_tagging import Config, TaggerModel
from bilstm.tasks.tagged_rows import FoundSpan, Sentence
from bilstm.tasks.tagging_scores import main_score

try:
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
except ImportError as error:
    raise MissingExtraError("SequenceTagger needs scikit-learn.", "pip install 'bilstm[train]'") from error

__all__ = ["SequenceTagger"]


class SequenceTagger(BaseEstimator):
    """Tag every token of a sentence by a bidirectional LSTM and a conditional random field.

    Parameters
    ----------
    random_state : int, default=0
        Seed of weights, order, masks and the development part.
    max_epochs, batch_size, ... :
        The settings of `bilstm train --task sequence-tagging`, with the same names and defaults.
    verbose : bool, default=False
        Show progress on standard error.

    Attributes
    ----------
    model_ : TaggerModel
        What predicts; free of torch.
    classes_ : ndarray
        Types of spans, or tags where they write no spans.
    history_ : tuple of EpochRow
        Loss and score of each epoch.
    best_epoch_ : int
        Epoch whose weights are kept.
    dev_metrics_ : dict
        Scores on the development part.

    Examples
    --------
    >>> from bilstm import SequenceTagger
    >>> tokens = [["Anna", "lives", "in", "Rome"], ["Rome", "is", "big"]] * 20
    >>> tags = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "O", "O"]] * 20
    >>> tagger = SequenceTagger(max_epochs=8, hidden_size=16, learning_rate=0.02).fit(tokens, tags)
    >>> tagger.predict([["Anna", "is", "in", "Rome"]])
    [['B-PER', 'O', 'O', 'B-LOC']]
    >>> [(span.start, span.end, span.label) for span in tagger.predict_spans(["Anna is big"])[0]]
    [(0, 4, 'PER')]
    """

    def __init__(
        self,
        *,
        random_state: int = 0,
        max_epochs: int | None = None,
        batch_size: int = 32,
        batch_steps: int | None = 4000,
        learning_rate: float = 0.002,
        schedule: Literal["constant", "linear", "cosine", "one-cycle"] = "cosine",
        warmup: float | None = 0.05,
        optimizer: Literal["adam", "adamw"] = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-08,
        weight_decay: float = 0.0,
        clip_norm: float | None = 1.0,
        patience: int | None = 6,
        average_decay: float | None = 0.998,
        adversarial_norm: float | None = 1.0,
        class_weights: Literal["none", "balanced"] = "none",
        label_smoothing: float = 0.0,
        threads: int | None = None,
        backend: Literal["auto", "engine", "torch", "reference"] = "auto",
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        checkpoint_minutes: float | None = 5.0,
        checkpoint_steps: int | None = None,
        head: Literal["crf", "softmax"] = "crf",
        outside_score: Literal["fitted", "trained"] = "fitted",
        scheme: Literal["auto", "IOB1", "IOB2", "IOBES", "BILOU", "BMES", "none"] = "auto",
        train_scheme: Literal["IOBES", "IOB2"] = "IOBES",
        auxiliary: tuple[str, ...] | None = None,
        auxiliary_weight: float = 0.3,
        intent_weight: float = 0.1,
        join_linear: bool = True,
        vocabulary_size: int = 100000,
        min_count: int = 2,
        dev_share: float = 0.1,
        word_size: int = 100,
        vectors: Literal["in-domain", "random"] = "in-domain",
        vector_epochs: int = 10,
        characters: Literal["convolution", "lstm", "none"] = "convolution",
        character_size: int = 32,
        character_features: int = 64,
        trait_size: int | None = 16,
        hidden_size: int = 192,
        num_layers: int = 1,
        cell: Literal["lstm", "gru", "rnn"] = "lstm",
        word_dropout: float = 0.1,
        trait_dropout: float = 0.0,
        embedding_dropout: float = 0.4,
        dropout: float = 0.4,
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
        self.head = head
        self.outside_score = outside_score
        self.scheme = scheme
        self.train_scheme = train_scheme
        self.auxiliary = auxiliary
        self.auxiliary_weight = auxiliary_weight
        self.intent_weight = intent_weight
        self.join_linear = join_linear
        self.vocabulary_size = vocabulary_size
        self.min_count = min_count
        self.dev_share = dev_share
        self.word_size = word_size
        self.vectors = vectors
        self.vector_epochs = vector_epochs
        self.characters = characters
        self.character_size = character_size
        self.character_features = character_features
        self.trait_size = trait_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.cell = cell
        self.word_dropout = word_dropout
        self.trait_dropout = trait_dropout
        self.embedding_dropout = embedding_dropout
        self.dropout = dropout
        self.verbose = verbose

    def _config(self) -> Config:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Config) if field.name != "seed"}
        random_state = self.random_state
        if isinstance(random_state, np.random.RandomState):
            random_state = int(random_state.randint(2**31 - 1))
        return from_mapping(
            Config, {**values, "seed": 0 if random_state is None else random_state}, type(self).__name__
        )

    def fit(
        self,
        X: Sequence[Sequence[str]],
        y: Sequence[Sequence[str]],
        *,
        intents: Sequence[str] | None = None,
        valid: tuple[Any, ...] | None = None,
        unlabelled: Sequence[Sequence[str]] = (),
    ) -> SequenceTagger:
        """Train on sentences and their tags.

        Parameters
        ----------
        X : sequence of token lists
        y : sequence of tag lists
            One tag a token; IOB1, IOB2, IOBES, BILOU or plain classes.
        intents : sequence of str, optional
            Label of each sentence, learned beside the tags.
        valid : (tokens, tags) or (tokens, tags, intents), optional
            Part that chooses the epoch; by default a share `dev_share` of the sentences.
        unlabelled : sequence of token lists
            For `vectors="in-domain"`.

        Raises
        ------
        UsageError
            If the lists do not fit together; the message names the sentence.
        DataError
            If all tokens have the same tag.
        """
        from bilstm.tasks.tagging_training import fit_tagger
        from bilstm.training.progress import ProgressPrinter

        sentences = sentences_of(X, y, intents)
        given = None if valid is None else sentences_of(*valid)
        with ProgressPrinter("auto" if self.verbose else "silent") as progress:
            outcome = fit_tagger(sentences, self._config(), valid=given, unlabelled=unlabelled, progress=progress)
        self.model_: TaggerModel = outcome.model
        self.classes_ = np.array(sorted(self.model_.classes))
        self.history_ = outcome.result.history
        self.best_epoch_ = outcome.result.best_epoch
        self.dev_metrics_ = outcome.dev_metrics
        return self

    def _fitted(self) -> TaggerModel:
        if not hasattr(self, "model_"):
            raise NotFittedError("This SequenceTagger is not fitted yet. Call fit(tokens, tags) first.")
        return self.model_

    def predict(self, X: Sequence[Sentence]) -> list[list[str]]:
        """Return one tag a token, in the scheme of the training tags; X may hold texts too."""
        return self._fitted().predict(_checked(X))

    def predict_spans(self, X: Sequence[Sentence]) -> list[list[FoundSpan]]:
        """Return the spans of each sentence: start and end in characters, label, probability, words."""
        return self._fitted().predict_spans(_checked(X))

    def explain(self, sentence: Sentence, span: str | None = None, method: str = "auto") -> Any:
        """Say which words made the spans of a sentence; see `bilstm.explanation.tagger.explain_spans`."""
        return self._fitted().explain(sentence, span, method)

    def predict_n_best(self, X: Sequence[Sentence], n: int = 3) -> list[list[tuple[list[str], float]]]:
        """Return the `n` most probable tag sequences of each sentence, best first, with their probabilities."""
        return self._fitted().predict_n_best(_checked(X), n)

    def predict_intents(self, X: Sequence[Sentence]) -> list[str]:
        """Return the label of each sentence, of a tagger that was trained with intents."""
        return self._fitted().predict_intents(_checked(X))

    def score(self, X: Sequence[Sequence[str]], y: Sequence[Sequence[str]]) -> float:
        """Return span F1, or token accuracy where tags write no spans."""
        return main_score(self._fitted().evaluate(sentences_of(X, y)))[1]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model as a folder that `bilstm.load` and the command line read; return its path.

        Raises
        ------
        NotFittedError
            Before `fit`.
        OutputError, WriteFailedError
            If the folder cannot be written.
        """
        return self._fitted().save(
            folder, settings=self._config(), metrics={"dev": self.dev_metrics_}, overwrite=overwrite
        )


def _checked(X: Any) -> Sequence[Sentence]:
    if isinstance(X, str) or not hasattr(X, "__iter__"):
        raise UsageError(f"Expected a list of sentences, got {type(X).__name__}.", "Put it in a list.")
    return list(X)
