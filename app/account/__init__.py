"""What concerns a whole account: the one feature that reaches across the others."""
