"""`bilstm export`: a trained model in another library's format, checked before it is written."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from bilstm.cli.options import AsJson, ModelFolder
from bilstm.cli.output import note, print_json, print_line
from bilstm.errors import UsageError
from bilstm.tasks import load
from bilstm.tasks.language_model import LanguageModel

__all__ = ["command"]


def command(
    model: ModelFolder,
    onnx: Annotated[
        str | None, typer.Option("--onnx", metavar="FILE", help="Write ONNX: runs in ONNX Runtime anywhere.")
    ] = None,
    keras: Annotated[
        str | None, typer.Option("--keras", metavar="FILE", help="Write a .keras file (Keras 3): text classifiers.")
    ] = None,
    network_only: Annotated[
        bool,
        typer.Option("--network-only", help="Leave out the linear n-gram models that a text classifier may have."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that stands there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained model in another library's format.

    An ONNX file is compared with the model on random sequences of many lengths first, and written only if both give
    the same numbers.

    [bold]Examples[/bold]

      bilstm export model --onnx model.onnx

      bilstm export model --keras network.keras --network-only
    """
    if (onnx is None) == (keras is None):
        raise UsageError(
            "say what to write: --onnx or --keras, one of them.",
            f"For example: bilstm export {model} --onnx model.onnx",
        )
    loaded = load(model)
    if isinstance(loaded, LanguageModel):
        raise UsageError(
            f"{model} is a language model, which cannot be exported.",
            f"Export a model that was trained with --start-from {model}.",
        )
    if keras is not None:
        _write_keras(model, loaded, keras, network_only, overwrite, as_json)
        return
    assert onnx is not None
    from bilstm.export.onnx_export import export_onnx

    result = export_onnx(loaded, onnx, network_only=network_only, overwrite=overwrite)
    if getattr(loaded, "joined", None) is not None and network_only:
        note("The n-gram models are left out: the file answers otherwise than `bilstm predict`, and not calibrated.")
    facts: dict[str, Any] = {**dataclasses.asdict(result), "path": str(result.path)}
    if as_json:
        print_json({"model": model, "format": "onnx", **facts})
        return
    print_line(f"file:    {result.path} ({result.bytes / 1e6:.1f} MB): {result.parts}")
    print_line(f"inputs:  {', '.join(result.inputs)}")
    print_line(f"outputs: {', '.join(result.outputs)}")
    difference = f"largest difference {result.largest_difference:.1e}"
    print_line(f"checked: {result.checked_rows} random sequences in ONNX Runtime, {difference}")


def _write_keras(folder: str, model: Any, path: str, network_only: bool, overwrite: bool, as_json: bool) -> None:
    from bilstm.export.keras_export import export_keras

    notes = export_keras(model, path, network_only=network_only, overwrite=overwrite)
    for line in notes:
        note(line)
    if as_json:
        print_json({"model": folder, "format": "keras", "path": path, "notes": notes})
        return
    print_line(f"file:    {path}")
