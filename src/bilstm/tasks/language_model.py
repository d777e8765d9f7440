"""Language model: texts without labels in, probabilities of the next word in both directions out.

Order of the file: settings, the model as it runs (encode, surprise, perplexity, save and load), description of its
layers. How it is trained stands in `language_training.py`. What it learned, the word vectors and the recurrent weights
of both directions, is what a classifier can begin with (`starting_weights.py`). Imports no torch.

A door is kept for writing text: the forward direction alone is a model of the next word, its head takes one state at a
time (`NextWordHead.features`, `log_probabilities`), and the end of a text is one of its classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bilstm import config as settings
from bilstm import description
from bilstm.config import to_mapping
from bilstm.data.batching import ordered_batches
from bilstm.data.next_words import Pieces
from bilstm.data.ragged import Ragged
from bilstm.data.vocabulary import TextEncoder, encoder_from_config, unknown_share
from bilstm.description import Layer
from bilstm.errors import DataError, ModelFolderError, UsageError
from bilstm.model_folder import save_model
from bilstm.runtime.model import Model as RuntimeModel
from bilstm.runtime.next_word_head import NextWordHead
from bilstm.train_config import TrainConfig

__all__ = ["TASK", "Config", "LanguageModel", "describe_model", "for_data"]

TASK = "language-model"

BATCH_ROWS, BATCH_STEPS = 64, 16_384  # of evaluation


# ---- settings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config(TrainConfig):
    """Settings of a language model: those of training, and of the model."""

    max_epochs: int | None = settings.field(  # type: ignore[assignment]  # an int once `for_data` has seen the texts
        None,
        help="Epochs at most; an epoch is a pass, or `epoch-words` of one; none: by how much text there is.",
        minimum=1,
        maximum=100_000,
    )
    epoch_words: int = settings.field(
        1_000_000, help="Words after which the development part is scored, about.", unit="words", minimum=1
    )
    batch_size: int = settings.field(16, help="Pieces per batch at most.", unit="rows", minimum=1, maximum=1_000_000)
    batch_steps: int | None = settings.field(
        8_000, help="Words of all pieces of a batch together at most.", unit="steps", minimum=1, maximum=2**40
    )
    piece_length: int | None = settings.field(
        200, help="Longer texts are cut into pieces of at most so many words; none: never.", unit="words", minimum=2
    )
    learning_rate: float = settings.field(
        0.01, help="Step size of the optimizer at its peak.", above=0.0, maximum=100.0
    )
    schedule: Literal["constant", "linear", "cosine", "one-cycle"] = settings.field(
        "linear", help="How the learning rate falls after the warm-up."
    )
    warmup: float | None = settings.field(
        0.02, help="Share of the run during which the learning rate rises.", minimum=0.0, below=1.0
    )
    tokenizer: Literal["words", "characters", "byte-pairs"] = settings.field(
        "words", help="What a step of a sequence is; byte-pairs needs the extra `text`."
    )
    lowercase: bool = settings.field(True, help="Read capital letters as small ones.")
    vocabulary_size: int = settings.field(30_000, help="Most frequent tokens that are known.", minimum=2, maximum=10**7)
    min_count: int = settings.field(2, help="Tokens that occur less often in training are unknown.", minimum=1)
    dev_share: float | None = settings.field(
        None,
        help="Share of the texts that choose the epoch; none: a tenth, and at most 40,000 words.",
        above=0.0,
        below=1.0,
    )
    embedding_size: int = settings.field(128, help="Features of a word vector.", minimum=1, maximum=65_536)
    vectors: Literal["in-domain", "random"] = settings.field(
        "random", help="Where word vectors start: learned first from the training texts, or random."
    )
    vector_epochs: int = settings.field(2, help="Passes that learn in-domain word vectors.", minimum=1, maximum=1000)
    cell: Literal["lstm", "gru", "rnn"] = settings.field("lstm", help="Recurrent cell.")
    hidden_size: int = settings.field(128, help="Units of a recurrent layer, per direction.", minimum=1, maximum=65_536)
    softmax: Literal["sampled", "full"] = settings.field(
        "sampled", help="Words that training compares with: a sample for each batch, or all. Scores always take all."
    )
    sample_size: int = settings.field(1_000, help="Words of a sample, on average.", unit="words", minimum=1)
    word_dropout: float = settings.field(
        0.0, help="Share of the vocabulary whose vectors are zero in a batch.", minimum=0.0, below=1.0
    )
    embedding_dropout: float = settings.field(
        0.1, help="Share of vector features dropped, the same for a whole piece.", minimum=0.0, below=1.0
    )
    output_dropout: float = settings.field(
        0.1, help="Share of features dropped before the softmax, the same for a whole piece.", minimum=0.0, below=1.0
    )
    variational_dropout: float = settings.field(
        0.0, help="Share of recurrent units dropped, the same at every step.", minimum=0.0, below=1.0
    )
    weight_dropout: float = settings.field(0.0, help="Share of recurrent weights dropped.", minimum=0.0, below=1.0)
    device: Literal["auto", "cpu", "cuda"] = settings.field(
        "auto", help="Where training runs; auto: on a GPU where torch finds one."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        unused = ("adversarial_norm", "class_weights", "label_smoothing")
        standard = {field.name: field.default for field in dataclasses.fields(self)}
        for name in unused:
            if getattr(self, name) != standard[name]:
                raise UsageError(f"{name.replace('_', '-')} has no meaning for a language model.", "Leave it out.")


# Words read in training where no number of epochs is given: few texts are read often, many a few times
FEWEST_PASSES, MOST_PASSES, WANTED_WORDS = 2, 60, 20_000_000


def parts_of_pass(config: Config, words: int) -> int:
    """Return into how many epochs a pass over `words` words is cut."""
    return max(1, round(words / config.epoch_words))


def for_data(config: Config, words: int) -> Config:
    """Fill in the number of epochs for a training part of `words` words."""
    if config.max_epochs is not None:
        return config
    passes = min(max(math.ceil(WANTED_WORDS / max(words, 1)), FEWEST_PASSES), MOST_PASSES)
    return dataclasses.replace(config, max_epochs=passes * parts_of_pass(config, words))


# ---- the model as it runs ------------------------------------------------------------------------------------------


@dataclass
class LanguageModel:
    """A trained language model without torch.

    Parameters
    ----------
    encoder : TextEncoder
    model : runtime.Model
        Ragged ids -> states of both directions side by side, (steps, 2 * hidden_size).
    head : NextWordHead
    weights : dict of str to ndarray
    """

    encoder: TextEncoder
    model: RuntimeModel
    head: NextWordHead
    weights: dict[str, np.ndarray]

    @classmethod
    def of(
        cls,
        encoder: TextEncoder,
        layers: tuple[Layer, ...],
        weights: dict[str, np.ndarray],
        *,
        backend: str = "auto",
        precision: str = "float32",
        threads: int | None = None,
    ) -> LanguageModel:
        """Put a model together; the options are those of `runtime.Model`.

        Raises
        ------
        ModelFolderError
            For weights that do not fit.
        """
        table_number, table, recurrent = _parts(layers)
        if table.vocabulary_size != len(encoder.vocabulary):
            raise ModelFolderError(
                f"config.json: the layers know {table.vocabulary_size} words, the vocabulary {len(encoder.vocabulary)}."
            )
        own = {name: array for name, array in weights.items() if not name.startswith("head.")}
        model = RuntimeModel(layers, own, backend=backend, precision=precision, threads=threads)
        head = NextWordHead(weights[f"layers.{table_number}.weight"], weights, recurrent.hidden_size)
        return cls(encoder, model, head, weights)

    def surprise(
        self, texts: Sequence[str] | Ragged, tell: Callable[[int, int], None] = lambda done, all_texts: None
    ) -> np.ndarray:
        """Return how surprised each direction is by each text: -log of its probability, in nats.

        Parameters
        ----------
        texts : sequence of str, or Ragged of ids
        tell : callable, optional
            Told after each batch how many texts of how many are done.

        Returns
        -------
        ndarray of shape (texts, 2), float64
            Forwards and backwards, each the sum of a text's words and its end: words + 1 predictions. NaN for a text
            without words.
        """
        ids = texts if isinstance(texts, Ragged) else self.encoder.encode(texts)
        results = np.full((len(ids), 2), np.nan)
        kept = np.flatnonzero(ids.lengths)
        pieces = Pieces.of(ids, self.head.boundary)
        half = pieces.ids.with_values(pieces.forward_targets), pieces.ids.with_values(pieces.backward_targets)
        done = 0
        for rows in ordered_batches(pieces.ids.lengths, max_rows=BATCH_ROWS, max_steps=BATCH_STEPS):
            batch = pieces.ids.select(rows)
            states = self.model.run(batch)
            assert isinstance(states, Ragged)
            first, last = batch.values[batch.offsets[:-1]], batch.values[batch.offsets[1:] - 1]
            for direction, (targets, begun) in enumerate(zip(half, (first, last), strict=True)):
                own = np.split(states.values, 2, axis=1)[direction]
                logs = self.head.log_probabilities(self.head.features(own, direction), targets.select(rows).values)
                start = np.broadcast_to(self.head.start[direction], (len(rows), self.head.start.shape[1]))
                sums = np.add.reduceat(logs, batch.offsets[:-1])
                results[kept[rows], direction] = -(sums + self.head.log_probabilities(start, begun))
            done += len(rows)
            tell(done, len(pieces))
        return results

    def evaluate(
        self, texts: Sequence[str] | Ragged, tell: Callable[[int, int], None] = lambda done, all_texts: None
    ) -> dict[str, Any]:
        """Measure perplexity, the full softmax over all words; the result is ready for JSON.

        Returns
        -------
        dict
            `perplexity`: exp of the mean surprise of a prediction, both directions together; `forward` and `backward`
            apart; `cross_entropy` in nats; `rows`, `words`, `predictions` (a direction), `empty_rows`; and
            `unknown_share`, the share of words outside the vocabulary, which count as one word: perplexities of models
            with different vocabularies must not be compared.

        Raises
        ------
        DataError
            If no text has a word.
        """
        ids = texts if isinstance(texts, Ragged) else self.encoder.encode(texts)
        if len(ids.values) == 0:
            raise DataError("the texts hold no words.", "Is the text column the right one?")
        sums = np.nansum(self.surprise(ids, tell), axis=0)
        rows = int(np.count_nonzero(ids.lengths))
        predictions = len(ids.values) + rows
        forward, backward = (float(value) / predictions for value in sums)
        both = (forward + backward) / 2
        return {
            "perplexity": math.exp(both),
            "cross_entropy": both,
            "forward": {"perplexity": math.exp(forward), "cross_entropy": forward},
            "backward": {"perplexity": math.exp(backward), "cross_entropy": backward},
            "rows": rows,
            "empty_rows": len(ids) - rows,
            "words": len(ids.values),
            "predictions": predictions,
            "unknown_share": unknown_share(ids),
            "vocabulary_size": len(self.encoder.vocabulary),
        }

    def to_config(self) -> dict[str, Any]:
        """Write everything but weights and vocabulary as plain JSON values."""
        return {"task": TASK, "layers": description.layers_to_config(self.model.description)}

    def save(
        self,
        folder: str | Path,
        *,
        settings: Config | None = None,
        metrics: dict[str, Any] | None = None,
        files: dict[str, bytes | str] | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write the model as a folder, whole or not at all; parameters and errors as `TextModel.save`."""
        config = self.to_config()
        if settings is not None:
            config["settings"] = to_mapping(settings)
        return save_model(
            folder,
            config=config,
            weights=self.weights,
            files={"vocabulary.json": self.encoder.to_json(), **(files or {})},
            metrics=metrics,
            overwrite=overwrite,
        )

    @classmethod
    def from_folder(
        cls,
        config: dict[str, Any],
        weights: dict[str, np.ndarray],
        files: dict[str, bytes],
        *,
        backend: str = "auto",
        precision: str = "float32",
        threads: int | None = None,
    ) -> LanguageModel:
        """Read back what `to_config` and the file vocabulary.json hold.

        Raises
        ------
        ModelFolderError
            For anything that does not fit.
        """
        if "vocabulary.json" not in files:
            raise ModelFolderError("the model folder has no vocabulary.json.")
        encoder = encoder_from_config(files["vocabulary.json"].decode("utf-8"))
        if not isinstance(encoder, TextEncoder):
            raise ModelFolderError("vocabulary.json: a language model reads texts, not word ids.")
        layers = description.layers_from_config(config.get("layers"))
        return cls.of(encoder, layers, weights, backend=backend, precision=precision, threads=threads)


def _parts(layers: tuple[Layer, ...]) -> tuple[int, description.Embedding, description.Recurrent]:
    """Return the embedding with its number, and the recurrent layer; raise ModelFolderError if they are not there."""
    tables = [number for number, layer in enumerate(layers) if isinstance(layer, description.Embedding)]
    recurrent = [layer for layer in layers if isinstance(layer, description.Recurrent)]
    rest = [layer for layer in layers if not isinstance(layer, description.Embedding | description.Recurrent)]
    is_plain = all(isinstance(layer, description.Dropout) for layer in rest)
    if len(tables) != 1 or len(recurrent) != 1 or not is_plain or not recurrent[0].bidirectional:
        raise ModelFolderError("config.json: a language model has one embedding and one bidirectional recurrent layer.")
    if recurrent[0].num_layers != 1 or recurrent[0].merge_mode != "concat":
        raise ModelFolderError("config.json: the directions of a language model must not meet.")
    return tables[0], layers[tables[0]], recurrent[0]  # type: ignore[return-value]


# ---- description ---------------------------------------------------------------------------------------------------


def describe_model(config: Config, vocabulary_size: int) -> tuple[Layer, ...]:
    """List the layers that the settings ask for, from word ids to the states of both directions."""
    layers: list[Layer] = [description.Embedding(vocabulary_size, config.embedding_size)]
    if config.embedding_dropout:
        layers.append(description.Dropout(config.embedding_dropout, variational=True))
    layers.append(
        description.Recurrent(
            config.cell,
            config.embedding_size,
            config.hidden_size,
            variational_dropout=config.variational_dropout,
            weight_dropout=config.weight_dropout,
        )
    )
    if config.output_dropout:
        layers.append(description.Dropout(config.output_dropout, variational=True))
    return tuple(layers)
