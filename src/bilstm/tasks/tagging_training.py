"""How a tagger is trained: schemes, development part, encoder, word vectors, the loop.

The second half of `sequence_tagging.py`. Imports torch only inside the functions, so that a machine that only predicts
never needs it.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm.data.batching import epoch_batches, ordered_batches
from bilstm.data.ragged import Ragged
from bilstm.data.splitting import split_rows
from bilstm.data.tagged_sentences import TaggedSentences
from bilstm.data.tags import Scheme, allowed_tags, convert_tags, detect_scheme, tags_to_spans
from bilstm.data.word_encoder import EncodedWords, WordEncoder
from bilstm.errors import DataError, UsageError
from bilstm.metrics import fit_temperature
from bilstm.runtime.crf import build_lattice, decode
from bilstm.runtime.engine_recurrent import resolve_precision
from bilstm.runtime.tagger import Tagger as RuntimeTagger
from bilstm.runtime.tagger import TaggerLayers
from bilstm.tasks.joined_intents import expected_counts, join_intents, tag_log_shares
from bilstm.tasks.outside_score import OUTSIDE, OutsideShift, fit_outside_shift
from bilstm.tasks.phases import Clock, begin_training
from bilstm.tasks.sequence_tagging import BATCH_ROWS, BATCH_STEPS, Config, TaggerModel, describe_tagger, for_data
from bilstm.tasks.tagging_baseline import most_frequent_tags
from bilstm.tasks.tagging_scores import KnownWords, main_score, score_tagging, unknown_labels

if TYPE_CHECKING:
    from bilstm.training.events import Listener
    from bilstm.training.loop import TrainResult

__all__ = ["TaggingOutcome", "fit_tagger"]

FEW_TOKENS = 5_000  # below it a word that stands once may still be the only sign of its tag


@dataclass
class TaggingOutcome:
    """What `fit_tagger` gives: the model, and everything the report says about how it came about.

    Parameters
    ----------
    model : TaggerModel
    config : Config
        With what was left to the data filled in.
    result : TrainResult
    train, dev : TaggedSentences
        Sentences that trained, and that chose.
    dev_tags : list of list of str
        Answers on the development part.
    dev_intents : list of str or None
    dev_metrics, baseline_metrics : dict
        Of the model, and of tagging every word with its most frequent tag.
    seconds : dict of str to float
    notes : list of str
    """

    model: TaggerModel
    config: Config
    result: TrainResult
    train: TaggedSentences
    dev: TaggedSentences
    dev_tags: list[list[str]]
    dev_intents: list[str] | None
    dev_metrics: dict[str, Any]
    baseline_metrics: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def fit_tagger(
    sentences: TaggedSentences,
    config: Config,
    *,
    valid: TaggedSentences | None = None,
    unlabelled: Sequence[Sequence[str]] = (),
    checkpoint: str | None = None,
    resume: bool = False,
    progress: Listener | None = None,
) -> TaggingOutcome:
    """Train a tagger.

    Parameters
    ----------
    sentences : TaggedSentences
        With tags; with intents if they are to be learned.
    config : Config
    valid : TaggedSentences, optional
        Development part; by default a share `config.dev_share` of the sentences, drawn with `config.seed`.
    unlabelled : sequence of token lists
        Text for in-domain word vectors.
    checkpoint, resume, progress
        As in `training.train`.

    Raises
    ------
    DataError
        Too few sentences, one tag only, tags of mixed kinds; the message names file and line.
    MissingExtraError
        If torch is not installed.
    """
    from bilstm.training import events

    tell, clock = begin_training(progress)
    with clock.phase("encode"):
        train, dev = _parts(sentences, valid, config)
        config = for_data(config, np.array([len(row) for row in train.sentences]))
        schemes, notes = _schemes(sentences, valid, config)
        for note in notes:
            tell(events.Note(note))
        coder = _TagCoder.build(train, schemes, config)
        encoder = WordEncoder.build(
            _tokens(train, coder.lowercase),
            max_size=config.vocabulary_size,
            min_count=config.min_count if sum(map(len, train.tokens)) >= FEW_TOKENS else 1,
            extra_words=[] if config.vectors == "random" else unlabelled,
        )
        parts = [_Part.of(part, encoder, coder) for part in (train, dev)]
    layers, weights, result = _train_layers(
        parts[0], parts[1], encoder, coder, config, unlabelled, checkpoint, resume, tell, clock
    )
    with clock.phase("evaluate"):
        tagger = RuntimeTagger(layers, weights, allowed_tags(coder.tags, coder.inner_scheme))
        known = KnownWords.of(train.tokens, train.tags or [], coder.scheme != "none")
        model = TaggerModel(
            encoder, coder.tags, coder.inner_scheme, coder.scheme, coder.intents, tagger, weights, known,
            coder.lowercase,
        )  # fmt: skip
        shift = _move_outside_score(model, parts[1], config)
        emissions, logits = model.scores(parts[1].words)
        dev_tags = model.tags_of(emissions)
        if logits is not None and (note := _calibrate_intents(model, parts[0], parts[1], emissions, logits, config)):
            notes.append(note)
            tell(events.Note(note))
        dev_intents = None if logits is None else model.intents_of(logits, dev.tokens, emissions)
        metrics = model.measure(dev, dev_tags, dev_intents)
        baseline = model.measure(dev, most_frequent_tags(train, dev, coder.scheme), None)
        if note := shift.note():
            notes.append(note)
            tell(events.Note(note))
    for labels in unknown_labels(metrics):
        notes.append(f"The development part has {labels}.")
        tell(events.Note(notes[-1]))
    return TaggingOutcome(
        model, config, result, train, dev, dev_tags, dev_intents, metrics, baseline, clock.seconds, notes
    )  # fmt: skip


def _calibrate_intents(
    model: TaggerModel, train: _Part, dev: _Part, emissions: Ragged, logits: np.ndarray, config: Config
) -> str | None:
    """Fit the temperature of the intents, then what is joined to them; return what was done."""
    rows = np.flatnonzero(dev.intents >= 0)
    if not len(rows):
        return None
    temperature = fit_temperature(logits[rows], dev.intents[rows])
    model.intent_temperature = temperature.value
    if not config.join_linear:
        return None
    tokens = dev.sentences.tokens
    chosen = emissions.select(rows)
    model.joined, note = join_intents(
        (train.sentences.tokens, train.intents),
        ([tokens[row] for row in rows], dev.intents[rows]),
        logits[rows],
        expected_counts(build_lattice(chosen, model.tagger.crf).marginals, chosen.offsets),
        tag_log_shares(train.words.types.with_values(train.tags), train.intents, (len(model.intents), len(model.tags))),
        temperature.loss_after,
        config.seed,
    )
    return note


def _move_outside_score(model: TaggerModel, dev: _Part, config: Config) -> OutsideShift:
    """Fit the score of O on the development part, and make it part of the model's weights."""
    if config.outside_score == "trained" or model.scheme == "none" or OUTSIDE not in model.tags:
        return OutsideShift(0.0, 0.0, 0.0)
    gold = [tags_to_spans(row) for row in dev.sentences.tags or []]
    shift = fit_outside_shift(model.scores(dev.words)[0], model.tagger.crf, model.tags, gold)
    if shift.value:
        model.add_to_tag(OUTSIDE, shift.value)
    return shift


# ---- data ----------------------------------------------------------------------------------------------------------


def _parts(
    sentences: TaggedSentences, valid: TaggedSentences | None, config: Config
) -> tuple[TaggedSentences, TaggedSentences]:
    """Return sentences that train and sentences that choose."""
    for part, name in ((sentences, "training data"), (valid, "development part")):
        if part is not None and part.tags is None:
            raise DataError(f"The {name} has sentences without tags.", "Each token needs a tag.")
    if valid is not None:
        if not len(valid):
            raise DataError("The development part has no sentences.")
        return sentences, valid
    count = len(sentences)
    if count < 2:
        raise DataError(f"{count} sentences are too few to train on and to choose by.", "Give more, or --valid.")
    dev = min(max(round(config.dev_share * count), 1), count - 1)
    classes = np.array(sentences.intents if sentences.intents is not None else [""] * count)
    train_rows, dev_rows = split_rows(classes, [count - dev, dev], config.seed)
    return sentences.select(train_rows), sentences.select(dev_rows)


def _schemes(sentences: TaggedSentences, valid: TaggedSentences | None, config: Config) -> tuple[Scheme, list[str]]:
    """Find the scheme of the training files; say where tags break it, there and in the development part."""
    given = None if config.scheme == "auto" else config.scheme
    notes: list[str] = []
    found: list[Scheme] = []
    for part in [sentences] if valid is None else [sentences, valid]:
        finding = detect_scheme(part.tags or [], part.where, given)
        found.append(finding.scheme)
        if note := finding.note(part.where):
            notes.append(note)
    if len(found) == 2 and "none" in found and found[0] != found[1]:
        raise DataError(
            f"Tags of the training data are of scheme {found[0]}, those of the development part of {found[1]}.",
            "Name the scheme with --scheme, or give files of one kind.",
        )
    if len(found) == 2 and found[0] != found[1]:
        notes.append(f"The development part is written in {found[1]}, training in {found[0]}; both are read as spans.")
    return found[0], notes


def _tokens(sentences: TaggedSentences, lowercase: bool) -> list[list[str]]:
    return [[token.lower() for token in row] for row in sentences.tokens] if lowercase else sentences.tokens


@dataclass(frozen=True)
class _TagCoder:
    """Numbers for tags, intents and auxiliary labels, from the training part alone."""

    tags: tuple[str, ...]
    scheme: Scheme
    inner_scheme: Scheme
    intents: tuple[str, ...]
    auxiliary: dict[str, tuple[str, ...]]
    lowercase: bool

    @classmethod
    def build(cls, train: TaggedSentences, scheme: Scheme, config: Config) -> _TagCoder:
        inner: Scheme = "none" if scheme == "none" else config.train_scheme
        counts = Counter(tag for row in train.tags or [] for tag in convert_tags(row, inner))
        tags = tuple(sorted(counts, key=lambda tag: (tag != "O", tag)))
        if len(tags) < 2:
            raise DataError(
                f"All {sum(counts.values())} training tokens have the same tag {tags[0]!r}."
                if tags
                else "The training data has no tokens.",
                "There is nothing to learn from one tag; is the label column the right one?",
            )
        intents = tuple(sorted(set(train.intents or [])))
        auxiliary = {}
        for name in config.auxiliary or ():
            values = {value for row in train.sentences for value in row.columns.get(name, [])}
            if not values:
                known = sorted({column for row in train.sentences for column in row.columns})
                raise UsageError(f"auxiliary: there is no column {name!r}; further columns are {', '.join(known)}.")
            auxiliary[name] = tuple(sorted(values))
        has_capitals = any(token != token.lower() for row in train.tokens for token in row)
        return cls(tags, scheme, inner, intents if len(intents) > 1 else (), auxiliary, not has_capitals)


@dataclass(frozen=True, eq=False)
class _Part:
    """Encoded sentences: words, tags (-1 for a tag that training lacks), intents, auxiliary labels."""

    sentences: TaggedSentences
    words: EncodedWords
    tags: np.ndarray  # (steps,)
    intents: np.ndarray  # (sentences,)
    auxiliary: dict[str, np.ndarray]  # each (steps,)

    @classmethod
    def of(cls, sentences: TaggedSentences, encoder: WordEncoder, coder: _TagCoder) -> _Part:
        number = {tag: at for at, tag in enumerate(coder.tags)}
        rows = [convert_tags(row, coder.inner_scheme) for row in sentences.tags or []]
        intents = {name: at for at, name in enumerate(coder.intents)}
        auxiliary = {}
        for name, values in coder.auxiliary.items():
            place = {value: at for at, value in enumerate(values)}
            labels = [row.columns.get(name, [""] * len(row)) for row in sentences.sentences]
            auxiliary[name] = np.array([place.get(value, -1) for row in labels for value in row], dtype=np.int64)
        return cls(
            sentences,
            encoder.encode(_tokens(sentences, coder.lowercase)),
            np.array([number.get(tag, -1) for row in rows for tag in row], dtype=np.int64),
            np.array([intents.get(name or "", -1) for name in _intents(sentences)], dtype=np.int64),
            auxiliary,
        )

    def of_rows(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Take the steps of some sentences from an array of one value a step."""
        return self.words.types.with_values(values).select(rows).values

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for array in (self.words.words.values, self.words.types.offsets, self.tags, self.intents):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _intents(sentences: TaggedSentences) -> list[str | None]:
    return [sentence.intent for sentence in sentences.sentences]


# ---- training ------------------------------------------------------------------------------------------------------


def _train_layers(
    train_part: _Part,
    dev_part: _Part,
    encoder: WordEncoder,
    coder: _TagCoder,
    config: Config,
    unlabelled: Sequence[Sequence[str]],
    checkpoint: str | None,
    resume: bool,
    tell: Listener,
    clock: Clock,
) -> tuple[TaggerLayers, dict[str, np.ndarray], TrainResult]:
    """Train the torch face of the model; return its description and best weights."""
    from bilstm.layers.randomness import Randomness
    from bilstm.layers.tagger import Tagger, runtime_weights
    from bilstm.training.loop import train

    layers = describe_tagger(config, encoder, len(coder.tags), len(coder.intents))
    randomness = Randomness(config.seed)
    net = Tagger(
        layers,
        allowed_tags(coder.tags, coder.inner_scheme),
        randomness,
        {name: len(values) for name, values in coder.auxiliary.items()},
        backend=config.backend,
        precision=resolve_precision(config.backend, config.precision),
        threads=config.threads,
    )
    _scale_embeddings(net)
    is_going_on = resume and checkpoint is not None and os.path.isdir(checkpoint)
    if config.vectors == "in-domain" and not is_going_on:
        with clock.phase("word vectors"):
            _put_word_vectors(net, train_part, encoder, unlabelled, config, tell)
    objective = _Objective(net, train_part, coder, config)
    with clock.phase("training"):
        result = train(
            net,
            objective.step_loss,
            lambda: objective.dev_score(dev_part),
            lambda epoch: epoch_batches(
                train_part.words.lengths,
                max_rows=config.batch_size,
                max_steps=config.batch_steps or 2**40,
                seed=config.seed,
                epoch=epoch,
            ),
            config,
            checkpoint=checkpoint,
            resume=resume,
            progress=tell,
            randomness=randomness,
            data_fingerprint=f"{train_part.fingerprint()} {dev_part.fingerprint()}",
        )
    return layers, runtime_weights(net), result


def _scale_embeddings(net: Any) -> None:
    """Draw embeddings with variance 1 over their size (Ma and Hovy 2016, section 3.1)."""
    import torch

    from bilstm.layers.embedding import Embedding

    with torch.no_grad():
        for module in net.features.modules():
            if isinstance(module, Embedding):
                bound = (3.0 / module.description.size) ** 0.5
                module.weight.mul_(bound / 0.05)  # they were drawn uniformly from -0.05 to 0.05


def _put_word_vectors(
    net: Any, part: _Part, encoder: WordEncoder, unlabelled: Sequence[Sequence[str]], config: Config, tell: Listener
) -> None:
    import torch

    from bilstm.training.word_vectors import train_word_vectors

    own, further = part.words.words, encoder.encode(unlabelled).words
    ids = Ragged(
        np.concatenate([own.values, further.values]),
        np.concatenate([own.offsets, own.offsets[-1] + further.offsets[1:]]),
    )
    vectors = train_word_vectors(
        ids,
        len(encoder.words),
        config.word_size,
        window=3,
        epochs=config.vector_epochs,
        scale=config.word_size**-0.5,  # the spread that random vectors have, see `_scale_embeddings`
        seed=config.seed,
        backend=config.backend,
        threads=config.threads,
        progress=tell,
    )
    table = net.features.words.layers[-1].weight
    seen = torch.from_numpy(np.abs(vectors).sum(axis=1) > 0)
    with torch.no_grad():
        table[seen] = torch.from_numpy(vectors)[seen]


class _Objective:
    """Loss of a batch and score of the development part."""

    def __init__(self, net: Any, part: _Part, coder: _TagCoder, config: Config):
        self._net, self._part, self._coder, self._config = net, part, coder, config
        own = {id(weight) for weight in net.features.parameters()}
        self._later = [weight for weight in net.parameters() if id(weight) not in own and weight.requires_grad]

    def step_loss(self, rows: np.ndarray) -> Any:
        """Return the loss of the training rows: mean over tokens of the tags' loss, and the further heads' shares."""
        from bilstm.training.objectives import adversarial_loss

        features = self._net.features(self._part.words.batch(rows))
        norm = self._config.adversarial_norm

        def loss_of(values: Ragged) -> Any:
            return self._loss(self._net.run_from_features(values), self._part, rows)

        if norm is None:
            return loss_of(features)
        plain, adversarial = adversarial_loss(loss_of, features, norm, self._later)
        return 0.5 * (plain + adversarial)

    def _loss(self, scores: Any, part: _Part, rows: np.ndarray) -> Any:
        import torch
        from torch.nn import functional

        tags = torch.from_numpy(part.of_rows(part.tags, rows))
        loss = self._tag_loss(scores.emissions, tags)
        if scores.intent is not None:
            intents = torch.from_numpy(part.intents[rows])
            if bool((intents >= 0).any()):
                loss = loss + self._config.intent_weight * functional.cross_entropy(
                    scores.intent, intents, ignore_index=-1
                )
        for name, logits in scores.auxiliary.items():
            labels = torch.from_numpy(part.of_rows(part.auxiliary[name], rows))
            if bool((labels >= 0).any()):
                loss = loss + self._config.auxiliary_weight * functional.cross_entropy(logits, labels, ignore_index=-1)
        return loss

    def _tag_loss(self, emissions: Ragged, tags: Any) -> Any:
        """Mean over tokens; sentences with a tag that training lacks are left out."""
        from torch.nn import functional

        if not bool((tags >= 0).any()):
            return emissions.values.sum() * 0.0
        if self._net.crf is None:
            return functional.cross_entropy(
                emissions.values, tags, ignore_index=-1, label_smoothing=self._config.label_smoothing
            )
        if bool((tags >= 0).all()):
            return self._net.crf.loss(emissions, emissions.with_values(tags)).sum() / len(tags)
        kept = [row for row in range(len(emissions)) if bool((emissions.with_values(tags)[row] >= 0).all())]
        if not kept:
            return emissions.values.sum() * 0.0
        parts = [_taken(batch, kept) for batch in (emissions, emissions.with_values(tags))]
        return self._net.crf.loss(parts[0], parts[1]).sum() / max(len(parts[1].values), 1)

    def dev_score(self, part: _Part) -> Any:
        """Return the score by which the best epoch is chosen, and the mean loss."""
        from bilstm.training.loop import DevScore

        coder = self._coder
        answers: list[list[str]] = [[] for _ in range(len(part.words))]
        intents: list[str] | None = [""] * len(part.words) if coder.intents else None
        loss = 0.0
        weights = self._runtime_crf()
        for rows in ordered_batches(part.words.lengths, max_rows=BATCH_ROWS, max_steps=BATCH_STEPS):
            scores = self._net(part.words.batch(rows))
            loss += float(self._loss(scores, part, rows)) * len(rows)
            emissions = Ragged(scores.emissions.values.numpy(), np.asarray(scores.emissions.offsets))
            best, _ = decode(emissions, weights)
            for place, row in enumerate(rows):
                answers[row] = [coder.tags[tag] for tag in best[place]]
                if intents is not None:
                    intents[row] = coder.intents[int(scores.intent[place].argmax())]
        known = KnownWords()
        found = score_tagging(
            part.sentences, answers, intents, has_spans=coder.scheme != "none", known=known, known_tags=set()
        )
        return DevScore(main_score(found)[1], loss / len(part.words))

    def _runtime_crf(self) -> Any:
        from bilstm.runtime.crf import CrfWeights

        if self._net.crf is not None:
            return self._net.crf.weights()
        count = len(self._coder.tags)
        return CrfWeights(np.zeros((count, count)), np.zeros(count), np.zeros(count))


def _taken(batch: Ragged, rows: list[int]) -> Ragged:
    """Take some sequences of a torch batch."""
    import torch

    parts = [batch[row] for row in rows]
    lengths = [len(part) for part in parts]
    return Ragged(torch.cat(parts), torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64))
