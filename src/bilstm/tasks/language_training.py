"""How a language model is trained: development part, encoder, pieces, sampled softmax, the loop.

The second half of `language_model.py`. Texts are cut into pieces and every piece is read on its own, from the initial
state: no state is carried from piece to piece. That is how a classifier reads its texts, it lets one call of the engine
run both directions over ragged pieces, and no truncated gradient is needed. Imports torch only inside the functions.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm import description
from bilstm.data.batching import epoch_batches
from bilstm.data.next_words import Pieces
from bilstm.data.ragged import Ragged
from bilstm.data.splitting import split_rows
from bilstm.data.tokenizers import tokenizer_for
from bilstm.data.vocabulary import TextEncoder
from bilstm.errors import DataError, UsageError
from bilstm.runtime.engine_recurrent import resolve_precision
from bilstm.runtime.word_ids import count_tokens, encode_texts
from bilstm.tasks.language_model import Config, LanguageModel, describe_model, for_data, parts_of_pass
from bilstm.tasks.phases import Clock, begin_training

if TYPE_CHECKING:
    from bilstm.layers.language import LanguageNet
    from bilstm.training.events import Listener
    from bilstm.training.loop import TrainResult

__all__ = ["LanguageOutcome", "build_encoder", "fit"]

DEV_SHARE, MOST_DEV_WORDS = 0.1, 40_000  # all words of the vocabulary are compared with each of them
FEW_TEXTS = 1_000  # below it words that stand once are known
DEV_BLOCK_LOGITS = 1 << 24


@dataclass
class LanguageOutcome:
    """What `fit` gives.

    Parameters
    ----------
    model : LanguageModel
    config : Config
        With everything filled in that the given one left to the data.
    result : TrainResult
    train_rows, dev_rows : ndarray of int64
        Rows of the given texts; `dev_rows` is empty if a development part was given.
    train_ids, dev_ids : Ragged
    dev_metrics : dict
        As `LanguageModel.evaluate`; empty if no epoch was finished.
    seconds : dict of str to float
        Wall time of each phase.
    """

    model: LanguageModel
    config: Config
    result: TrainResult
    train_rows: np.ndarray
    dev_rows: np.ndarray
    train_ids: Ragged
    dev_ids: Ragged
    dev_metrics: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)


class WordRows(tuple[np.ndarray, int]):
    """Pieces of a batch, by number; its length is the number of their words, so the loop counts words."""

    __slots__ = ()

    def __new__(cls, rows: np.ndarray, words: int) -> WordRows:
        """Pair the numbers with the words that they hold."""
        return super().__new__(cls, (rows, words))

    @property
    def rows(self) -> np.ndarray:
        """Numbers of the pieces."""
        return self[0]

    def __len__(self) -> int:
        return self[1]


def fit(
    texts: Sequence[str] | Ragged,
    config: Config,
    *,
    valid: Sequence[str] | Ragged | None = None,
    encoder: TextEncoder | None = None,
    vectors: np.ndarray | None = None,
    checkpoint: str | None = None,
    resume: bool = False,
    progress: Listener | None = None,
    stop: Callable[[], bool] | None = None,
) -> LanguageOutcome:
    """Train a language model.

    Parameters
    ----------
    texts : sequence of str, or Ragged of ids
    config : Config
    valid : the same, optional
        Development part; by default `config.dev_share` of the texts, drawn with `config.seed`.
    encoder : TextEncoder, optional
        What to encode with, or what made the ids; by default built from the training part.
    vectors : ndarray of shape (vocabulary_size, embedding_size), float32, optional
        Where word vectors start, in place of what `config.vectors` says.
    checkpoint, resume, progress, stop
        As in `training.train`.

    Raises
    ------
    DataError
        If there are too few texts to split, or no words.
    UsageError
        For ids without the encoder that made them, or vectors of another shape.
    MissingExtraError
        If torch is not installed.
    """
    from bilstm.training import events

    tell, clock = begin_training(progress)
    if encoder is None and (isinstance(texts, Ragged) or isinstance(valid, Ragged)):
        raise UsageError("ids need the encoder that made them.", "Give encoder=..., or texts.")
    train_rows, dev_rows = _development_part(texts, config, valid is not None)
    with clock.phase("encode"):
        if encoder is None:
            encoder = build_encoder(_take(texts, train_rows), config)  # type: ignore[arg-type]
        train_ids = _encoded(_take(texts, train_rows), encoder)
        dev_ids = _encoded(_take(texts, dev_rows) if valid is None else valid, encoder)
    if valid is None and config.dev_share is None:
        train_ids, train_rows, dev_ids, dev_rows = _with_smaller_dev(train_ids, train_rows, dev_ids, dev_rows)
    for ids, name in ((train_ids, "training"), (dev_ids, "development")):
        if len(ids.values) == 0:
            raise DataError(f"the {name} part holds no words.", "Give more texts, or a file with --valid.")
    config = for_data(config, len(train_ids.values))
    if vectors is not None and vectors.shape != (len(encoder.vocabulary), config.embedding_size):
        raise UsageError(
            f"vectors must have shape ({len(encoder.vocabulary)}, {config.embedding_size}), got {vectors.shape}."
        )
    tell(events.Note(_plan(train_ids, dev_ids, encoder, config)))
    net, result = _train(train_ids, dev_ids, encoder, config, vectors, checkpoint, resume, tell, clock, stop)
    from bilstm.layers.model import weights_of

    model = LanguageModel.of(encoder, net.description, weights_of(net), threads=config.threads)
    with clock.phase("evaluate"):
        metrics = model.evaluate(dev_ids) if result.best_epoch else {}
    return LanguageOutcome(model, config, result, train_rows, dev_rows, train_ids, dev_ids, metrics, clock.seconds)


def build_encoder(texts: Sequence[str], config: Config) -> TextEncoder:
    """Build the encoder from the training part alone."""
    tokenizer = tokenizer_for(config.tokenizer, texts, config.vocabulary_size, config.lowercase)
    min_count = config.min_count if len(texts) >= FEW_TEXTS else 1
    counts = count_tokens(tokenizer, texts)
    return TextEncoder.of_counts(counts, tokenizer, max_size=config.vocabulary_size, min_count=min_count)


def _development_part(texts: Sequence[str] | Ragged, config: Config, is_given: bool) -> tuple[np.ndarray, np.ndarray]:
    count = len(texts)
    if is_given:
        return np.arange(count), np.zeros(0, dtype=np.int64)
    if count < 2:
        raise DataError(f"{count} texts are too few to train on and to choose by.", "Give more texts.")
    dev = min(max(round(count * (config.dev_share or DEV_SHARE)), 1), count - 1)
    train_rows, dev_rows = split_rows(np.zeros(count), [count - dev, dev], config.seed)
    return train_rows, dev_rows


def _take(texts: Sequence[str] | Ragged, rows: np.ndarray) -> Sequence[str] | Ragged:
    return texts.select(rows) if isinstance(texts, Ragged) else [texts[int(row)] for row in rows]


def _encoded(texts: Sequence[str] | Ragged, encoder: TextEncoder) -> Ragged:
    return texts if isinstance(texts, Ragged) else encode_texts(encoder, texts)


def _with_smaller_dev(
    train_ids: Ragged, train_rows: np.ndarray, dev_ids: Ragged, dev_rows: np.ndarray
) -> tuple[Ragged, np.ndarray, Ragged, np.ndarray]:
    """Give development texts back to the training part where they hold more words than choosing needs."""
    kept = max(1, int(np.searchsorted(np.cumsum(dev_ids.lengths), MOST_DEV_WORDS, side="right")))
    if kept >= len(dev_ids):
        return train_ids, train_rows, dev_ids, dev_rows
    back = dev_ids.select(np.arange(kept, len(dev_ids)))
    values = np.concatenate([train_ids.values, back.values])
    offsets = np.concatenate([train_ids.offsets, train_ids.offsets[-1] + back.offsets[1:]])
    rows = np.concatenate([train_rows, dev_rows[kept:]])
    return Ragged(values, offsets), rows, dev_ids.select(np.arange(kept)), dev_rows[:kept]


def _plan(train_ids: Ragged, dev_ids: Ragged, encoder: TextEncoder, config: Config) -> str:
    shapes = description.weight_shapes(describe_model(config, len(encoder.vocabulary))).values()
    parameters = sum(math.prod(shape) for shape in shapes)
    passes = (config.max_epochs or 0) / parts_of_pass(config, len(train_ids.values))
    return (
        f"{len(train_ids):,} texts of {len(train_ids.values):,} words to train on, {passes:.3g} times; "
        f"{len(dev_ids.values):,} words to choose the epoch by; {len(encoder.vocabulary):,} known tokens, "
        f"{parameters:,} parameters in the layers."
    )


def _device(config: Config) -> str:
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: torch finds no GPU here.", "Use device cpu or auto.")
    return "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"


def _train(
    train_ids: Ragged,
    dev_ids: Ragged,
    encoder: TextEncoder,
    config: Config,
    vectors: np.ndarray | None,
    checkpoint: str | None,
    resume: bool,
    tell: Listener,
    clock: Clock,
    stop: Callable[[], bool] | None,
) -> tuple[LanguageNet, TrainResult]:
    """Train the torch face; return it with its best weights."""
    import torch

    from bilstm.layers.language import build_language_net
    from bilstm.layers.randomness import Randomness
    from bilstm.training.loop import train

    device = _device(config)
    size = len(encoder.vocabulary)
    randomness = Randomness(config.seed)
    precision = "float32" if device == "cuda" else resolve_precision(config.backend, config.precision)
    net = build_language_net(
        describe_model(config, size),
        randomness,
        word_dropout=config.word_dropout,
        backend="auto" if device == "cuda" else config.backend,
        precision=precision,
        threads=config.threads,
    )
    is_going_on = resume and checkpoint is not None and os.path.isdir(checkpoint)
    if vectors is None and config.vectors == "in-domain" and not is_going_on:
        from bilstm.training.word_vectors import train_word_vectors

        with clock.phase("word vectors"):
            vectors = train_word_vectors(
                train_ids, size, config.embedding_size, epochs=config.vector_epochs, seed=config.seed,
                backend=config.backend, threads=config.threads, progress=tell,
            )  # fmt: skip
    if vectors is not None:
        with torch.no_grad():
            net.table.copy_(torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32)))
    objective = _Objective(net, Pieces.of(train_ids, size, config.piece_length), dev_ids, config, precision)
    with torch.no_grad():  # an untrained model that knows how frequent words are
        net.head.get_parameter("bias").copy_(torch.from_numpy(np.log(objective.shares)))
    net.to(device)
    with clock.phase("training"):
        result = train(
            net,
            objective.step_loss,
            objective.dev_score,
            objective.batches_of_epoch,
            config,
            checkpoint=checkpoint,
            resume=resume,
            progress=tell,
            stop=stop,
            randomness=randomness,
            data_fingerprint=_fingerprint(train_ids, dev_ids, encoder),
        )
    return net.to("cpu"), result


def _fingerprint(train_ids: Ragged, dev_ids: Ragged, encoder: TextEncoder) -> str:
    digest = hashlib.sha256(encoder.to_json().encode())
    for array in (train_ids.values, train_ids.offsets, dev_ids.values, dev_ids.offsets):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class _Objective:
    """Batches, loss of a batch and score of the development part."""

    def __init__(self, net: LanguageNet, pieces: Pieces, dev_ids: Ragged, config: Config, precision: str):
        from bilstm.training.sampled_softmax import WordSampler

        self._net, self._pieces, self._config, self._precision = net, pieces, config, precision
        boundary = len(net.table)
        self._dev = Pieces.of(dev_ids, boundary)
        self._parts = parts_of_pass(config, len(pieces.ids.values))
        counts = np.bincount(pieces.forward_targets, minlength=boundary + 1)
        self.shares = (counts + 1.0) / (counts + 1.0).sum()  # of each word, and of the boundary, among the targets
        sample = boundary + 1 if config.softmax == "full" else config.sample_size
        self._sampler = WordSampler(counts, sample)

    def batches_of_epoch(self, epoch: int) -> list[WordRows]:
        """Return one part of a pass; the batches of a pass follow from its number and the seed."""
        number, part = divmod(epoch - 1, self._parts)
        config, lengths = self._config, self._pieces.ids.lengths
        batches = epoch_batches(
            lengths,
            max_rows=config.batch_size,
            max_steps=config.batch_steps or 2**40,
            seed=config.seed,
            epoch=number + 1,
        )
        parts = min(self._parts, len(batches))
        chosen = np.array_split(np.arange(len(batches)), parts)[part % parts]
        return [WordRows(batches[at], int(lengths[batches[at]].sum())) for at in chosen]

    def step_loss(self, batch: WordRows) -> Any:
        """Return the mean surprise of a prediction, in nats, with the batch's sample in the denominator."""
        import torch

        from bilstm.training.sampled_softmax import sampled_cross_entropy

        net = self._net
        words = self._pieces.select(batch.rows)
        sample = self._sampler.draw(net.randomness.generator, net.table.device)
        features, truth, weight, bias = net.step_parts(words, sample.words)
        targets = torch.as_tensor(words.targets, device=features.device)
        return sampled_cross_entropy(features, targets, sample, weight, bias, truth, self._precision)  # type: ignore[arg-type]

    def dev_score(self) -> Any:
        """Return minus the mean surprise over the development part, with the full softmax."""
        import torch

        from bilstm.data.batching import ordered_batches
        from bilstm.training.loop import DevScore

        net = self._net
        every = torch.arange(len(net.table) + 1, device=net.table.device)
        weight, bias = net.output_rows(every)
        block = max(1, DEV_BLOCK_LOGITS // len(every))
        total, count = 0.0, 0
        for rows in ordered_batches(self._dev.ids.lengths, max_rows=64, max_steps=16_384):
            words = self._dev.select(rows)
            features = net.features(words)
            targets = torch.as_tensor(words.targets, device=features.device)
            for start in range(0, len(targets), block):
                logits = torch.addmm(bias, features[start : start + block], weight.t())
                own = targets[start : start + block]
                total += float(torch.nn.functional.cross_entropy(logits, own, reduction="sum"))
            count += len(targets)
        return DevScore(-total / count, total / count)
