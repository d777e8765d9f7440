def command() -> None:
    """Compare models."""
