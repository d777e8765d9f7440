"""`bilstm export --onnx`: build the graph, run it in ONNX Runtime beside our own model, and only then write the file.

Imports numpy and the builders; onnx and ONNX Runtime when they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.data.word_encoder import EncodedWords
from bilstm.errors import MissingExtraError, TrainingDivergedError, UsageError
from bilstm.export.onnx_model import build_tagger_onnx, build_text_onnx, padded, tagger_inputs
from bilstm.export.single_file import check_place, write_file
from bilstm.runtime.crf import decode, sequence_scores
from bilstm.tasks.sequence_tagging import TaggerModel
from bilstm.tasks.text_classification import TextModel

__all__ = ["TOLERANCE", "OnnxExport", "export_onnx", "onnx_session", "random_comparisons"]

TOLERANCE = 1e-5  # of the difference, against the larger of 1 and the value
CHECKED_ROWS = 96
LONGEST_STEPS = 120


@dataclass(frozen=True)
class OnnxExport:
    """What was written.

    Parameters
    ----------
    path : Path
    bytes : int
    inputs, outputs : tuple of str
    parts : str
        What the file holds, in words.
    checked_rows : int
        Random sequences on which both were compared.
    largest_difference : float
        Between ONNX Runtime and this project, against the larger of 1 and the value.
    """

    path: Path
    bytes: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parts: str
    checked_rows: int
    largest_difference: float


def export_onnx(
    model: TextModel | TaggerModel, path: str | Path, *, network_only: bool = False, overwrite: bool = False
) -> OnnxExport:
    """Write a model as one ONNX file that gives the same numbers in ONNX Runtime.

    Parameters
    ----------
    model : TextModel or TaggerModel
    path : path
    network_only : bool
        Leave the linear n-gram models out, which a text classifier, or the intents of a tagger, may have beside the
        network. For a tagger they must be left out.
    overwrite : bool
        Replace a file that stands there.

    Raises
    ------
    MissingExtraError
        If onnx or ONNX Runtime is not installed.
    OutputError
        If the file exists, or the place cannot be written to.
    UsageError
        If the two do not agree on random sequences (then nothing is written), or nothing can be left out.
    """
    check_place(path, overwrite)
    if isinstance(model, TaggerModel):
        if network_only and model.joined is None:
            raise UsageError("the tagger has nothing beside its network.", "Leave --network-only away.")
        if model.joined is not None and not network_only:
            raise UsageError(
                "the linear n-gram model beside the tagger's intents has no ONNX form.",
                "Add --network-only: intents by the network alone; or train with --join-linear no.",
            )
        content, parts = build_tagger_onnx(model), "tagger, with the search for the best tags"
    else:
        if network_only and model.joined is None:
            raise UsageError("the model has nothing beside its network.", "Leave --network-only away.")
        content = build_text_onnx(model, network_only=network_only)
        parts = "network and linear n-gram models" if model.joined is not None and not network_only else "network"
    session = onnx_session(content)
    rows, difference = 0, 0.0
    for given, expected in random_comparisons(model, CHECKED_ROWS, seed=0, network_only=network_only):
        names = [*expected, *(["tags"] if isinstance(model, TaggerModel) else [])]
        found = dict(zip(names, session.run(names, given), strict=True))
        difference = max(difference, *(_difference(found[name], value) for name, value in expected.items()))
        if isinstance(model, TaggerModel):
            difference = max(difference, _shortfall(model, found["tags"], expected["emissions"], given["lengths"]))
        rows += len(given["lengths"])
    if not difference <= TOLERANCE:  # also for NaN
        raise UsageError(
            f"{path}: ONNX Runtime and bilstm differ by {difference:.2g} (allowed: {TOLERANCE:g}); nothing is written.",
            "Please report it with `bilstm info`.",
        )
    write_file(path, content)
    ends = tuple(one.name for one in session.get_inputs()), tuple(one.name for one in session.get_outputs())
    return OnnxExport(Path(path), len(content), *ends, parts, rows, difference)


def onnx_session(content: bytes | str, threads: int = 1, *, flush_denormals: bool = False) -> Any:
    """Open a model in ONNX Runtime, on the processor.

    Parameters
    ----------
    content : bytes or str
        The model, or the path of its file.
    threads : int, default=1
    flush_denormals : bool, default=False
        Treat denormal numbers as zero, which is faster. The calling thread keeps doing so ever after: for benchmarks.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "An ONNX file is compared in ONNX Runtime before it is written.", "pip install 'bilstm[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    if flush_denormals:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def random_comparisons(
    model: TextModel | TaggerModel, rows: int, *, seed: int, network_only: bool = False
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Yield inputs for the exported model and what it must give, on random ragged batches of up to 32 sequences.

    Lengths run from 0 to 120; every batch has another size.
    """
    random = np.random.default_rng(seed)
    while rows > 0:
        count = min(int(random.integers(1, 33)), rows)
        rows -= count
        lengths = random.integers(0, random.integers(2, LONGEST_STEPS + 2), count)
        if isinstance(model, TaggerModel):
            yield _tagger_comparison(model, lengths, random)
        else:
            yield _text_comparison(model, lengths, random, network_only)


def _text_comparison(
    model: TextModel, lengths: np.ndarray, random: np.random.Generator, network_only: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    size = _vocabulary_size(model)
    ids = Ragged.of([random.integers(0, size, length) for length in lengths])
    given = {"ids": padded(ids), "lengths": np.asarray(ids.lengths, dtype=np.int64)}
    logits = model.logits_of_ids(ids).astype(np.float64)
    if model.joined is not None and not network_only:
        index = model.joined.linear.index
        words, _ = index.to_arrays(index.max_order)
        # small numbers too, so that n-grams of frequent words are hit; -1 is an unknown word
        most = np.where(random.random(len(lengths)) < 0.5, min(len(words), 60), len(words))
        rows = [random.integers(-1, top, length) for top, length in zip(most, lengths, strict=True)]
        given["ngram_ids"] = padded(Ragged.of(rows), fill=-1)
        spelled = [["\0" if number < 0 else words[number] for number in row] for row in rows]
        logits = model.joined.join(logits, spelled)
    name = "values" if model.labels.kind == "regression" else "probabilities"
    decoded = model.decode(logits)
    return given, {"logits": logits, name: decoded[:, None] if decoded.ndim == 1 else decoded}


def _vocabulary_size(model: TextModel) -> int:
    layers = model.model.description
    layers = layers[0].layers if isinstance(layers[0], description.Average) else layers
    return next(layer.vocabulary_size for layer in layers if isinstance(layer, description.Embedding))


def _tagger_comparison(
    model: TaggerModel, lengths: np.ndarray, random: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    encoder, different = model.encoder, int(random.integers(1, 200))
    starts = np.cumsum([0, *(len(vocabulary) for vocabulary in encoder.traits)])
    traits = np.stack([random.integers(first, end, different) for first, end in pairwise(starts)], axis=1)
    spelled = [random.integers(0, len(encoder.characters), random.integers(1, 20)) for _ in range(different)]
    types = Ragged.of([random.integers(0, different, length) for length in lengths])
    word_ids = random.integers(0, len(encoder.words), different)
    encoded = EncodedWords(types, word_ids, Ragged.of(spelled), traits)
    batch = encoded.batch(np.arange(len(types)))
    if not len(batch.words.values):  # a batch without any word: one made-up word, so that no input is empty
        batch = EncodedWords(Ragged.of([[0], *[[]] * (len(types) - 1)]), word_ids, Ragged.of(spelled), traits).batch(
            np.arange(len(types))
        )
    emissions, intents = model.tagger.run(batch)
    given = tagger_inputs(batch)
    rows, steps = given["words"].shape
    wide = np.zeros((rows, steps, len(model.tags)), dtype=np.float32)
    wide[np.arange(steps) < given["lengths"][:, None]] = emissions.values
    expected = {"emissions": wide}
    if intents is not None:
        expected["intents"] = intents
    wanted = {"words", "lengths", "place"}
    wanted |= {"characters", "character_lengths"} if model.tagger.layers.characters else set()
    wanted |= {"traits"} if model.tagger.layers.traits else set()
    return {name: value for name, value in given.items() if name in wanted}, expected


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if not np.isfinite(expected).all():
        raise TrainingDivergedError("the model gives numbers that are not finite; it is not exported.")
    if found.shape != expected.shape:
        return float("inf")
    if not found.size:
        return 0.0
    return float(np.max(np.abs(found - expected) / np.maximum(1.0, np.abs(expected))))


def _shortfall(model: TaggerModel, tags: np.ndarray, emissions: np.ndarray, lengths: np.ndarray) -> float:
    """Return by how much the tags score less than the best ones at most; infinity if they are no tags.

    Not the tags are compared: of two that score alike within rounding, each is right.
    """
    is_real = np.arange(tags.shape[1]) < lengths[:, None]
    if (tags[~is_real] != -1).any() or not ((tags[is_real] >= 0) & (tags[is_real] < len(model.tags))).all():
        return float("inf")
    scores = Ragged(emissions[is_real], np.concatenate([[0], np.cumsum(lengths)]))
    _, best = decode(scores, model.tagger.crf)
    reached = sequence_scores(scores, scores.with_values(tags[is_real]), model.tagger.crf)
    return float(np.max((best - reached) / np.maximum(1.0, np.abs(best)), initial=0.0))
