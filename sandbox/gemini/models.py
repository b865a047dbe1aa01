"""The models the stand-in knows. Source: https://ai.google.dev/gemini-api/docs/models and …/deprecations."""

from typing import Any

from sandbox.gemini.errors import model_not_found, model_shut_down

LISTED = ("gemini-3.5-flash", "gemini-3.5-flash-lite", "gemini-3.5-pro", "gemini-2.5-flash", "gemini-2.5-pro")
SHUT_DOWN_PREFIXES = ("gemini-1.", "gemini-2.0-", "gemini-pro")
METHODS = ("generateContent", "streamGenerateContent", "countTokens")


def require_model(model: str, method: str = "generateContent") -> None:
    """Accept any Gemini model that Google has not shut down. Raises ApiError 404."""
    if model.startswith(SHUT_DOWN_PREFIXES):
        raise model_shut_down(model)
    if not model.startswith("gemini-"):
        raise model_not_found(model, method)


def describe(model: str) -> dict[str, Any]:
    """Return a model as `GET /v1beta/models/{model}` shows it."""
    return {
        "name": f"models/{model}",
        "version": model.removeprefix("gemini-"),
        "displayName": model.replace("-", " ").title(),
        "description": "A stand-in of the sandbox: no model is behind it.",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": list(METHODS),
        "temperature": 1,
        "maxTemperature": 2,
        "topP": 0.95,
        "topK": 64,
    }
