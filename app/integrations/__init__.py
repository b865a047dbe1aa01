"""The outside worlds: no database, exceptions of their own.

Gemini: `gemini.client` is the interface and chooses one of its implementations, `gemini.generativeai` and
`gemini.genai`.
"""
