"""Signing up, proving a number by a one-time code, and the tokens that follow."""
