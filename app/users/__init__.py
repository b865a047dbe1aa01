"""The person's row and how to find it; no routes."""
