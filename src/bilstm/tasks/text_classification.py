"""Text classification: texts and labels in, a model that names classes out.

Order of the file: settings, the model as it runs (encode, logits, decode, score), description of its layers. How it is
trained stands in `text_training.py`. Labels may be two classes, many classes, several labels per text, or numbers;
`data.labels.LabelSet` says which. Imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bilstm import config as settings
from bilstm import description
from bilstm.config import to_mapping
from bilstm.data.batching import ordered_batches
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.data.tokenizers import WordTokenizer
from bilstm.data.vocabulary import IdEncoder, TextEncoder, encoder_from_config
from bilstm.description import MOST_MEMBERS, Layer
from bilstm.errors import ModelFolderError, UsageError
from bilstm.metrics import (
    apply_temperature,
    evaluate_classification,
    evaluate_multilabel,
    evaluate_regression,
)
from bilstm.model_folder import save_model
from bilstm.runtime.model import Model as RuntimeModel
from bilstm.runtime.ngram_linear import PREFIX as LINEAR_PREFIX
from bilstm.runtime.word_ids import WordReader
from bilstm.tasks.joined_linear import JoinedLinear
from bilstm.train_config import TrainConfig

__all__ = ["TASK", "Config", "TextModel", "describe_model", "for_data", "output_count"]

TASK = "text-classification"
Texts = Sequence[str] | Ragged  # a Ragged holds word ids, as Keras' files do

PHASES = ("language-model", "linear-teacher", "joined-teacher", "mixed", "self-training")
BATCH_ROWS, BATCH_STEPS = 256, 32_768  # of prediction: enough to keep the cores busy, little memory


# ---- settings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config(TrainConfig):
    """Settings of a text classifier: those of training, and of the model."""

    max_epochs: int | None = settings.field(  # type: ignore[assignment]  # an int once `for_data` has seen the texts
        None,
        help="Passes over the training data at most; none: as many as few texts need, 5 for many (15 without a "
        "recurrent layer).",
        minimum=1,
        maximum=100_000,
    )
    batch_size: int = settings.field(64, help="Texts per batch at most.", unit="rows", minimum=1, maximum=1_000_000)
    batch_steps: int | None = settings.field(
        12_000, help="Words of all texts of a batch together at most.", unit="steps", minimum=1, maximum=2**40
    )
    learning_rate: float = settings.field(
        0.002, help="Step size of the optimizer at its peak.", above=0.0, maximum=100.0
    )
    schedule: Literal["constant", "linear", "cosine", "one-cycle"] = settings.field(
        "linear", help="How the learning rate falls after the warm-up."
    )
    warmup: float | None = settings.field(
        0.05, help="Share of the run during which the learning rate rises.", minimum=0.0, below=1.0
    )
    average_decay: float | None = settings.field(
        0.998, help="Decay of the running mean of weights that is evaluated and kept.", above=0.0, below=1.0
    )
    adversarial_norm: float | None = settings.field(
        None,
        help="Norm of the adversarial change of a text, for texts of 180 tokens (it grows with the root of the median "
        "length), for example 1.5, with more epochs; none: only the texts as they are, several times faster.",
        above=0.0,
    )
    tokenizer: Literal["words", "characters", "byte-pairs"] = settings.field(
        "words", help="What a step of a sequence is; byte-pairs needs the extra `text`."
    )
    lowercase: bool = settings.field(True, help="Read capital letters as small ones.")
    vocabulary_size: int = settings.field(30_000, help="Most frequent tokens that are known.", minimum=2, maximum=10**7)
    min_count: int = settings.field(2, help="Tokens that occur less often in training are unknown.", minimum=1)
    max_length: int | None = settings.field(None, help="Tokens a text keeps; none: all.", unit="tokens", minimum=1)
    keep: Literal["head", "tail", "both"] = settings.field("head", help="Which tokens of a longer text are kept.")
    dev_share: float | None = settings.field(
        None,
        help="Share of the training rows that choose the epoch, the temperature and the weights of what is joined; "
        "none: a tenth, and at most 1,000 rows.",
        above=0.0,
        below=1.0,
    )
    dev_groups: bool = settings.field(
        True,
        help="Draw that share in groups of texts that share rare words, as reviews of one film do: its score is then "
        "that of texts about new things. Of fewer than 2,000 rows single ones are drawn.",
    )
    embedding_size: int = settings.field(128, help="Features of a word vector.", minimum=1, maximum=65_536)
    vectors: Literal["in-domain", "random"] = settings.field(
        "in-domain", help="Where word vectors start: learned first from the training texts, or random."
    )
    vector_epochs: int = settings.field(5, help="Passes that learn in-domain word vectors.", minimum=1, maximum=1000)
    subwords: bool | None = settings.field(
        None,
        help="Draw in-domain vectors of rare words towards those that their character n-grams let expect; none: where "
        "there are fewer than a million words to learn vectors from.",
    )
    convolution_size: int | None = settings.field(
        None, help="Features of a convolution before the recurrent layers; none: no convolution.", minimum=1
    )
    kernel_size: int = settings.field(3, help="Steps a convolution sees.", minimum=1, maximum=1001)
    cell: Literal["lstm", "gru", "rnn", "none"] = settings.field(
        "lstm", help="Recurrent cell; none: a feed-forward model over the pooled word vectors."
    )
    hidden_size: int = settings.field(128, help="Units of a recurrent layer, per direction.", minimum=1, maximum=65_536)
    num_layers: int = settings.field(1, help="Recurrent layers on top of each other.", minimum=1, maximum=64)
    layer_sizes: tuple[int, ...] | None = settings.field(
        None, help="Units of each recurrent layer, where they differ; overrides hidden-size and num-layers.", minimum=1
    )
    bidirectional: bool = settings.field(True, help="Read the texts backwards too.")
    merge_mode: Literal["concat", "sum", "mul", "ave"] = settings.field("concat", help="How the directions are joined.")
    pooling: tuple[str, ...] = settings.field(
        ("max", "mean"), help="How steps become one vector: last, max, mean, attention, joined by commas."
    )
    dense_size: int | None = settings.field(
        None, help="Units of a relu layer before the output; none: no such layer.", minimum=1
    )
    word_dropout: float | None = settings.field(
        None,
        help="Share of words made unknown in training; none: 0.1 for texts of a line to 0.4 for long ones.",
        minimum=0.0,
        below=1.0,
    )
    embedding_dropout: float = settings.field(
        0.2, help="Share of vector features dropped, the same for a whole text.", minimum=0.0, below=1.0
    )
    dropout: float = settings.field(
        0.5, help="Share of features dropped before the output and between layers.", minimum=0.0, below=1.0
    )
    output_dropout: float | None = settings.field(
        None, help="Share of features dropped before the output alone; none: as dropout.", minimum=0.0, below=1.0
    )
    variational_dropout: float = settings.field(
        0.0, help="Share of recurrent units dropped, the same at every step.", minimum=0.0, below=1.0
    )
    weight_dropout: float = settings.field(0.0, help="Share of recurrent weights dropped.", minimum=0.0, below=1.0)
    layer_decay: float = settings.field(
        1.0,
        help="With --start-from: how many times slower each layer learns than the one above it; 1: all alike.",
        minimum=1.0,
        maximum=1000.0,
    )
    gradual_unfreezing: bool = settings.field(
        False,
        help="With --start-from: the last layer learns alone in the first epoch, and each further epoch one more "
        "layer below joins it.",
    )
    members: int = settings.field(
        1,
        help="Networks that answer together, each trained from a seed of its own: seed, seed + 1, ...; time, memory "
        "and the time of an answer grow with their number.",
        minimum=1,
        maximum=MOST_MEMBERS,
    )
    phases: tuple[str, ...] = settings.field(
        PHASES,
        help="What is learned from unlabelled texts beside word vectors, joined by commas: language-model, "
        "linear-teacher and self-training (few labels), joined-teacher (many), mixed; or none.",
    )
    join_linear: bool = settings.field(
        True, help="Add the linear n-gram model to the network's logits where the development part gains by it."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("last", "max", "mean", "attention")
        for kind in self.pooling:
            if kind not in known:
                raise UsageError(f"pooling must be of {', '.join(known)}, got {kind!r}.")
        if self.phases != ("none",) and not set(self.phases) <= set(PHASES):
            raise UsageError(f"phases must be of {', '.join(PHASES)}, or none, got {','.join(self.phases)!r}.")
        if not self.pooling or len(set(self.pooling)) < len(self.pooling):
            raise UsageError(f"pooling must name one kind at least and each once, got {','.join(self.pooling)!r}.")


# Batches after which the recipe has learned what it will, on short texts and on long ones; adversarial changes keep it
# from learning rows by heart, so it goes on to gain for longer; means of vectors learn slowly, each word a little at
# a time.
TRAINING_STEPS, ADVERSARIAL_STEPS, FEEDFORWARD_STEPS = 2_000, 4_500, 6_000
LINE_WORDS, PAGE_WORDS = 15, 150

# Development rows where no share is given. The handful of numbers chosen by them gains nothing from more; the weights,
# chosen by all the others, do.
DEV_SHARE, MOST_DEV_ROWS = 0.1, 1_000


def dev_rows_of(config: Config, rows: int) -> int:
    """Return how many of the training rows choose instead of training; 1 at least, and all but one at most."""
    wanted = min(DEV_SHARE * rows, MOST_DEV_ROWS) if config.dev_share is None else config.dev_share * rows
    return min(max(round(wanted), 1), rows - 1)


def for_data(config: Config, lengths: np.ndarray) -> Config:
    """Fill in what the settings leave to the training texts, whose lengths are given in tokens.

    A long text says what it says several times and bears losing words; a line does not. Few texts make few batches, and
    need more passes.
    """
    values: dict[str, Any] = {}
    if config.max_epochs is None:
        batches = max(len(lengths) / config.batch_size, float(lengths.sum()) / (config.batch_steps or 2**40), 1.0)
        steps = FEEDFORWARD_STEPS if config.cell == "none" else TRAINING_STEPS
        steps = steps if config.adversarial_norm is None else max(steps, ADVERSARIAL_STEPS)
        values["max_epochs"] = int(np.clip(np.ceil(steps / batches), 5, 40))
    if config.word_dropout is None:
        middle = float(np.median(lengths)) if len(lengths) else 0.0
        place = np.log(max(middle, 1.0) / LINE_WORDS) / np.log(PAGE_WORDS / LINE_WORDS)
        values["word_dropout"] = round(float(0.1 + 0.3 * np.clip(place, 0.0, 1.0)), 2)
    return dataclasses.replace(config, **values)


# ---- the model as it runs ------------------------------------------------------------------------------------------


def words_of(texts: Texts, known: dict[str, str] | None = None) -> list[list[str]]:
    """Return the words of each text, as the linear model reads them (ids are spelled in digits).

    `known` gathers one object per different word, so that a long list of words takes 8 bytes a word.
    """
    if isinstance(texts, Ragged):
        return [[str(token) for token in texts[row].tolist()] for row in range(len(texts))]
    lists = WordTokenizer().tokens_of(texts)
    if known is None:
        return list(lists)
    return [[known.setdefault(word, word) for word in words] for words in lists]


@dataclass
class TextModel:
    """A trained text classifier without torch: what predicts, evaluates and is saved.

    Parameters
    ----------
    encoder : TextEncoder or IdEncoder
    labels : LabelSet
    model : runtime.Model
        Ragged ids -> logits (rows, outputs): one output for two classes and for numbers.
    weights : dict of str to ndarray
    temperature : float
        Divides the logits of classes; fitted on the development part.
    shift, scale : float
        Numbers are trained as (number - shift) / scale.
    joined : JoinedLinear, optional
        A linear model beside the network; then there is no temperature, the joining calibrates.
    """

    encoder: TextEncoder | IdEncoder
    labels: LabelSet
    model: RuntimeModel
    weights: dict[str, np.ndarray]
    temperature: float = 1.0
    shift: float = 0.0
    scale: float = 1.0
    joined: JoinedLinear | None = None
    _reader: WordReader | None = field(default=None, init=False, repr=False, compare=False)

    def logits(self, texts: Texts) -> np.ndarray:
        """Return logits of texts, shape (rows, outputs): the network's, or the joined ones."""
        return self.logits_of_encoded(*self.encode(texts))

    def encode(self, texts: Texts) -> tuple[Ragged, Ragged | None]:
        """Return the ids that the network reads, and the numbers of words that joined linear models read, if any."""
        if isinstance(self.encoder, TextEncoder) and not isinstance(texts, Ragged):
            if self._reader is None:
                self._reader = WordReader(self.encoder, None if self.joined is None else self.joined.linear.words)
            return self._reader.read(texts)
        ids = self.encoder.encode(texts)  # type: ignore[arg-type]
        return ids, None if self.joined is None else self.joined.linear.numbers_of(words_of(texts))

    def logits_of_encoded(self, ids: Ragged, words: Ragged | None) -> np.ndarray:
        """Return logits of what `encode` gave, shape (rows, outputs): the network's, or the joined ones."""
        logits = self.logits_of_ids(ids)
        if self.joined is None or words is None:
            return logits
        return self.joined.joining.join(logits, self.joined.linear.margins_of_numbers(words))

    def logits_of_ids(self, ids: Ragged) -> np.ndarray:
        """Return the network's logits of encoded texts, shape (rows, outputs), float32.

        Batches of similar length are formed here.
        """
        if len(ids) == 1:
            return np.asarray(self.model.run(ids))
        outputs = np.zeros((len(ids), output_count(self.labels)), dtype=np.float32)
        for rows in ordered_batches(ids.lengths, max_rows=BATCH_ROWS, max_steps=BATCH_STEPS):
            outputs[rows] = np.asarray(self.model.run(ids.select(rows)))
        return outputs

    def decode(self, logits: np.ndarray) -> np.ndarray:
        """Turn logits into probabilities (rows, classes), float64; for numbers into the numbers, shape (rows,)."""
        kind = self.labels.kind
        if kind == "regression":
            return logits[:, 0].astype(np.float64) * self.scale + self.shift
        if kind == "binary":
            positive = apply_temperature(logits[:, 0], self.temperature)
            probabilities = np.empty((len(positive), 2))
            np.subtract(1.0, positive, out=probabilities[:, 0])
            probabilities[:, 1] = positive
            return probabilities
        return apply_temperature(logits, self.temperature, multilabel=kind == "multilabel")

    @property
    def classes_(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the columns of `predict_proba`."""
        return self.labels.names

    def predict_proba(self, texts: Texts) -> np.ndarray:
        """Return probabilities (rows, classes or labels), float64; for numbers the numbers, shape (rows,)."""
        return self.decode(self.logits(texts))

    def predict(self, texts: Texts) -> list[Any]:
        """Return the label of each text as the training file spelled it; for numbers the numbers."""
        return self.labels_of(self.predict_proba(texts))

    def explain(self, texts: str | Texts, method: str = "auto", target: Any = None, *, phrases: bool = False) -> Any:
        """Say which words and phrases made the answers; see `bilstm.explanation.explain`."""
        from bilstm.explanation import explain

        return explain(self, texts, method, target, phrases=phrases)

    def labels_of(self, outputs: np.ndarray) -> list[Any]:
        """Return the label that decoded outputs mean: the most probable class, labels above one half, or the number."""
        if self.labels.kind == "multilabel":
            return self.labels.decode(outputs > 0.5)
        return self.labels.decode(outputs if self.labels.kind == "regression" else outputs.argmax(axis=1))

    def evaluate(self, texts: Texts, labels: Sequence[str]) -> dict[str, Any]:
        """Score the model on labelled texts; labels are spelled as in the training file.

        Raises
        ------
        DataError
            For no rows, or a label that the training data did not have.
        """
        return self.measure(self.predict_proba(texts), self.labels.encode(labels))

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """Score decoded outputs against targets; the result is ready for JSON (see `bilstm.metrics`)."""
        if self.labels.kind == "regression":
            return evaluate_regression(outputs, targets)
        if self.labels.kind == "multilabel":
            return evaluate_multilabel(outputs, targets, self.labels.names)
        return evaluate_classification(outputs, targets, self.labels.names)

    def to_config(self) -> dict[str, Any]:
        """Write everything but weights and vocabulary as plain JSON values."""
        return {
            "task": TASK,
            "layers": description.layers_to_config(self.model.description),
            "labels": self.labels.to_config(),
            "temperature": self.temperature,
            "shift": self.shift,
            "scale": self.scale,
            "joined": None if self.joined is None else dataclasses.asdict(self.joined.joining),
        }

    def save(
        self,
        folder: str | Path,
        *,
        settings: Config | None = None,
        metrics: dict[str, Any] | None = None,
        files: dict[str, bytes | str] | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write the model as a folder, whole or not at all; return its path.

        Parameters
        ----------
        folder : path
        settings : Config, optional
            What it was trained with; kept in config.json.
        metrics : dict, optional
            Content of metrics.json.
        files : dict, optional
            Further files, for example the report.
        overwrite : bool
            Replace a bilstm model that stands there.

        Raises
        ------
        OutputError, WriteFailedError
            See `bilstm.model_folder.save_model`.
        """
        config = self.to_config()
        if settings is not None:
            config["settings"] = to_mapping(settings)
        own_files: dict[str, bytes | str] = {"vocabulary.json": self.encoder.to_json()}
        weights = dict(self.weights)
        if self.joined is not None:
            arrays, own_files["ngrams.json"] = self.joined.linear.to_folder()
            weights |= arrays
        return save_model(
            folder,
            config=config,
            weights=weights,
            files={**own_files, **(files or {})},
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
    ) -> TextModel:
        """Read back what `to_config` and the file vocabulary.json hold; the options are those of `runtime.Model`.

        Raises
        ------
        ModelFolderError
            For anything that does not fit.
        """
        if "vocabulary.json" not in files:
            raise ModelFolderError("the model folder has no vocabulary.json.")
        numbers = {}
        for name in ("temperature", "shift", "scale"):
            value = config.get(name)
            if not isinstance(value, int | float) or isinstance(value, bool) or (name != "shift" and value <= 0):
                raise ModelFolderError(f"config.json: {name} must be a number, got {value!r}.")
            numbers[name] = float(value)
        layers = description.layers_from_config(config.get("layers"))
        labels = LabelSet.from_config(config.get("labels"))
        encoder = encoder_from_config(files["vocabulary.json"].decode("utf-8"))
        outputs = getattr(layers[-1], "output_size", None) if layers else None
        if outputs != output_count(labels):
            raise ModelFolderError(
                f"config.json: the layers give {outputs} outputs, the labels need {output_count(labels)}."
            )
        own = {name: array for name, array in weights.items() if not name.startswith(LINEAR_PREFIX)}
        arrays = {name: array for name, array in weights.items() if name.startswith(LINEAR_PREFIX)}
        model = RuntimeModel(layers, own, backend=backend, precision=precision, threads=threads)
        joined = JoinedLinear.from_folder(config.get("joined"), arrays, files, output_count(labels))
        return cls(encoder, labels, model, own, **numbers, joined=joined)


def output_count(labels: LabelSet) -> int:
    """Return how many logits the labels need: one for two classes and for numbers, else one a class or label."""
    return 1 if labels.kind in ("binary", "regression") else len(labels.names)


# ---- description ---------------------------------------------------------------------------------------------------


def describe_model(config: Config, vocabulary_size: int, outputs: int) -> tuple[Layer, ...]:
    """List the layers that the settings ask for, from token ids to `outputs` logits."""
    layers: list[Layer] = []
    if config.word_dropout:
        layers.append(description.WordDropout(config.word_dropout))
    layers.append(description.Embedding(vocabulary_size, config.embedding_size))
    features = config.embedding_size
    if config.embedding_dropout:
        layers.append(description.Dropout(config.embedding_dropout, variational=True))
    if config.convolution_size:
        layers.append(description.Convolution(features, config.convolution_size, config.kernel_size))
        features = config.convolution_size
    recurrent = _describe_recurrent(config, features) if config.cell != "none" else []
    layers += recurrent
    if recurrent:
        features = recurrent[-1].output_size  # type: ignore[union-attr]
    pooling = description.Pooling(features, config.pooling)  # type: ignore[arg-type]
    layers.append(pooling)
    features = pooling.output_size
    dropout = config.dropout if config.output_dropout is None else config.output_dropout
    if dropout:
        layers.append(description.Dropout(dropout))
    if config.dense_size:
        layers.append(description.Linear(features, config.dense_size, "relu"))
        features = config.dense_size
        if dropout:
            layers.append(description.Dropout(dropout))
    layers.append(description.Linear(features, outputs))
    return tuple(layers)


def _describe_recurrent(config: Config, features: int) -> list[Layer]:
    shared: dict[str, Any] = {
        "cell": config.cell,
        "bidirectional": config.bidirectional,
        "merge_mode": config.merge_mode,
        "variational_dropout": config.variational_dropout,
        "weight_dropout": config.weight_dropout,
    }
    if config.layer_sizes is None:
        dropout = config.dropout if config.num_layers > 1 else 0.0
        return [
            description.Recurrent(
                input_size=features,
                hidden_size=config.hidden_size,
                num_layers=config.num_layers,
                dropout=dropout,
                **shared,
            )
        ]
    layers: list[Layer] = []
    for number, size in enumerate(config.layer_sizes):
        if number and config.dropout:
            layers.append(description.Dropout(config.dropout))
        layer = description.Recurrent(input_size=features, hidden_size=size, **shared)
        layers.append(layer)
        features = layer.output_size
    return layers
