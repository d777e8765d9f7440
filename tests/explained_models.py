"""Text models of random weights for the tests of explanations, made without training."""

import numpy as np

from bilstm.data.labels import LabelSet
from bilstm.data.ngrams import NgramIndex
from bilstm.data.tokenizers import CharacterTokenizer, WordTokenizer
from bilstm.data.vocabulary import IdEncoder, TextEncoder
from bilstm.description import Embedding, Linear, Pooling, Recurrent, weight_shapes
from bilstm.evaluation.joining import Joining
from bilstm.runtime import Model
from bilstm.runtime.ngram_linear import LinearHead, NgramLinear
from bilstm.tasks.text_classification import JoinedLinear, TextModel

WORDS = [*(f"w{number}" for number in range(24)), "good", "bad", "not", "n't", "7/10", "!"]
NAMES = {"binary": ("bad", "good"), "multiclass": ("a", "b", "c"), "multilabel": ("x", "y", "z"), "regression": ()}


def some_texts(rows=60, seed=0):
    """Texts of a few words, so that n-grams come again."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, 30))) for _ in range(rows)]


def linear_models(outputs, seed=7):
    """One head of word pairs that counts presence, one of triples with TF-IDF."""
    random = np.random.default_rng(seed)
    index = NgramIndex(3, 2)
    index.fit_transform(list(WordTokenizer().tokens_of(some_texts())))
    sizes = np.cumsum(index.sizes)
    heads = tuple(
        LinearHead(
            order,
            random.normal(size=(outputs, sizes[order - 1])).astype(np.float32),
            random.normal(size=outputs),
            random.uniform(1, 5, sizes[order - 1]) if has_frequencies else None,
        )
        for order, has_frequencies in ((2, False), (3, True))
    )
    return NgramLinear(index, heads)


def text_model(
    kind="binary", *, cell="lstm", pooling=("max", "mean"), merge="concat", layers=1, dense=None, joined=True,
    encoder="words", max_length=None, backend="auto", scale=0.5, seed=3,
):  # fmt: skip
    """Build a model of random weights."""
    random = np.random.default_rng(seed)
    outputs = 1 if kind in ("binary", "regression") else len(NAMES[kind])
    if encoder == "ids":
        built, size = IdEncoder(20, max_length), 20
    else:
        tokenizer = CharacterTokenizer() if encoder == "characters" else WordTokenizer()
        built = TextEncoder.build(some_texts(), tokenizer, max_size=25, max_length=max_length)
        size = len(built.vocabulary)
    recurrent = Recurrent(cell, 7, 6, layers, merge_mode=merge)
    stack = [Embedding(size, 7), recurrent, Pooling(recurrent.output_size, pooling)]
    features = stack[-1].output_size
    if dense:
        stack.append(Linear(features, 5, dense))
        features = 5
    stack.append(Linear(features, outputs))
    shapes = weight_shapes(tuple(stack))
    weights = {name: random.normal(size=shape, scale=scale).astype(np.float32) for name, shape in shapes.items()}
    part = None
    if joined and encoder != "ids":
        part = JoinedLinear(linear_models(outputs), Joining(1.3, (0.05, 0.7), -0.2, 0.1))
    return TextModel(
        built,
        LabelSet(kind, NAMES[kind], "|" if kind == "multilabel" else None),
        Model(tuple(stack), weights, backend=backend, threads=1),
        weights,
        temperature=1.0 if part is not None or kind == "regression" else 1.7,
        shift=4.0 if kind == "regression" else 0.0,
        scale=2.5 if kind == "regression" else 1.0,
        joined=part,
    )
