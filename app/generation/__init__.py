"""Replies: their states, and how a worker generates them."""
