"""The outside worlds: no database, exceptions of their own.

Gemini: `model_client` is the interface, `gemini_generativeai` and `gemini_genai` are its implementations, and
`model_factory` chooses between them.
"""
