"""The folder of a model on disk: written whole or not at all, checked before anything in it is believed.

    manifest.json        format, versions, size and SHA-256 of every file, and of itself
    config.json          layers and settings: plain data with a closed schema, nothing imported by name
    weights.safetensors  every weight by name; float32, or 8-bit integers with scales (`eight_bit_weights`)
    metrics.json         scores
    ...                  further files the task gives: vocabulary, report, model card

The hashes find damage (a flipped bit, a torn or exchanged file), not an attacker, who could write new hashes.
Nothing is ever unpickled. Imports `errors`, `strict_json`, `atomic_folder`, `eight_bit_weights`; numpy and safetensors,
not torch.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bilstm.atomic_folder import check_target, recover_folder, write_folder
from bilstm.eight_bit_weights import from_int8
from bilstm.errors import InputNotFoundError, ModelFolderError, OutputError, TrainingDivergedError
from bilstm.strict_json import read_strict_json, write_json
from bilstm.versions import tool_version

__all__ = [
    "FORMAT_VERSION",
    "ModelFolder",
    "check_output",
    "check_weights",
    "load_model",
    "pack_tensors",
    "save_model",
    "unpack_tensors",
]

FORMAT = "bilstm-model"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
METRICS = "metrics.json"

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_FILES = 1000
_MAX_EXCHANGES = 1000
_MAX_MANIFEST_BYTES = 2**20
_MAX_HEADER_BYTES = 4 * 2**20
_MAX_TENSORS = 20_000
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_CAN_RUN_CODE = {
    **dict.fromkeys((".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt", ".npy", ".npz"), "a pickle"),
    **dict.fromkeys((".keras", ".h5", ".hdf5", ".pb"), "a Keras or TensorFlow model"),
}


@dataclass(frozen=True)
class ModelFolder:
    """A loaded model folder.

    Parameters
    ----------
    path : Path
    config : dict
        Content of config.json.
    weights : dict of str to ndarray
        Read-only arrays by name; 8-bit integers are float32 again.
    files : dict of str to bytes
        The task's further files.
    metrics : dict
        Content of metrics.json.
    tool_version : str
        Version of bilstm that wrote it.
    """

    path: Path
    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    files: dict[str, bytes]
    metrics: dict[str, Any]
    tool_version: str


def save_model(
    folder: str | Path,
    *,
    config: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    files: Mapping[str, bytes | str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model folder, whole or not at all; return its path.

    Parameters
    ----------
    folder : path
        Folders above it are made.
    config, metrics : mapping
        Plain JSON values, no NaN.
    weights : mapping of str to ndarray
        float64, float32, float16, integers or bool; all finite.
    files : mapping of str to bytes or str
        Further files by plain name; text is written as UTF-8.
    overwrite : bool
        Replace a bilstm model that stands there. Any other folder with content is never touched.

    Raises
    ------
    OutputError
        If the folder exists and may not be replaced, or the place may not be written to.
    WriteFailedError
        If writing failed, for example for a full disk; the old model is intact.
    TrainingDivergedError
        If a weight is NaN or infinite: such a model is not saved.
    """
    owned = _owned_files(folder) if overwrite else None
    check_target(folder, replaces=owned)
    for name, weight in weights.items():
        if np.issubdtype(weight.dtype, np.floating) and not np.isfinite(weight).all():
            raise TrainingDivergedError(f"{folder}: weight {name} is not finite; the model is not saved.")
    contents: dict[str, bytes] = {
        CONFIG: write_json(dict(config)),
        WEIGHTS: pack_tensors(weights),
        METRICS: write_json(dict(metrics or {})),
    }
    for name, content in (files or {}).items():
        _check_file_name(name, str(folder))
        if name in contents or name == MANIFEST:
            raise ValueError(f"{name} is written by save_model itself")
        contents[name] = content.encode("utf-8") if isinstance(content, str) else bytes(content)
    contents[MANIFEST] = _manifest(contents)
    write_folder(folder, contents, replaces=owned)
    return Path(folder)


def check_output(folder: str | Path, *, overwrite: bool = False) -> None:
    """Raise what `save_model` would raise about the place, before long work is done for it.

    Raises
    ------
    OutputError
        As `save_model`.
    """
    check_target(folder, replaces=_owned_files(folder) if overwrite else None)


def _owned_files(folder: str | Path) -> list[str]:
    """Names in the manifest of the model at `folder`; none if nothing, or an empty folder, stands there.

    Raises
    ------
    OutputError
        If what stands there is not a model folder that can be read.
    """
    path = Path(os.path.realpath(folder))
    recover_folder(path)
    if not path.is_dir() or not os.listdir(path):
        return []
    try:
        manifest = _read_manifest(path)
    except (ModelFolderError, InputNotFoundError) as error:
        raise OutputError(
            f"{path} is not a model folder that may be overwritten: {error.message}",
            "Choose another output folder, or remove this one yourself.",
        ) from error
    return [MANIFEST, *manifest["files"]]


def _manifest(contents: Mapping[str, bytes]) -> bytes:
    body = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tool_version": tool_version(),
        "files": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
    }
    return write_json({**body, "sha256": hashlib.sha256(write_json(body)).hexdigest()})


def load_model(
    folder: str | Path,
    *,
    verify: bool = True,
    expected: Callable[[dict[str, Any]], Mapping[str, tuple[int, ...]]] | None = None,
) -> ModelFolder:
    """Read a model folder: hashes first, then JSON, then every weight's name, type and shape.

    Parameters
    ----------
    folder : path
    verify : bool
        False skips the hashes (not the other checks): damage to weights may then go unseen.
    expected : callable, optional
        Gives the shape of every weight, by name, from config.json; see `check_weights`.

    Raises
    ------
    InputNotFoundError
        If there is nothing at `folder`, or it may not be read.
    ModelFolderError
        If it is no model folder, is damaged or incomplete, or of a newer format; the message names file and reason.
    """
    path = Path(folder)
    for _ in range(_MAX_EXCHANGES):
        recover_folder(path)
        _refuse_other_formats(path)
        before = _identity(path)
        try:
            model = _load(path, verify, expected)
        except ModelFolderError:
            if _identity(path) == before:
                raise
        else:
            if _identity(path) == before:
                return model
    raise ModelFolderError(f"{path}: is replaced by another process all the time.", "Try again later.")


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a folder from the one that replaces it: a reader may meet the moment when a writer exchanges them."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns


def _load(
    path: Path, verify: bool, expected: Callable[[dict[str, Any]], Mapping[str, tuple[int, ...]]] | None
) -> ModelFolder:
    manifest = _read_manifest(path)
    contents = {name: _read_listed(path, name, entry, verify) for name, entry in manifest["files"].items()}
    config = _read_object(contents.pop(CONFIG), f"{path}/{CONFIG}")
    metrics = _read_object(contents.pop(METRICS), f"{path}/{METRICS}")
    weights = from_int8(unpack_tensors(contents.pop(WEIGHTS), f"{path}/{WEIGHTS}"), f"{path}/{WEIGHTS}")
    for name, weight in weights.items():
        if np.issubdtype(weight.dtype, np.floating) and not np.isfinite(weight).all():
            raise ModelFolderError(f"{path}/{WEIGHTS}: weight {name} is not finite.", _DAMAGED)
    if expected is not None:
        check_weights(weights, expected(config), f"{path}/{WEIGHTS}")
    return ModelFolder(path, config, weights, contents, metrics, manifest["tool_version"])


_DAMAGED = "The folder is damaged: copy it again or train the model again."


def _refuse_other_formats(path: Path) -> None:
    """Raise for what is plainly not a model folder, with the reason; nothing is opened."""
    if not os.path.lexists(path):
        raise InputNotFoundError(f"{path}: there is no such model folder.")
    if (kind := _CAN_RUN_CODE.get(path.suffix.lower())) and path.is_file():
        raise ModelFolderError(
            f"{path} is {kind}: such files can run code when they are opened, so they are never read.",
            "Give the folder that bilstm train wrote.",
        )
    if not path.is_dir():
        raise ModelFolderError(f"{path} is not a folder.", "Give the folder that bilstm train wrote.")


def _read_manifest(path: Path) -> dict[str, Any]:
    """Read and check manifest.json: form, version, its own hash, plain file names, the files every model has."""
    where = f"{path}/{MANIFEST}"
    if not os.path.lexists(path / MANIFEST):
        others = sorted(name for name in os.listdir(path) if Path(name).suffix.lower() in _CAN_RUN_CODE)
        found = f" ({others[0]} can run code when opened and is never read)" if others else ""
        raise ModelFolderError(f"{path} is not a model folder: it has no {MANIFEST}{found}.")
    data = _read_file(path, MANIFEST, _MAX_MANIFEST_BYTES)
    manifest = read_strict_json(data, where, _MAX_MANIFEST_BYTES)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelFolderError(f"{where}: not the manifest of a bilstm model.")
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    is_whole = manifest.get("sha256") == hashlib.sha256(write_json(body)).hexdigest() and data == write_json(manifest)
    version = manifest.get("format_version")
    if type(version) is int and version > FORMAT_VERSION and is_whole:
        raise ModelFolderError(
            f"{path}: written by bilstm {manifest.get('tool_version')} in format {version}; "
            f"this version reads up to format {FORMAT_VERSION}.",
            "Upgrade: pip install --upgrade bilstm",
        )
    if not is_whole:
        raise ModelFolderError(f"{where}: does not match its own hash.", _DAMAGED)
    _check_manifest(manifest, where)
    return manifest


def _check_manifest(manifest: dict[str, Any], where: str) -> None:
    kinds = {"format": str, "format_version": int, "tool_version": str, "files": dict, "sha256": str}
    for key in sorted(manifest.keys() | kinds.keys()):
        if key not in kinds or type(manifest.get(key)) is not kinds[key]:
            raise ModelFolderError(f"{where}: key {key!r} is unknown, missing or of the wrong type.", _DAMAGED)
    if manifest["format_version"] != FORMAT_VERSION:
        raise ModelFolderError(f"{where}: there is no format {manifest['format_version']}.", _DAMAGED)
    files = manifest["files"]
    if len(files) > _MAX_FILES:
        raise ModelFolderError(f"{where}: lists {len(files):,} files; at most {_MAX_FILES:,} are read.")
    for name, entry in files.items():
        _check_file_name(name, where)
        if (
            not isinstance(entry, dict)
            or entry.keys() != {"size", "sha256"}
            or type(entry["size"]) is not int
            or type(entry["sha256"]) is not str
            or entry["size"] < 0
        ):
            raise ModelFolderError(f"{where}: the entry of {name!r} must be its size and sha256.", _DAMAGED)
    if missing := {CONFIG, WEIGHTS, METRICS} - files.keys():
        raise ModelFolderError(f"{where}: does not list {min(missing)}.", _DAMAGED)


def _check_file_name(name: str, where: str) -> None:
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
        raise ModelFolderError(f"{where}: {name!r} is not a plain file name.")
    if kind := _CAN_RUN_CODE.get(Path(name).suffix.lower()):
        raise ModelFolderError(f"{where}: {name!r} is {kind}, which can run code when opened; a model has none.")


def _read_listed(path: Path, name: str, entry: dict[str, Any], verify: bool) -> bytes:
    content = _read_file(path, name, entry["size"])
    if len(content) != entry["size"]:
        raise ModelFolderError(f"{path}/{name}: {len(content):,} bytes, should be {entry['size']:,}.", _DAMAGED)
    if verify and hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ModelFolderError(f"{path}/{name}: does not match its hash in {MANIFEST}.", _DAMAGED)
    return content


def _read_file(path: Path, name: str, max_bytes: int) -> bytes:
    """Read a regular file that lies in the folder; links must not leave it, pipes and devices are not opened."""
    where = f"{path}/{name}"
    try:
        if Path(os.path.realpath(path / name)).parent != Path(os.path.realpath(path)):
            raise ModelFolderError(f"{where}: is a link that leaves the model folder.")
        descriptor = os.open(path / name, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not block
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise ModelFolderError(f"{where}: is not a regular file.")
            if state.st_size > max_bytes:
                raise ModelFolderError(f"{where}: {state.st_size:,} bytes, should be at most {max_bytes:,}.", _DAMAGED)
            return file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise ModelFolderError(f"{where}: is missing.", _DAMAGED) from error
    except PermissionError as error:
        raise InputNotFoundError(f"{where}: may not be read.") from error
    except OSError as error:
        raise ModelFolderError(f"{where}: cannot be read: {error.strerror}.", _DAMAGED) from error


def _read_object(data: bytes, where: str) -> dict[str, Any]:
    value = read_strict_json(data, where)
    if not isinstance(value, dict):
        raise ModelFolderError(f"{where}: must be an object, found {type(value).__name__}.", _DAMAGED)
    return value


def pack_tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Write arrays in the safetensors format; equal arrays give equal bytes."""
    import safetensors.numpy

    return safetensors.numpy.save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)})


def unpack_tensors(data: bytes, where: str) -> dict[str, np.ndarray]:
    """Read arrays in the safetensors format; the header is checked here first, with bounds.

    Parameters
    ----------
    data : bytes
    where : str
        File name for messages.

    Returns
    -------
    dict of str to ndarray
        Read-only, each starting at a multiple of 64 bytes: matrix libraries round differently at other addresses, and
        a result must not depend on where a file happened to be read to.

    Raises
    ------
    ModelFolderError
        If a name, type, shape or extent does not fit.
    """
    header = _read_header(data, where)
    body = memoryview(data)[8 + int.from_bytes(data[:8], "little") :]
    arrays: dict[str, np.ndarray] = {}
    end_before = 0
    for name, entry in sorted(header.items(), key=_begin):
        dtype, shape, (begin, end) = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
        if begin != end_before or end - begin != math.prod(shape) * dtype.itemsize or end > len(body):
            raise ModelFolderError(f"{where}: the extent {begin}:{end} of {name!r} does not fit {shape}.", _DAMAGED)
        end_before = end
        arrays[name] = _aligned_copy(np.frombuffer(body[begin:end], dtype=dtype.newbyteorder("<"))).reshape(shape)
    if end_before != len(body):
        raise ModelFolderError(f"{where}: {len(body) - end_before:,} bytes belong to no weight.", _DAMAGED)
    return {name: arrays[name] for name in sorted(arrays)}


def _aligned_copy(array: np.ndarray) -> np.ndarray:
    room = np.empty(array.nbytes + 64, dtype=np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype.newbyteorder("="))
    copy[...] = array
    copy.flags.writeable = False
    return copy


def _begin(item: tuple[str, dict[str, Any]]) -> tuple[int, int]:
    return tuple(item[1]["data_offsets"])


def _read_header(data: bytes, where: str) -> dict[str, dict[str, Any]]:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise ModelFolderError(f"{where}: a header of {size:,} bytes does not fit.", _DAMAGED)
    header = _read_object(data[8 : 8 + size], f"{where} (header)")
    header.pop("__metadata__", None)
    if len(header) > _MAX_TENSORS:
        raise ModelFolderError(f"{where}: {len(header):,} tensors; at most {_MAX_TENSORS:,} are read.")
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ModelFolderError(f"{where}: the entry of {name!r} must be dtype, shape, data_offsets.", _DAMAGED)
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
            raise ModelFolderError(f"{where}: {name!r} has type {entry['dtype']!r}, which is not read.", _DAMAGED)
        for key, length in (("shape", None), ("data_offsets", 2)):
            sizes = entry[key]
            if (
                not isinstance(sizes, list)
                or (len(sizes) != length if length else len(sizes) > 8)
                or not all(type(number) is int and 0 <= number < 2**48 for number in sizes)
            ):
                raise ModelFolderError(f"{where}: {key} of {name!r} is {sizes!r}.", _DAMAGED)
    return header


def check_weights(
    weights: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], where: str = WEIGHTS
) -> None:
    """Compare the names, shapes and types of weights with what the layers need.

    Parameters
    ----------
    weights : mapping of str to ndarray
    expected : mapping of str to tuple of int
        Shape of every weight by name; the type is float32.
    where : str
        File name for messages.

    Raises
    ------
    ModelFolderError
        Naming the first weight that is missing, unknown, or of another shape or type.
    """
    for name in sorted(weights.keys() | expected.keys()):
        if name not in weights:
            raise ModelFolderError(f"{where}: weight {name!r} is missing.", _DAMAGED)
        if name not in expected:
            raise ModelFolderError(f"{where}: weight {name!r} belongs to no layer of config.json.", _DAMAGED)
        if weights[name].shape != tuple(expected[name]):
            raise ModelFolderError(
                f"{where}: weight {name!r} has shape {weights[name].shape}, should be {tuple(expected[name])}.",
                _DAMAGED,
            )
        if weights[name].dtype != np.float32:
            raise ModelFolderError(f"{where}: weight {name!r} is {weights[name].dtype}, should be float32.", _DAMAGED)
