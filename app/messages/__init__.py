"""Sending, editing and reading messages; replies are generated in `generation`."""
