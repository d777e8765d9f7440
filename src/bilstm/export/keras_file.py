"""A `.keras` file (Keras 3): a zip of config.json, metadata.json and model.weights.h5, read and written without Keras.

Nothing in it is run: the configuration is data, only layers of a fixed list are known, a Lambda is refused by name.
Weights are read as plain arrays with bounds on every size before anything is unpacked. Imports numpy; h5py inside the
functions (extra `keras`).
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bilstm.errors import DataError, InputNotFoundError, MissingExtraError

__all__ = ["KerasFile", "checkpoint_names", "read_keras_file", "write_keras_file"]

MAX_BYTES = 4 * 2**30
MAX_CONFIG_BYTES = 16 * 2**20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal models give equal files


@dataclass(frozen=True)
class KerasFile:
    """What a file holds.

    Parameters
    ----------
    name : str
        For messages.
    config : dict
        Content of config.json.
    weights : dict of str to ndarray
        By path inside model.weights.h5, for example `layers/dense/vars/0`; float32.
    vocabularies : dict of str to list of str
        Lines of the vocabulary of each TextVectorization, by its path in `layers`.
    """

    name: str
    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    vocabularies: dict[str, list[str]]


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("Keras files need the package h5py.", "pip install 'bilstm[keras]'") from error
    return h5py


def read_keras_file(path: str | Path) -> KerasFile:
    """Read a `.keras` file.

    Raises
    ------
    MissingExtraError
        h5py is not installed.
    InputNotFoundError
        There is no such file.
    DataError
        It is no Keras 3 file, or damaged, or larger than 4 GiB unpacked.
    """
    h5py, name = _h5py(), str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
            if total > MAX_BYTES:
                raise DataError(f"{name}: unpacks to {total:,} bytes; at most {MAX_BYTES:,} are read.")
            parts = set(archive.namelist())
            for part in ("config.json", "model.weights.h5"):
                if part not in parts:
                    raise DataError(f"{name}: holds no {part}; it is no Keras 3 file.", _old_hint(name))
            if archive.getinfo("config.json").file_size > MAX_CONFIG_BYTES:
                raise DataError(f"{name}: config.json is larger than {MAX_CONFIG_BYTES:,} bytes.")
            config = json.loads(archive.read("config.json"))
            content = archive.read("model.weights.h5")
            pattern = re.compile(r"assets/(?:layers/)?(.+?)/vocabulary\.txt")
            vocabularies = {
                match.group(1).removesuffix("/_lookup_layer"): archive.read(part).decode("utf-8").split("\n")
                for part in sorted(parts)
                if (match := pattern.fullmatch(part))
            }
    except FileNotFoundError as error:
        raise InputNotFoundError(f"{name}: there is no such file.") from error
    except zipfile.BadZipFile as error:
        raise DataError(f"{name}: is no .keras file ({error}).", _old_hint(name)) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: damaged ({error}).", "Save it again.") from error
    except OSError as error:
        raise InputNotFoundError(f"{name}: cannot be read ({error.strerror}).") from error
    if not isinstance(config, dict):
        raise DataError(f"{name}: config.json is no object.")
    return KerasFile(name, config, _arrays(h5py, content, name), vocabularies)


def _old_hint(name: str) -> str:
    return f"Save it with Keras 3: keras.models.load_model({name!r}).save('model.keras')."


def _arrays(h5py: Any, content: bytes, name: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            waiting = [("", file)]
            while waiting:
                prefix, group = waiting.pop()
                for key in group:
                    # links out of the file would read other files; only what lies in it is followed
                    if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                        raise DataError(f"{name}: {prefix}{key} is a link, which no Keras file has.")
                    item = group[key]
                    if isinstance(item, h5py.Group):
                        waiting.append((f"{prefix}{key}/", item))
                    elif item.dtype.kind == "f":
                        if item.external is not None or item.is_virtual:
                            raise DataError(f"{name}: {prefix}{key} lies in another file.")
                        found[f"{prefix}{key}"] = np.asarray(item[()], dtype=np.float32)
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(f"{name}: model.weights.h5 is damaged ({error}).", "Save it again.") from error
    return found


def checkpoint_names(classes: list[str]) -> list[str]:
    """Return the names under which Keras stores the weights of layers of these classes, in their order.

    A name is the class in snake case, numbered from the second of its kind on; the layer's own name does not count.

    Examples
    --------
    >>> checkpoint_names(["Embedding", "Dense", "GlobalMaxPooling1D", "Dense"])
    ['embedding', 'dense', 'global_max_pooling1d', 'dense_1']
    """
    counts: dict[str, int] = {}
    names = []
    for kind in classes:
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", kind)))
        snake = snake.lower()
        number = counts.get(snake, 0)
        counts[snake] = number + 1
        names.append(snake if number == 0 else f"{snake}_{number}")
    return names


def write_keras_file(config: Mapping[str, Any], weights: Mapping[str, np.ndarray], groups: list[str]) -> bytes:
    """Return the content of a `.keras` file.

    Parameters
    ----------
    config : mapping
        Of the model.
    weights : mapping of str to ndarray
        By path inside model.weights.h5.
    groups : list of str
        Further paths that must be there although they hold no array.
    """
    h5py = _h5py()
    content = io.BytesIO()
    with h5py.File(content, "w", track_order=False) as file:
        for group in groups:
            file.require_group(group)
        for path, array in weights.items():
            file.create_dataset(path, data=np.ascontiguousarray(array, dtype=np.float32))
    parts = {
        "metadata.json": json.dumps({"keras_version": "3.0.0", "date_saved": "1980-01-01@00:00:00"}).encode(),
        "config.json": json.dumps(config).encode(),
        "model.weights.h5": content.getvalue(),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return packed.getvalue()
