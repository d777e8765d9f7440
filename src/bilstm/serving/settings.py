"""Settings of the server: one dataclass that gives the flags of `bilstm serve`, the keys of its TOML file and the docs.

Imports `config`.
"""

from __future__ import annotations

from dataclasses import dataclass

from bilstm.config import Settings, field

__all__ = ["ServingSettings"]


@dataclass(frozen=True)
class ServingSettings(Settings):
    """What the server allows, and how requests that wait together are joined."""

    host: str = field("127.0.0.1", help="Address to listen on; beyond this machine only with an API key.")
    port: int = field(8000, help="Port to listen on; 0 takes a free one.", minimum=0, maximum=65535)
    allowed_hosts: tuple[str, ...] | None = field(
        None, help="Host names that requests may name; none: this machine's while listening on loopback, else any."
    )
    cors_origins: tuple[str, ...] | None = field(
        None, help="Origins, such as https://example.org, whose pages may call the server; none: no other page may."
    )
    without_key: bool = field(False, help="Listen beyond this machine without an API key.")
    log_requests: bool = field(True, help="Write a line of JSON to standard error for every request.")
    log_texts: bool = field(False, help="Write the texts of requests into these lines.")

    batch_texts: int = field(64, help="Texts that are run together at most.", minimum=1, maximum=65_536)
    batch_steps: int = field(
        16_384, help="Steps (words, counted roughly) that are run together at most.", minimum=1, maximum=2**31
    )
    batch_ms: float = field(
        2.0,
        help="How long a batch waits for more texts, while there is more than one client.",
        unit="milliseconds",
        minimum=0.0,
        maximum=1000.0,
    )

    max_body_bytes: int = field(2**20, help="Largest body of a request.", unit="bytes", minimum=1024, maximum=2**30)
    max_texts: int = field(128, help="Texts of one request at most.", minimum=1, maximum=65_536)
    max_text_chars: int = field(
        20_000, help="Characters of a text at most.", unit="characters", minimum=1, maximum=10_000_000
    )
    max_explained_chars: int = field(
        4_000, help="Characters of a text to explain at most.", unit="characters", minimum=1, maximum=1_000_000
    )
    max_waiting: int = field(512, help="Requests that may wait at once.", minimum=1, maximum=1_000_000)
    max_waiting_chars: int = field(
        16_000_000, help="Characters that may wait at once.", unit="characters", minimum=1024, maximum=2**40
    )
    max_connections: int = field(1000, help="Connections at once.", minimum=1, maximum=100_000)
    request_seconds: float = field(
        10.0, help="Time for an answer, after which 503 is sent.", unit="seconds", above=0.0, maximum=3600.0
    )
    header_seconds: float = field(
        10.0, help="Time for a client to send the head of a request.", unit="seconds", above=0.0, maximum=3600.0
    )
    body_seconds: float = field(
        10.0, help="Time for a client to send the body of a request.", unit="seconds", above=0.0, maximum=3600.0
    )
    idle_seconds: float = field(
        15.0, help="How long a connection without a request stays open.", unit="seconds", above=0.0, maximum=3600.0
    )
    stop_seconds: float = field(
        30.0, help="Time to finish what is in flight when stopping.", unit="seconds", above=0.0, maximum=3600.0
    )
    watch_seconds: float | None = field(
        2.0,
        help="How often model folders are looked at for a new model; none: only on SIGHUP.",
        unit="seconds",
        above=0.0,
        maximum=86_400.0,
    )
