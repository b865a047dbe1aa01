"""What happens to a reply while it is written, and who follows it."""
