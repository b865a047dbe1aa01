"""What a user has paid for: the tier and where it comes from."""
