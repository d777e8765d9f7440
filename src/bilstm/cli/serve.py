"""`bilstm serve`: models over HTTP, with a page to try them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated

import typer

from bilstm.cli.options import Backend, Precision, Threads
from bilstm.cli.settings_flags import with_settings
from bilstm.config import describe, parse_text, resolve
from bilstm.errors import MissingExtraError
from bilstm.serving.settings import ServingSettings

__all__ = ["command"]

_PANELS = {
    "batch": "Batches of requests that wait together",
    "max": "Limits",
    "seconds": "Times",
}


def _panel(name: str) -> str:
    if name.endswith("_seconds"):
        return _PANELS["seconds"]
    return _PANELS.get(name.partition("_")[0], "Server")


@with_settings({"serve": ServingSettings}, _panel)
def command(
    models: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]MODEL...", help="Model folders; the first answers where a request names none."),
    ],
    api_key_file: Annotated[
        str | None,
        typer.Option(
            "--api-key-file",
            metavar="FILE",
            help="API keys, one a line; without it the environment variable BILSTM_API_KEY counts.",
            rich_help_panel="Server",
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE.toml", help="Settings; flags go before them.")
    ] = None,
    backend: Backend = "auto",
    precision: Precision = "float32",
    threads: Threads = None,
    *,
    flags: Mapping[str, str],
) -> None:
    """Answer over HTTP, with a page to try the models.

    Prints one line of JSON an event to standard error. SIGTERM or Ctrl-C stops it after what is in flight is finished,
    SIGHUP reads models and keys again; a changed model folder is seen by itself.

    [bold]Examples[/bold]

      bilstm serve model

      bilstm serve reviews=models/reviews names=models/names --port 9000

      bilstm serve model --host 0.0.0.0 --api-key-file keys.txt
    """
    described = {setting.name: setting for setting in describe(ServingSettings)}
    values = {name: parse_text(described[name], text) for name, text in flags.items()}
    settings = resolve(ServingSettings, config, values)
    try:
        from bilstm.serving.http_server import serve
        from bilstm.serving.model_shelf import named_folders
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("bilstm"):
            raise
        raise MissingExtraError(
            f"serving needs {error.name}, which is not installed.", "pip install 'bilstm[serve]'"
        ) from error
    serve(
        named_folders(models),
        settings,
        key_file=api_key_file,
        backend=backend,
        precision=precision,
        threads=threads if threads is not None else len(os.sched_getaffinity(0)),
    )
