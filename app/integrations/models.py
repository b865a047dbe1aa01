"""Which client of the model a worker uses; imports none but the chosen one."""

from importlib import import_module

from app.integrations.model_calls import ModelClient

CLIENTS = {
    "google-generativeai": ("app.integrations.gemini", "Gemini"),
    "google-genai": ("app.integrations.genai", "GenAI"),
}


class SdkMissing(Exception):
    """The chosen library is not installed; the message is a sentence for the operator."""


def model_client_class(sdk: str) -> type[ModelClient]:
    """The client on one of the libraries that GEMINI_SDK names. Raises SdkMissing."""
    module, name = CLIENTS[sdk]
    try:
        client: type[ModelClient] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("app."):
            raise
        raise SdkMissing(f"GEMINI_SDK is {sdk}, which is not installed: install requirements-genai.txt.") from error
    return client
