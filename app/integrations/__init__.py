"""Clients of external services. They use no database, and have exceptions of their own.

Gemini: `gemini.client` is the interface, and chooses one of its implementations, `gemini.generativeai` and
`gemini.genai`.
"""
