"""Gemini: the interface, and one file for each SDK."""
