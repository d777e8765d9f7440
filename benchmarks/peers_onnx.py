"""ONNX Runtime and OpenVINO as peers for inference, on one graph that is built here node by node.

Variant: `onnxruntime` with `fp32` or `int8` (its dynamic quantization), or `openvino` with `fp32` or `bf16`.
Ragged work is padded and passes the lengths, which both read correctly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine_worker import Peer, Spec, read_spec, serve
from engine_workloads import BATCHES, Work, padded


def onnx_gates(matrix: np.ndarray) -> np.ndarray:
    """Reorder the first axis from torch's i, f, g, o to ONNX' i, o, f, c."""
    i, f, g, o = np.split(matrix, 4)
    return np.concatenate((i, o, f, g))


def graph(spec: Spec) -> Any:
    """Build the model of a work; inputs are time-major, as the LSTM operator wants them."""
    from onnx import TensorProto, helper, numpy_helper

    work, arrays = spec.work, spec.arrays
    nodes, constants = [], {}
    if work.vocabulary_size:
        inputs = helper.make_tensor_value_info("inputs", TensorProto.INT64, ["time", work.batch])
        constants["embedding"] = arrays["embedding"]
        nodes.append(helper.make_node("Gather", ["embedding", "inputs"], ["values_0"]))
    else:
        inputs = helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["time", work.batch, work.input_size])
        nodes.append(helper.make_node("Identity", ["inputs"], ["values_0"]))
    for layer in range(work.num_layers):
        names = [f"l{layer}", f"l{layer}_reverse"]
        constants[f"w_{layer}"] = np.stack([onnx_gates(arrays[f"weight_ih_{name}"]) for name in names])
        constants[f"r_{layer}"] = np.stack([onnx_gates(arrays[f"weight_hh_{name}"]) for name in names])
        biases = [(arrays[f"bias_ih_{name}"], arrays[f"bias_hh_{name}"]) for name in names]
        constants[f"b_{layer}"] = np.stack([np.concatenate([onnx_gates(b) for b in pair]) for pair in biases])
        # OpenVINO runs ten times slower with lengths, so only work that needs them has them
        parts = [f"values_{layer}", f"w_{layer}", f"r_{layer}", f"b_{layer}", *(["lengths"] if work.ragged else [])]
        results = [f"y_{layer}", f"last_{layer}"]
        sizes = {"hidden_size": work.hidden_size, "direction": "bidirectional"}
        nodes.append(helper.make_node("LSTM", parts, results, **sizes))
        # (time, directions, batch, hidden) -> (time, batch, directions * hidden)
        constants["wide"] = np.array([0, 0, 2 * work.hidden_size], dtype=np.int64)
        nodes.append(helper.make_node("Transpose", [f"y_{layer}"], [f"t_{layer}"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"t_{layer}", "wide"], [f"values_{layer + 1}"]))
    if work.every_step:
        nodes.append(helper.make_node("Identity", [f"values_{work.num_layers}"], ["result"]))
        shape: list[Any] = ["time", work.batch, 2 * work.hidden_size]
    else:
        del nodes[-2:]
        constants["flat"] = np.array([work.batch, 2 * work.hidden_size], dtype=np.int64)
        constants["linear"] = arrays["linear"].T.copy()
        nodes.append(helper.make_node("Transpose", [f"last_{work.num_layers - 1}"], ["last_t"], perm=[1, 0, 2]))
        nodes.append(helper.make_node("Reshape", ["last_t", "flat"], ["last"]))
        nodes.append(helper.make_node("MatMul", ["last", "linear"], ["result"]))
        shape = [work.batch, 1]
    lengths = helper.make_tensor_value_info("lengths", TensorProto.INT32, [work.batch])
    used = {name for node in nodes for name in node.input}
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used]
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, shape)
    given = [inputs, lengths] if work.ragged else [inputs]
    body = helper.make_graph(nodes, work.name, given, [result], initializers)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def onnxruntime_runner(spec: Spec, path: Path) -> tuple[Any, dict[str, str]]:
    """Return a function of the named inputs, and versions."""
    import onnxruntime

    if "int8" in spec.variant:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantized = path.with_suffix(".int8.onnx")
        quantize_dynamic(path, quantized, weight_type=QuantType.QInt8)
        path = quantized
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(given: dict[str, np.ndarray]) -> np.ndarray:
        return session.run(None, given)[0]

    return run, {"onnxruntime": onnxruntime.__version__}


def openvino_runner(spec: Spec, path: Path, longest: int) -> tuple[Any, dict[str, str]]:
    """Return a function of the named inputs, and versions; shapes are fixed, which is its fastest way."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    work = spec.work
    shape = [longest, work.batch] if work.vocabulary_size else [longest, work.batch, work.input_size]
    model.reshape({"inputs": shape, "lengths": [work.batch]} if work.ragged else {"inputs": shape})
    precision = "bf16" if "bf16" in spec.variant else "f32"
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": spec.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(given: dict[str, np.ndarray]) -> np.ndarray:
        return next(iter(request.infer(given).values()))

    return run, {"openvino": openvino.__version__}


def batches_of(spec: Spec, work: Work) -> list[dict[str, np.ndarray]]:
    """Time-major padded inputs of every batch, and int32 lengths if the work is ragged."""
    key = "ids" if work.vocabulary_size else "values"
    result = []
    for number in range(BATCHES):
        lengths = spec.arrays[f"lengths_{number}"]
        wide = padded(spec.arrays[f"{key}_{number}"], lengths)
        given = {"inputs": np.ascontiguousarray(wide.swapaxes(0, 1))}
        if work.ragged:
            given["lengths"] = lengths.astype(np.int32)
        result.append(given)
    return result


def main() -> None:
    spec = read_spec()
    batches = batches_of(spec, spec.work)
    path = spec.out.with_suffix(f".{spec.variant}.onnx")
    if "openvino" in spec.variant:
        import openvino  # noqa: F401  (absent: say so before anything is built)
    import onnx

    onnx.save(graph(spec), path)
    if "openvino" in spec.variant:
        run, versions = openvino_runner(spec, path, len(batches[0]["inputs"]))
    else:
        run, versions = onnxruntime_runner(spec, path)

    def infer(number: int) -> np.ndarray:
        result = run(batches[number])
        return result.swapaxes(0, 1).reshape(-1, result.shape[2]) if spec.work.every_step else result

    serve(spec, Peer(infer, lambda: None, versions), BATCHES)


if __name__ == "__main__":
    main()
