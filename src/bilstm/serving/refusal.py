"""A request that is refused: status, code, message and what to do, in one form for every endpoint."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["CODES", "Code", "Refusal"]

Code = Literal[
    "bad_request",
    "body_too_large",
    "connection_limit",
    "forbidden_host",
    "forbidden_origin",
    "header_too_large",
    "internal",
    "invalid",
    "label_not_found",
    "method_not_allowed",
    "model_not_found",
    "not_found",
    "not_supported",
    "overloaded",
    "stopping",
    "text_too_long",
    "timeout",
    "too_slow",
    "unauthorized",
    "unsupported_media_type",
]
CODES: tuple[str, ...] = get_args(Code)


class Refusal(Exception):
    """An answer other than the one asked for.

    Parameters
    ----------
    status : int
        Of HTTP.
    code : str
        One of `CODES`; stable, for programs.
    message : str
        What was found and what is allowed, for people. Never holds the text of a request.
    hint : str, optional
        What to do.
    retry_after : int, optional
        Seconds after which it is worth trying again.
    field : str, optional
        Place in the request, such as `texts[3]`.
    headers : dict of str to str, optional
        Further headers.
    """

    def __init__(
        self,
        status: int,
        code: Code,
        message: str,
        hint: str | None = None,
        *,
        retry_after: int | None = None,
        field: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint
        self.field = field
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def to_json(self) -> dict[str, dict[str, str | None]]:
        """Return the body of the answer."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint, "field": self.field}}
