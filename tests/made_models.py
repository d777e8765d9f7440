"""Models of random weights, made without training: a classifier with n-gram models beside its network, a tagger."""

import numpy as np

from bilstm.data.labels import LabelSet
from bilstm.data.ngrams import NgramIndex
from bilstm.data.tags import allowed_tags
from bilstm.data.tokenizers import WordTokenizer
from bilstm.data.vocabulary import TextEncoder
from bilstm.data.word_encoder import WordEncoder
from bilstm.description import Embedding, Linear, Pooling, Recurrent, weight_shapes
from bilstm.evaluation.joining import Joining
from bilstm.runtime import Model
from bilstm.runtime.ngram_linear import LinearHead, NgramLinear
from bilstm.runtime.tagger import CRF_WEIGHTS, Tagger
from bilstm.tasks.sequence_tagging import Config, TaggerModel, describe_tagger
from bilstm.tasks.text_classification import JoinedLinear, TextModel


def some_texts(rows=120, seed=0) -> list[str]:
    """Texts of a few words, so that n-grams come again."""
    random = np.random.default_rng(seed)
    words = [*(f"w{number}" for number in range(30)), "good", "bad", "Don't", "café", "7/10", "!"]
    return [" ".join(random.choice(words, random.integers(1, 40))) for _ in range(rows)]


def joined_model(texts=None, threads=1) -> TextModel:
    """One head of word pairs that counts presence, one of triples with TF-IDF."""
    texts = some_texts() if texts is None else texts
    random = np.random.default_rng(7)
    encoder = TextEncoder.build(texts, max_size=25)
    index = NgramIndex(3, 2)
    index.fit_transform(list(WordTokenizer().tokens_of(texts)))
    sizes = np.cumsum(index.sizes)
    heads = tuple(
        LinearHead(
            order,
            random.normal(size=(1, sizes[order - 1])).astype(np.float32),
            random.normal(size=1),
            random.uniform(1, 5, sizes[order - 1]) if has_frequencies else None,
        )
        for order, has_frequencies in ((2, False), (3, True))
    )
    joined = JoinedLinear(NgramLinear(index, heads), Joining(1.3, (0.05, 0.7), -0.2, 0.1))
    layers = (
        Embedding(len(encoder.vocabulary), 7),
        Recurrent("lstm", 7, 6),
        Pooling(12, ("max", "mean")),
        Linear(24, 1),
    )
    shapes = weight_shapes(layers)
    weights = {name: random.normal(size=shape, scale=0.6).astype(np.float32) for name, shape in shapes.items()}
    model = Model(layers, weights, threads=threads)
    return TextModel(encoder, LabelSet("binary", ("bad", "good")), model, weights, joined=joined)


TAGS = ("O", "B-PER", "I-PER", "E-PER", "S-PER")
SENTENCES = [["Anna", "saw", "Bo", "Lee", "."], ["Rain", "at", "7", ";", "Anna", "left"], ["Bo", "Lee", "Okafor"]]


def tagger_model(
    *, head="crf", characters="convolution", intents=("come", "go"), threads=1, spread=0.6, **settings
) -> TaggerModel:
    """A tagger of spans, with intents unless there are none."""
    sizes = {"hidden_size": 6, "word_size": 5, "character_size": 4, "trait_size": 2}
    config = Config(head=head, characters=characters, **{**sizes, **settings})
    encoder = WordEncoder.build(SENTENCES, min_count=1)
    layers = describe_tagger(config, encoder, len(TAGS), len(intents))
    random = np.random.default_rng(11)
    weights = {}
    parts = {"features.words": layers.words, "features.characters": layers.characters}
    parts |= {"features.traits": layers.traits, "encoder": layers.encoder, "tags": layers.tags, "intent": layers.intent}
    for part, stack in parts.items():
        for name, shape in weight_shapes(stack).items():
            weights[f"{part}.{name}"] = random.normal(size=shape, scale=spread).astype(np.float32)
    allowed = allowed_tags(TAGS, "IOBES")
    if layers.crf:
        for name, mask in zip(CRF_WEIGHTS, allowed, strict=True):
            weights[f"crf.{name}"] = random.normal(size=mask.shape).astype(np.float32)
    tagger = Tagger(layers, weights, allowed, threads=threads)
    return TaggerModel(encoder, TAGS, "IOBES", "IOB2", intents, tagger, weights)
