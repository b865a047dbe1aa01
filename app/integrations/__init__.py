"""The outside worlds: no database, exceptions of their own.

Gemini: `model_calls` is the interface, `gemini` and `genai` are its clients, `models` chooses between them.
"""
