"""Sign-up, one-time codes, passwords, sessions, API keys, security events, and the change of a number."""
