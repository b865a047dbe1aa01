"""Crashes on purpose: what becomes of accepted messages when something dies (`make chaos`)."""
