"""Sequence tagging: sentences with a tag for every token in, a model that tags new ones out.

Order of the file: settings, description of the layers, the model as it runs (encode, scores, decode, score). Entities,
parts of speech, slots with an intent for the whole sentence: `data.tags` says which tags write spans. How it is trained
stands in `tagging_training.py`. Imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from bilstm import config as settings
from bilstm import description
from bilstm.config import to_mapping
from bilstm.data.batching import ordered_batches
from bilstm.data.ragged import Ragged
from bilstm.data.tagged_sentences import TaggedSentences
from bilstm.data.tags import Scheme, allowed_tags, convert_tags, tags_to_spans
from bilstm.data.word_encoder import TRAITS, EncodedWords, WordEncoder
from bilstm.description import Layer
from bilstm.errors import ModelFolderError, UsageError
from bilstm.metrics import apply_temperature
from bilstm.model_folder import save_model
from bilstm.runtime.crf import Lattice, build_lattice, decode, n_best
from bilstm.runtime.tagger import Tagger, TaggerLayers
from bilstm.strict_json import read_strict_json, write_json
from bilstm.tasks.joined_intents import JoinedIntents, expected_counts
from bilstm.tasks.tagged_rows import FoundSpan, Sentence, TaggedRow, prepared_sentences
from bilstm.tasks.tagging_scores import KnownWords, score_tagging
from bilstm.train_config import TrainConfig

__all__ = ["TASK", "Config", "FoundSpan", "TaggedRow", "TaggerModel", "describe_tagger", "for_data"]

TASK = "sequence-tagging"
BATCH_ROWS, BATCH_STEPS = 256, 16_384  # of prediction


# ---- settings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config(TrainConfig):
    """Settings of a tagger: those of training, and of the model."""

    max_epochs: int | None = settings.field(  # type: ignore[assignment]  # an int once `for_data` has seen the data
        None,
        help="Passes over the training data at most; none: 12 for many sentences, up to 60 for few.",
        minimum=1,
        maximum=100_000,
    )
    batch_size: int = settings.field(32, help="Sentences per batch at most.", unit="rows", minimum=1, maximum=1_000_000)
    batch_steps: int | None = settings.field(
        4_000, help="Tokens of all sentences of a batch together at most.", unit="steps", minimum=1, maximum=2**40
    )
    learning_rate: float = settings.field(
        0.002, help="Step size of the optimizer at its peak.", above=0.0, maximum=100.0
    )
    schedule: Literal["constant", "linear", "cosine", "one-cycle"] = settings.field(
        "cosine", help="How the learning rate falls after the warm-up."
    )
    warmup: float | None = settings.field(
        0.05, help="Share of the run during which the learning rate rises.", minimum=0.0, below=1.0
    )
    patience: int | None = settings.field(
        6,
        help="Stop after so many epochs with neither a better development score nor a lower development loss.",
        unit="epochs",
        minimum=1,
    )
    average_decay: float | None = settings.field(
        0.998,
        help="Decay of the running mean of weights that is evaluated and kept; less where a run has few batches.",
        above=0.0,
        below=1.0,
    )
    adversarial_norm: float | None = settings.field(
        1.0, help="Norm of the adversarial change of a sentence's word features; none: no such change.", above=0.0
    )
    head: Literal["crf", "softmax"] = settings.field(
        "crf", help="Score whole tag sequences (crf), or each step by itself (softmax)."
    )
    outside_score: Literal["fitted", "trained"] = settings.field(
        "fitted",
        help="Score of the tag O: as trained, or moved by one number for the best span F1 on the development part.",
    )
    scheme: Literal["auto", "IOB1", "IOB2", "IOBES", "BILOU", "BMES", "none"] = settings.field(
        "auto", help="How the tags of the files write spans; none: they write none. auto: told from the tags."
    )
    train_scheme: Literal["IOBES", "IOB2"] = settings.field("IOBES", help="Tags of spans inside the model.")
    auxiliary: tuple[str, ...] | None = settings.field(
        None, help="Further columns to learn beside the tags, joined by commas; their labels are not kept."
    )
    auxiliary_weight: float = settings.field(0.3, help="Weight of each further column in the loss.", minimum=0.0)
    intent_weight: float = settings.field(0.1, help="Weight of the intent in the loss.", minimum=0.0)
    join_linear: bool = settings.field(
        True, help="Add tags and a linear n-gram model to scores of intents where the development part gains by it."
    )
    vocabulary_size: int = settings.field(100_000, help="Most frequent words that are known.", minimum=2, maximum=10**7)
    min_count: int = settings.field(2, help="Words that occur less often in training are unknown.", minimum=1)
    dev_share: float = settings.field(
        0.1, help="Share of the training sentences that choose the epoch.", above=0.0, below=1.0
    )
    word_size: int = settings.field(100, help="Features of a word vector.", minimum=1, maximum=65_536)
    vectors: Literal["in-domain", "random"] = settings.field(
        "in-domain", help="Where word vectors start: learned first from training and unlabelled text, or random."
    )
    vector_epochs: int = settings.field(10, help="Passes that learn in-domain word vectors.", minimum=1, maximum=1000)
    characters: Literal["convolution", "lstm", "none"] = settings.field(
        "convolution", help="How a word is read letter by letter."
    )
    character_size: int = settings.field(32, help="Features of a character vector.", minimum=1, maximum=65_536)
    character_features: int = settings.field(
        64, help="Features that the characters of a word give.", minimum=2, maximum=65_536
    )
    trait_size: int | None = settings.field(
        16, help="Features of each trait of a word (casing, shape, prefixes, suffixes); none: no traits.", minimum=1
    )
    hidden_size: int = settings.field(192, help="Units of a recurrent layer, per direction.", minimum=1, maximum=65_536)
    num_layers: int = settings.field(1, help="Recurrent layers on top of each other.", minimum=1, maximum=64)
    cell: Literal["lstm", "gru", "rnn"] = settings.field("lstm", help="Recurrent cell.")
    word_dropout: float = settings.field(0.1, help="Share of words made unknown in training.", minimum=0.0, below=1.0)
    trait_dropout: float = settings.field(0.0, help="Share of traits left out in training.", minimum=0.0, below=1.0)
    embedding_dropout: float = settings.field(
        0.4, help="Share of word features dropped, the same for a whole sentence.", minimum=0.0, below=1.0
    )
    dropout: float = settings.field(
        0.4, help="Share of recurrent features dropped, the same for a whole sentence.", minimum=0.0, below=1.0
    )


TRAINING_STEPS = 2_000  # batches after which the recipe has learned what it will
FEWEST_EPOCHS, MOST_EPOCHS = 12, 60


def for_data(config: Config, lengths: np.ndarray) -> Config:
    """Fill in what the settings leave to the training sentences, whose lengths are given in tokens.

    Few sentences make few batches, and need more passes. The running mean of weights remembers a tenth of the run at
    most: in a short run a longer memory would keep weights that had learned nothing yet.
    """
    batches = max(len(lengths) / config.batch_size, float(lengths.sum()) / (config.batch_steps or 2**40), 1.0)
    values: dict[str, Any] = {}
    epochs = config.max_epochs
    if epochs is None:
        epochs = values["max_epochs"] = int(np.clip(np.ceil(TRAINING_STEPS / batches), FEWEST_EPOCHS, MOST_EPOCHS))
    if config.average_decay is not None:
        longest = 1.0 - 10.0 / max(batches * epochs, 20.0)
        values["average_decay"] = round(min(config.average_decay, longest), 6)
    return dataclasses.replace(config, **values)


# ---- description ---------------------------------------------------------------------------------------------------


def describe_tagger(config: Config, encoder: WordEncoder, tags: int, intents: int) -> TaggerLayers:
    """List the layers that the settings ask for."""
    words: list[Layer] = [description.WordDropout(config.word_dropout)] if config.word_dropout else []
    words.append(description.Embedding(len(encoder.words), config.word_size))
    features = config.word_size
    characters = _describe_characters(config, len(encoder.characters))
    if characters:
        features += characters[-1].output_size  # type: ignore[union-attr]
    traits: tuple[Layer, ...] = ()
    if config.trait_size is not None:
        traits = (description.Embedding(encoder.trait_rows, config.trait_size),)
        if config.trait_dropout:
            # Row 0, the unknown casing, stands for a trait that is left out.
            traits = (description.WordDropout(config.trait_dropout), *traits)
        features += config.trait_size * len(TRAITS)
    recurrent = description.Recurrent(
        config.cell,
        features,
        config.hidden_size,
        config.num_layers,
        dropout=config.dropout if config.num_layers > 1 else 0.0,
    )
    hidden = recurrent.output_size
    stack: list[Layer] = [recurrent]
    if config.embedding_dropout:
        stack.insert(0, description.Dropout(config.embedding_dropout, variational=True))
    if config.dropout:
        stack.append(description.Dropout(config.dropout, variational=True))
    intent: tuple[Layer, ...] = ()
    if intents:
        pooling = description.Pooling(hidden, ("max", "mean"))
        intent = (pooling, description.Linear(pooling.output_size, intents))
    return TaggerLayers(
        words=tuple(words),
        characters=characters,
        traits=traits,
        encoder=tuple(stack),
        tags=(description.Linear(hidden, tags),),
        intent=intent,
        crf=config.head == "crf",
    )


def _describe_characters(config: Config, count: int) -> tuple[Layer, ...]:
    """Characters of a word to one vector: Ma and Hovy 2016 (convolution), Lample et al. 2016 (lstm)."""
    if config.characters == "none":
        return ()
    embedding = description.Embedding(count, config.character_size)
    if config.characters == "convolution":
        convolution = description.Convolution(config.character_size, config.character_features, 3, "none")
        return embedding, convolution, description.Pooling(config.character_features, ("max",))
    recurrent = description.Recurrent("lstm", config.character_size, config.character_features // 2)
    return embedding, recurrent, description.Pooling(recurrent.output_size, ("last",))


# ---- the model as it runs ------------------------------------------------------------------------------------------


@dataclass
class TaggerModel:
    """A trained tagger without torch: what predicts, evaluates and is saved.

    Parameters
    ----------
    encoder : WordEncoder
    tags : tuple of str
        Tag of each score, in `inner_scheme`.
    inner_scheme, scheme : Scheme
        Of the model, and of the files it was trained on; "none" for both if tags write no spans.
    intents : tuple of str
    tagger : runtime.Tagger
    weights : dict of str to ndarray
    known : KnownWords
        Words and spans of the training part, to score unseen ones apart.
    lowercase : bool
        The training tokens had no capital letter; then none is read.
    intent_temperature : float
        Divides the network's scores of intents; fitted on the development part.
    joined : JoinedIntents, optional
        Tags and a linear model beside the network's scores of intents; then there is no temperature.
    """

    encoder: WordEncoder
    tags: tuple[str, ...]
    inner_scheme: Scheme
    scheme: Scheme
    intents: tuple[str, ...]
    tagger: Tagger
    weights: dict[str, np.ndarray]
    known: KnownWords = field(default_factory=KnownWords)
    lowercase: bool = False
    intent_temperature: float = 1.0
    joined: JoinedIntents | None = None

    def encode(self, sentences: Sequence[Sequence[str]]) -> EncodedWords:
        """Turn tokens into numbers."""
        return self.encoder.encode(
            [[token.lower() for token in tokens] for tokens in sentences] if self.lowercase else sentences
        )

    def scores(self, encoded: EncodedWords) -> tuple[Ragged, np.ndarray | None]:
        """Score tags (Ragged of (steps, tags)) and intents (rows, intents) of all sentences, in their order.

        Intents by the network alone; `intent_probabilities` and `intents_of` say what the whole model thinks.
        """
        emissions = np.zeros((len(encoded.types.values), len(self.tags)), dtype=np.float32)
        intents = np.zeros((len(encoded), len(self.intents)), dtype=np.float32) if self.intents else None
        for rows in ordered_batches(encoded.lengths, max_rows=BATCH_ROWS, max_steps=BATCH_STEPS):
            found, logits = self.tagger.run(encoded.batch(rows))
            starts = encoded.types.offsets[:-1][rows] - found.offsets[:-1]
            emissions[np.repeat(starts, found.lengths) + np.arange(len(found.values))] = found.values
            if intents is not None:
                intents[rows] = logits
        return Ragged(emissions, encoded.types.offsets), intents

    def tags_of(self, emissions: Ragged) -> list[list[str]]:
        """Find the best tags of scored sentences, in the scheme of the training files."""
        best, _ = decode(emissions, self.tagger.crf)
        names = [[self.tags[number] for number in best[row]] for row in range(len(best))]
        return [convert_tags(tags, self.scheme) for tags in names]

    def intent_probabilities(
        self, logits: np.ndarray, tokens: Sequence[Sequence[str]], emissions: Ragged, lattice: Lattice | None = None
    ) -> np.ndarray:
        """Turn what `scores` gave into probabilities (rows, intents), float64; `lattice` saves making it again."""
        if self.joined is None:
            return apply_temperature(logits, self.intent_temperature)
        marginals = (lattice or build_lattice(emissions, self.tagger.crf)).marginals
        return apply_temperature(self.joined.join(logits, tokens, expected_counts(marginals, emissions.offsets)), 1.0)

    def intents_of(self, logits: np.ndarray, tokens: Sequence[Sequence[str]], emissions: Ragged) -> list[str]:
        """Find the best intents of scored sentences."""
        best = self.intent_probabilities(logits, tokens, emissions).argmax(axis=1)
        return [self.intents[number] for number in best]

    def predict(self, sentences: Sequence[Sentence]) -> list[list[str]]:
        """Tag sentences.

        Parameters
        ----------
        sentences : sequence of token lists, or of texts
            Texts are cut into tokens by `data.word_spans`.

        Returns
        -------
        list of list of str
            One tag a token, in the scheme of the training files.
        """
        tokens = [row[0] for row in prepared_sentences(sentences)]
        return self.tags_of(self.scores(self.encode(tokens))[0])

    def predict_intents(self, sentences: Sequence[Sentence]) -> list[str]:
        """Return the intent of each sentence.

        Raises
        ------
        UsageError
            If the model was trained without intents.
        """
        if not self.intents:
            raise UsageError("This model was trained without intents.")
        tokens = [row[0] for row in prepared_sentences(sentences)]
        emissions, logits = self.scores(self.encode(tokens))
        assert logits is not None
        return self.intents_of(logits, tokens, emissions)

    def predict_spans(self, sentences: Sequence[Sentence]) -> list[list[FoundSpan]]:
        """Find spans with their places in the text and their probabilities.

        Parameters
        ----------
        sentences : sequence of texts, or of token lists
            The text of a token list is its tokens joined by single spaces.
        """
        return [row.spans for row in self.annotate(sentences)]

    def explain(self, sentence: Sentence, span: str | None = None, method: str = "auto") -> Any:
        """Say which words made the spans of a sentence; see `bilstm.explanation.tagger.explain_spans`."""
        from bilstm.explanation.tagger import explain_spans

        return explain_spans(self, sentence, span, method)

    def annotate(self, sentences: Sequence[Sentence]) -> list[TaggedRow]:
        """Say everything about each sentence: tokens with places, tags, spans with probabilities, intent."""
        prepared = prepared_sentences(sentences)
        words = [tokens for tokens, _, _ in prepared]
        emissions, logits = self.scores(self.encode(words))
        rows = []
        lattice = build_lattice(emissions, self.tagger.crf)
        intents = None if logits is None else self.intent_probabilities(logits, words, emissions, lattice)
        number_of = {tag: number for number, tag in enumerate(self.tags)}
        best, _ = decode(emissions, self.tagger.crf)
        for row, (tokens, text, offsets) in enumerate(prepared):
            inner = [self.tags[number] for number in best[row]]
            spans = []
            for span in tags_to_spans(inner) if self.inner_scheme != "none" else []:
                path = np.array([number_of[tag] for tag in inner[span.begin : span.end]])
                start, end = offsets[span.begin][0], offsets[span.end - 1][1]
                score = lattice.path_probability(row, span.begin, path)
                spans.append(FoundSpan(start, end, span.type, score, text[start:end]))
            at = int(intents[row].argmax()) if intents is not None else None
            rows.append(
                TaggedRow(
                    list(tokens),
                    convert_tags(inner, self.scheme),
                    offsets,
                    text,
                    spans,
                    None if at is None else self.intents[at],
                    None if at is None or intents is None else float(intents[row, at]),
                )
            )
        return rows

    def predict_n_best(self, sentences: Sequence[Sentence], n: int) -> list[list[tuple[list[str], float]]]:
        """Return the `n` most probable tag sequences of each sentence with their probabilities."""
        emissions, _ = self.scores(self.encode([row[0] for row in prepared_sentences(sentences)]))
        partition = build_lattice(emissions, self.tagger.crf).log_partition
        return [
            [
                (convert_tags([self.tags[tag] for tag in path], self.scheme), float(np.exp(score - partition[row])))
                for path, score in paths
            ]
            for row, paths in enumerate(n_best(emissions, self.tagger.crf, n))
        ]

    def evaluate(self, sentences: TaggedSentences) -> dict[str, Any]:
        """Score the model on tagged sentences; the result is ready for JSON (see `tagging_scores`)."""
        emissions, logits = self.scores(self.encode(sentences.tokens))
        intents = None if logits is None else self.intents_of(logits, sentences.tokens, emissions)
        return self.measure(sentences, self.tags_of(emissions), intents)

    def measure(
        self, sentences: TaggedSentences, tags: list[list[str]], intents: list[str] | None = None
    ) -> dict[str, Any]:
        """Score given answers against tagged sentences."""
        if sentences.tags is None:
            raise UsageError("The sentences have no tags to compare with.")
        return score_tagging(
            sentences,
            tags,
            intents,
            has_spans=self.scheme != "none",
            known=self.known,
            known_tags=self.classes,
            known_intents=set(self.intents),
        )

    def add_to_tag(self, tag: str, value: float) -> None:
        """Add a number to the score of a tag at every step; it becomes part of the weights."""
        name = f"tags.layers.{len(self.tagger.layers.tags) - 1}.bias"
        bias = self.weights[name].copy()
        bias[self.tags.index(tag)] += np.float32(value)
        self.weights = {**self.weights, name: bias}
        allowed = allowed_tags(self.tags, self.inner_scheme)
        self.tagger = Tagger(self.tagger.layers, self.weights, allowed)

    @property
    def classes(self) -> set[str]:
        """Types of spans, or tags where they write no spans, that the model can answer."""
        if self.scheme == "none":
            return set(self.tags)
        return {span.type for tag in self.tags for span in tags_to_spans([tag])}

    # -- folder

    def to_config(self) -> dict[str, Any]:
        """Write everything but weights and vocabularies as plain JSON values."""
        return {
            "task": TASK,
            "layers": self.tagger.layers.to_config(),
            "tags": list(self.tags),
            "inner_scheme": self.inner_scheme,
            "scheme": self.scheme,
            "intents": list(self.intents),
            "lowercase": self.lowercase,
            "intent_temperature": self.intent_temperature,
            "joined": None if self.joined is None else dataclasses.asdict(self.joined.words.joining),
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
        """Write the model as a folder, whole or not at all; return its path. Parameters as `TextModel.save`."""
        config = self.to_config()
        if settings is not None:
            config["settings"] = to_mapping(settings)
        own = {"vocabulary.json": self.encoder.to_json(), "known_words.json": write_json(self.known.to_mapping())}
        weights = dict(self.weights)
        if self.joined is not None:
            arrays, own["ngrams.json"] = self.joined.to_folder()
            weights |= arrays
        return save_model(
            folder,
            config=config,
            weights=weights,
            files={**own, **(files or {})},
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
    ) -> TaggerModel:
        """Read back what `save` wrote; the options are those of `runtime.Model`.

        Raises
        ------
        ModelFolderError
            For anything that does not fit.
        """
        for name in ("vocabulary.json", "known_words.json"):
            if name not in files:
                raise ModelFolderError(f"the model folder has no {name}.")
        tags, intents = _texts(config, "tags"), _texts(config, "intents")
        schemes: list[Any] = [config.get(name) for name in ("inner_scheme", "scheme")]
        if not tags or any(scheme not in get_args(Scheme) for scheme in schemes):
            raise ModelFolderError("config.json: tags and their schemes are missing or unknown.")
        lowercase, temperature = config.get("lowercase"), config.get("intent_temperature")
        if not isinstance(lowercase, bool) or not isinstance(temperature, int | float) or not temperature > 0:
            raise ModelFolderError("config.json: lowercase or intent_temperature is missing or wrong.")
        layers = TaggerLayers.from_config(config.get("layers"))
        for part, wanted in (("tags", len(tags)), ("intent", len(intents))):
            stack = getattr(layers, part)
            outputs = getattr(stack[-1], "output_size", None) if stack else 0
            if outputs != wanted:
                raise ModelFolderError(f"config.json: the layers give {outputs} scores for {wanted} {part}.")
        joined, weights = JoinedIntents.from_folder(config.get("joined"), weights, files, len(intents), len(tags))
        encoder = WordEncoder.from_json(files["vocabulary.json"].decode("utf-8"))
        known = KnownWords.from_mapping(read_strict_json(files["known_words.json"], "known_words.json"))
        allowed = allowed_tags(tags, schemes[0])
        tagger = Tagger(layers, weights, allowed, backend=backend, precision=precision, threads=threads)
        return cls(
            encoder,
            tags,
            schemes[0],
            schemes[1],
            intents,
            tagger,
            weights,
            known,
            lowercase,
            float(temperature),  # type: ignore[arg-type]
            joined,
        )


def _texts(config: dict[str, Any], name: str) -> tuple[str, ...]:
    values = config.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ModelFolderError(f"config.json: {name} must be a list of texts.")
    return tuple(values)
