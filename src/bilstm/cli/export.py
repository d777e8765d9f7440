"""`bilstm export`: a trained model in another form, checked before it is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from bilstm.cli.options import AsJson, ModelFolder
from bilstm.cli.output import note, print_json, print_line
from bilstm.eight_bit_weights import to_int8
from bilstm.errors import UsageError
from bilstm.model_folder import load_model, save_model
from bilstm.tasks import load, model_of
from bilstm.tasks.language_model import LanguageModel
from bilstm.tasks.precision_scores import INT8

__all__ = ["command"]


def command(
    model: ModelFolder,
    onnx: Annotated[
        str | None, typer.Option("--onnx", metavar="FILE", help="Write ONNX: runs in ONNX Runtime anywhere.")
    ] = None,
    keras: Annotated[
        str | None, typer.Option("--keras", metavar="FILE", help="Write a .keras file (Keras 3): text classifiers.")
    ] = None,
    int8: Annotated[
        str | None,
        typer.Option(
            "--int8",
            metavar="FOLDER",
            help="Write a model folder like MODEL whose weights are 8-bit integers: about a quarter of their size.",
        ),
    ] = None,
    network_only: Annotated[
        bool,
        typer.Option("--network-only", help="Leave out the linear n-gram models that a text classifier may have."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained model in another library's format, or smaller.

    An ONNX file is compared with the model on random sequences of many lengths first, and written only if both give
    the same numbers. A folder of 8-bit integers is read by every verb; how it scores on the development part stands in
    its README.md.

    [bold]Examples[/bold]

      bilstm export model --onnx model.onnx

      bilstm export model --keras network.keras --network-only

      bilstm export model --int8 small-model
    """
    if [onnx, keras, int8].count(None) != 2:
        raise UsageError(
            "say what to write: --onnx, --keras or --int8, one of them.",
            f"For example: bilstm export {model} --onnx model.onnx",
        )
    if int8 is not None:
        if network_only:
            raise UsageError("--network-only is for --onnx and --keras; --int8 keeps the whole model.")
        _write_int8(model, int8, overwrite, as_json)
        return
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


def _write_int8(folder: str, target: str, overwrite: bool, as_json: bool) -> None:
    stored = load_model(folder)
    model_of(stored)  # what cannot run is not written
    card = stored.files.get("README.md", b"").decode("utf-8")
    files = {**stored.files, "README.md": f"{card}\n{_INT8_LINE}\n" if _INT8_LINE not in card else card}
    weights = to_int8(stored.weights)
    path = save_model(
        target, config=stored.config, weights=weights, files=files, metrics=stored.metrics, overwrite=overwrite
    )
    before, after = (_folder_bytes(one) for one in (stored.path, path))
    scores = stored.metrics.get("precisions") or {}
    values = {name: scores[name] for name in ("float32", INT8) if scores.get(name) is not None}
    if INT8 not in values:
        note(f"{folder} does not say how int8 weights score: compare bilstm evaluate {target} FILE with {folder}.")
    if as_json:
        score = {"score": scores.get("score"), **values} if INT8 in values else None
        print_json(
            {"model": folder, "format": "int8", "path": str(path), "bytes": after, "before": before, "dev": score}
        )
        return
    print_line(f"folder:  {path} ({after / 1e6:.1f} MB, was {before / 1e6:.1f} MB)")
    if INT8 in values:
        name = str(scores["score"]).replace("_", " ")
        shown = ", ".join(
            f"{value:.4f} ({title})" for title, value in zip(("float32", "int8"), values.values(), strict=True)
        )
        print_line(f"scores:  {name} on the development part {shown}")


_INT8_LINE = "The weights of this folder are stored as 8-bit integers with a scale for every 64 of them."


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
