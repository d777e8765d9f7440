"""A trained model without torch: description and weights to predictions."""

from bilstm.runtime.model import Model, check_weights

__all__ = ["Model", "check_weights"]
