"""The best tag sequence of a linear chain as ONNX nodes: a `Scan` forward for the scores, one back for the path.

Equals `runtime.crf.decode`: the same maximum, the first of equal tags. Imports numpy; `onnx` when a graph is made.

References
----------
Viterbi, "Error bounds for convolutional codes and an asymptotically optimum decoding algorithm", IEEE Transactions on
Information Theory 13 (1967); the recursion as in Forney, "The Viterbi algorithm", Proceedings of the IEEE 61 (1973),
section III.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bilstm.export.onnx_graph import GraphBuilder, onnx_library

__all__ = ["Chain", "add_best_tags"]


class Chain(NamedTuple):
    """Names of the scores: `transitions` (tags, tags) from row to column, `start` (tags,), `end` (tags,)."""

    transitions: str
    start: str
    end: str


def add_best_tags(graph: GraphBuilder, scores: str, mask: str, count: int, chain: Chain | None) -> str:
    """Add the search; return the name of its result.

    Parameters
    ----------
    graph : GraphBuilder
    scores : str
        (time, batch, tags) float.
    mask : str
        (time, batch, 1) float: 1 at real steps.
    count : int
        How many tags.
    chain : Chain, optional
        Without one every step stands for itself.

    Returns
    -------
    str
        (time, batch) int64; -1 behind the end of a sequence.
    """
    if chain is None:
        best = graph.add("ArgMax", scores, axis=2, keepdims=0)
    else:
        last, origins = _forward(graph, scores, mask, count, chain)
        best = _backward(graph, last, origins)
    is_real = graph.add("Squeeze", _is(graph, mask), graph.constant([2], np.int64))
    return graph.add("Where", is_real, best, graph.constant(-1, np.int64))


def _is(graph: GraphBuilder, mask: str) -> str:
    return graph.add("Cast", mask, to=onnx_library().TensorProto.BOOL)


def _forward(graph: GraphBuilder, scores: str, mask: str, count: int, chain: Chain) -> tuple[str, str]:
    """Return the best last tag (batch,), and for each step and tag the tag before it, (time, batch, tags).

    A step behind the end leaves the scores as they are, and every tag comes from itself.
    """
    tensor = onnx_library().TensorProto
    info = onnx_library().helper.make_tensor_value_info
    step = graph.body("viterbi_forward_")
    before, emission, real, first = (
        info("forward_before", tensor.FLOAT, ["batch", count]),
        info("forward_emission", tensor.FLOAT, ["batch", count]),
        info("forward_real", tensor.FLOAT, ["batch", 1]),
        info("forward_first", tensor.BOOL, [1, 1]),
    )
    paths = step.add(
        "Add", step.add("Unsqueeze", before.name, step.constant([2], np.int64)), chain.transitions
    )  # (batch, from, to)
    arrived = step.add("Where", first.name, chain.start, step.add("ReduceMax", paths, axes=[1], keepdims=0))
    itself = step.constant(np.arange(count)[None], np.int64, name="viterbi.tags")
    is_real = _is(step, real.name)
    moves = step.add("And", is_real, step.add("Not", first.name))
    origin = step.add("Where", moves, step.add("ArgMax", paths, axis=1, keepdims=0), itself)
    after = step.add("Where", is_real, step.add("Add", arrived, emission.name), before.name)
    body = step.graph(
        "viterbi_forward",
        [before, emission, real, first],
        [info(after, tensor.FLOAT, ["batch", count]), info(origin, tensor.INT64, ["batch", count])],
    )
    numbers = graph.add(
        "CumSum", graph.add("ConstantOfShape", _times(graph, scores), value=_one()), graph.constant(0, np.int64)
    )
    is_first = graph.add("Equal", numbers, graph.constant(1, np.int64))  # (time, 1, 1)
    shape = graph.add("Shape", scores)
    rest = graph.add("Slice", shape, graph.constant([1], np.int64), graph.constant([3], np.int64))
    nothing = graph.add("ConstantOfShape", rest)  # (batch, tags) zeros
    final, origins = graph.add("Scan", nothing, scores, mask, is_first, outputs=2, body=body, num_scan_inputs=3)
    return graph.add("ArgMax", graph.add("Add", final, chain.end), axis=1, keepdims=0), origins


def _times(graph: GraphBuilder, scores: str) -> str:
    """Return the shape (time, 1, 1)."""
    time = graph.add("Slice", graph.add("Shape", scores), graph.constant([0], np.int64), graph.constant([1], np.int64))
    return graph.add("Concat", time, graph.constant([1, 1], np.int64), axis=0)


def _one() -> object:
    return onnx_library().numpy_helper.from_array(np.ones(1, np.int64))


def _backward(graph: GraphBuilder, last: str, origins: str) -> str:
    """Follow the origins from the last tag to the first: (time, batch)."""
    tensor = onnx_library().TensorProto
    info = onnx_library().helper.make_tensor_value_info
    step = graph.body("viterbi_backward_")
    tag = info("backward_tag", tensor.INT64, ["batch"])
    origin = info("backward_origin", tensor.INT64, ["batch", None])
    column = step.add("Unsqueeze", tag.name, step.constant([1], np.int64))
    before = step.add("Squeeze", step.add("GatherElements", origin.name, column, axis=1), step.constant([1], np.int64))
    here = step.add("Identity", tag.name)
    body = step.graph(
        "viterbi_backward",
        [tag, origin],
        [info(before, tensor.INT64, ["batch"]), info(here, tensor.INT64, ["batch"])],
    )
    _, path = graph.add(
        "Scan",
        last,
        origins,
        outputs=2,
        body=body,
        num_scan_inputs=1,
        scan_input_directions=[1],
        scan_output_directions=[1],
    )
    return path
