"""One family of errors: what was given, where, what is allowed, what to do.

Every error a user can cause is a :class:`BilstmError`. Its text is one line that a person can act on; `exit_code`
is what the command line returns (documented in docs/cli.md). This module imports nothing, so every stage may use it.
"""

__all__ = [
    "BilstmError",
    "DataError",
    "InputNotFoundError",
    "InterruptedTrainingError",
    "MissingExtraError",
    "ModelFolderError",
    "OutputError",
    "ShapeError",
    "TrainingDivergedError",
    "UsageError",
    "WriteFailedError",
]


class BilstmError(Exception):
    """Base of all errors that bilstm raises on purpose.

    Parameters
    ----------
    message : str
        What was found and where (`file:row:column` where there is one), in one line.
    hint : str, optional
        What to do about it; shown after the message.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None):
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message} {hint}")


class UsageError(BilstmError, ValueError):
    """An option or argument that is not allowed, or two that exclude each other."""

    exit_code = 2


class ShapeError(BilstmError, ValueError):
    """An array whose shape, dtype or offsets do not fit; the message names the row and the value."""

    exit_code = 2


class DataError(BilstmError, ValueError):
    """Input data that cannot be read as what it should be; the message names file, row and column."""

    exit_code = 65


class ModelFolderError(BilstmError, ValueError):
    """A model folder that is damaged, incomplete, of a newer format, or no model folder at all."""

    exit_code = 65


class InputNotFoundError(BilstmError, FileNotFoundError):
    """A file or folder that should be read and is not there or may not be read."""

    exit_code = 66


class MissingExtraError(BilstmError, ImportError):
    """An optional dependency that is not installed; the message says which `pip install` brings it."""

    exit_code = 69


class TrainingDivergedError(BilstmError, ArithmeticError):
    """Loss or weights became NaN or infinite; the last good checkpoint is kept."""

    exit_code = 70


class OutputError(BilstmError, OSError):
    """An output that cannot be created: it exists already, or the place is read-only."""

    exit_code = 73


class WriteFailedError(BilstmError, OSError):
    """A write that failed part-way (disk full, input/output error); what stood there before is intact."""

    exit_code = 74


class InterruptedTrainingError(BilstmError, KeyboardInterrupt):
    """Ctrl-C during training, after the best model so far was saved."""

    exit_code = 130
