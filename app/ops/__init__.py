"""For operators and client developers: health, metrics, the docs page, commands."""
