"""What operators and client developers need: health, the docs page, admin commands."""
