"""The prompts of a day: what a number has spent, kept longer than messages and accounts."""
