"""Which client of the model a worker uses; imports none but the chosen one."""

from collections.abc import Callable
from importlib import import_module

from app.integrations.model_client import ModelClient

CLIENTS = {  # by what GEMINI_SDK says: module, class, and the file that installs the library
    "google-generativeai": ("app.integrations.gemini_generativeai", "Gemini", "requirements.txt"),
    "google-genai": ("app.integrations.gemini_genai", "GenAI", "requirements-genai.txt"),
}


class SdkMissing(Exception):
    """The chosen library is not installed; the message is a sentence for the operator."""


def model_client_class(sdk: str) -> Callable[..., ModelClient]:
    """What makes a client on the library that GEMINI_SDK names. Raises SdkMissing."""
    module, name, requirements = CLIENTS[sdk]
    try:
        client: Callable[..., ModelClient] = getattr(import_module(module), name)
    except ImportError as error:
        raise SdkMissing(f"GEMINI_SDK is {sdk}, which is not installed ({error}): install {requirements}.") from error
    return client
