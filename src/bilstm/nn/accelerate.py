"""Put the engine under the recurrent layers of an existing torch model. Imports torch and `nn.recurrent`."""

from __future__ import annotations

import warnings

import torch

from bilstm.errors import UsageError
from bilstm.nn.recurrent import GRU, LSTM, RNN, Backend, PrecisionChoice, check_choices

__all__ = ["accelerate"]

_REPLACEMENTS: dict[type, type] = {torch.nn.LSTM: LSTM, torch.nn.GRU: GRU, torch.nn.RNN: RNN}


def accelerate(
    module: torch.nn.Module,
    *,
    backend: Backend = "auto",
    precision: PrecisionChoice = "auto",
    threads: int | None = None,
) -> torch.nn.Module:
    """Turn every torch.nn.LSTM, GRU and RNN inside `module` into bilstm's, in place.

    Each layer stays the same object with the same parameters, buffers and hooks, only its class changes; optimizers,
    other references and state dicts keep working.

    Parameters
    ----------
    module : torch.nn.Module
        A model, or a recurrent layer itself.
    backend, precision, threads
        As in `LSTM`, for every layer replaced.

    Returns
    -------
    torch.nn.Module
        The same `module`.

    Raises
    ------
    UsageError
        If a layer has a projection, or there is no layer to replace; nothing was changed then.

    Warns
    -----
    UserWarning
        For a subclass of a torch layer (a user's own, or a parametrized one), which is left as it is.

    Examples
    --------
    >>> model = accelerate(torch.nn.Sequential(torch.nn.GRU(3, 4)))
    >>> type(model[0]).__module__.startswith("bilstm.nn")
    True
    """
    check_choices(backend, precision, threads)
    found: list[torch.nn.Module] = []
    for name, layer in module.named_modules():
        if type(layer) in (LSTM, GRU, RNN):
            found.append(layer)
        elif type(layer) in _REPLACEMENTS:
            if layer.proj_size:
                raise UsageError(f"layer {name!r} has proj_size={layer.proj_size}, which the engine does not run.")
            found.append(layer)
        elif isinstance(layer, tuple(_REPLACEMENTS)):
            warnings.warn(f"layer {name!r} is a {type(layer).__name__}, a subclass: left as it is.", stacklevel=2)
    if not found:
        raise UsageError(f"{type(module).__name__} has no torch.nn.LSTM, GRU or RNN to replace.")
    for layer in found:
        layer.__class__ = _REPLACEMENTS.get(type(layer), type(layer))
        vars(layer).update(backend=backend, precision=precision, threads=threads)
    return module
