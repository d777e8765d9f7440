"""The application: finds the verb, turns every error into one line and an exit code. Imports typer.

The modules of the verbs are imported when their verb is called, so that `bilstm --help` answers at once.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from bilstm.cli.output import abandon_output, flush_output, print_error, print_json
from bilstm.errors import BilstmError
from bilstm.thread_waiting import wait_passively

__all__ = ["VERBS", "main", "verb"]

# name -> first line of the help; the module is bilstm.cli.<name>, but for `_MODULES`
VERBS = {
    "train": "Train a model on labelled files.",
    "pretrain": "Learn a language model from texts without labels.",
    "evaluate": "Score a trained model on labelled files, a language model on texts.",
    "predict": "Answer for texts given as arguments, in files, or on standard input.",
    "explain": "Show which words and phrases made the answers.",
    "compare": "Train several models on the same texts with the same seeds, and put them in one table and one figure.",
    "serve": "Answer over HTTP, with a page to try the models.",
    "demo": "Train, test and report on bundled data, in about a minute.",
    "sample": "Write the bundled data of the demo as files to try things on.",
    "export": "Write a trained model in another library's format, or smaller.",
    "import": "Make a model folder of a text classifier that Keras trained.",
    "info": "Print versions, processor, threads and which backend runs, and why.",
}

_MODULES = {"import": "import_model"}  # where the verb is a word of Python

# typer carries its own copy of click, older versions import it: reach its error through a public name of typer
_TyperUsageError: Any = typer.BadParameter.__base__
_COMPLETION = "_BILSTM_COMPLETE"


def verb(name: str) -> Any:
    """Import the module of a verb and make its command."""
    single = typer.Typer(
        add_completion=False, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
    )
    function = importlib.import_module(f"bilstm.cli.{_MODULES.get(name, name)}").command
    single.command(name, help=_paragraphs(inspect.getdoc(function) or ""))(function)
    return typer.main.get_command(single)


def _paragraphs(text: str) -> str:
    """Join the lines of each paragraph, so that the terminal breaks them where it ends; indented lines stay."""
    paragraphs = [part if part.startswith(" ") else " ".join(part.split("\n")) for part in text.split("\n\n")]
    return "\n\n".join(paragraphs)


class _Verbs(TyperGroup):
    """The group of verbs: names and first lines at hand, the verb itself when it is called."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=line) for name, line in VERBS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return name, command and further arguments, as click asks for them."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, verb(name) if name in VERBS else command, rest


app = typer.Typer(
    cls=_Verbs,
    name="bilstm",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
        Default `sys.argv[1:]`; none at all means `--help`.
    """
    wait_passively()
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    command: Any = typer.main.get_command(app)
    if _COMPLETION in os.environ:  # the shell asks for completions; typer answers and exits
        command.main(args=arguments, prog_name="bilstm")
    before_texts = arguments[: arguments.index("--")] if "--" in arguments else arguments
    wants_json = "--json" in before_texts
    try:
        # not command.main(): it turns every KeyboardInterrupt, also one with a message, into a silent exit
        with command.make_context("bilstm", arguments) as context:
            command.invoke(context)
        flush_output()
        return 0
    except typer.Exit as done:
        flush_output()
        return done.exit_code
    except BilstmError as error:
        return _failed(error.message, error.hint, error.exit_code, type(error).__name__, wants_json)
    except _TyperUsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        return _failed(error.format_message() + where, None, 2, "UsageError", wants_json)
    except (KeyboardInterrupt, typer.Abort):
        return _failed("Interrupted.", None, 130, "Interrupted", wants_json)
    except MemoryError as error:
        reason = f" ({error})" if str(error) else ""
        hint = "Use smaller batches (--batch-steps) or a smaller model."
        return _failed(f"not enough memory{reason}.", hint, 71, "MemoryError", wants_json)
    except BrokenPipeError:  # the reader of our output has gone, for example `| head`
        abandon_output()
        return 0


def _failed(message: str, hint: str | None, code: int, kind: str, wants_json: bool) -> int:
    print_error(message, hint)
    if wants_json:
        print_json({"error": {"kind": kind, "message": message, "hint": hint, "exit_code": code}})
    return code
