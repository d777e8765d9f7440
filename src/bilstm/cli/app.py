"""The application: registers the verbs, turns every error into one line and an exit code. Imports typer."""

from __future__ import annotations

import sys

import click
import typer

from bilstm.cli import compare, demo, evaluate, info, predict, train
from bilstm.cli.output import print_error, print_json
from bilstm.errors import BilstmError

__all__ = ["app", "main"]

app = typer.Typer(
    name="bilstm",
    help="Train, explain and ship bidirectional LSTM models, on a CPU, from your own files.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.command)
app.command("evaluate")(evaluate.command)
app.command("predict")(predict.command)
app.command("compare")(compare.command)
app.command("info")(info.command)
app.command("demo")(demo.command)


def _version(is_wanted: bool) -> None:
    if is_wanted:
        from bilstm.versions import tool_version

        sys.stdout.write(f"bilstm {tool_version()}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Train, explain and ship bidirectional LSTM models, on a CPU, from your own files."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code.

    Parameters
    ----------
    arguments : list of str, optional
        Default `sys.argv[1:]`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    wants_json = "--json" in arguments
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BilstmError as error:
        return _failed(error.message, error.hint, error.exit_code, type(error).__name__, wants_json)
    except click.UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        return _failed(error.format_message() + where, None, 2, "UsageError", wants_json)
    except click.exceptions.Abort:
        return _failed("Interrupted.", None, 130, "Interrupted", wants_json)
    except KeyboardInterrupt:
        return _failed("Interrupted; nothing was written.", None, 130, "Interrupted", wants_json)
    except BrokenPipeError:  # the reader of our output has gone, for example `| head`
        sys.stderr.close()
        return 0


def _failed(message: str, hint: str | None, code: int, kind: str, wants_json: bool) -> int:
    print_error(message, hint)
    if wants_json:
        print_json({"error": {"kind": kind, "message": message, "hint": hint, "exit_code": code}})
    return code
