"""Google's JSON and errors: enums by name or by number, error bodies, status names and the details of each.

Sources: https://ai.google.dev/gemini-api/docs/troubleshooting (codes), https://cloud.google.com/apis/design/errors
(the body and google.rpc details), googleapis/google/ai/generativelanguage/v1beta (numbers of the enums, in
generative_service.proto and safety.proto).
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response

FINISH_REASONS: Mapping[str, int] = {
    "STOP": 1,
    "MAX_TOKENS": 2,
    "SAFETY": 3,
    "RECITATION": 4,
    "OTHER": 5,
    "LANGUAGE": 6,
    "BLOCKLIST": 7,
    "PROHIBITED_CONTENT": 8,
    "SPII": 9,
    "MALFORMED_FUNCTION_CALL": 10,
    "IMAGE_SAFETY": 11,
    "UNEXPECTED_TOOL_CALL": 12,  # which google-generativeai does not know
}
BLOCK_REASONS: Mapping[str, int] = {
    "SAFETY": 1,
    "OTHER": 2,
    "BLOCKLIST": 3,
    "PROHIBITED_CONTENT": 4,
    "IMAGE_SAFETY": 5,
}
HARM_CATEGORIES: Mapping[str, int] = {"HARM_CATEGORY_DANGEROUS_CONTENT": 10}
HARM_PROBABILITIES: Mapping[str, int] = {"HIGH": 4}

ENUMS: Mapping[str, Mapping[str, int]] = {
    "finishReason": FINISH_REASONS,
    "blockReason": BLOCK_REASONS,
    "category": HARM_CATEGORIES,
    "probability": HARM_PROBABILITIES,
}


SERVICE = "generativelanguage.googleapis.com"
RATE_LIMITS_PAGE = "https://ai.google.dev/gemini-api/docs/rate-limits"

# google.rpc.Code names by HTTP status (googleapis/google/rpc/code.proto).
STATUS_NAMES: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

MESSAGES: Mapping[int, str] = {
    400: "Request contains an invalid argument.",
    403: "The caller does not have permission.",
    429: "You exceeded your current quota, please check your plan and billing details. "
    f"For more information on this error, head to: {RATE_LIMITS_PAGE}.",
    500: "An internal error has occurred. Please retry.",
    503: "The model is overloaded. Please try again later.",
    504: "Deadline expired before operation could complete.",
}

BAD_GATEWAY_PAGE = "<!DOCTYPE html><html><title>Error 502 (Server Error)!!1</title><p>Please try again.</html>\n"

Details = Sequence[Mapping[str, Any]]


def to_json(value: Any) -> str:
    """Return `value` as compact JSON with unescaped Unicode."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def with_numbers_for_enums(value: Any) -> Any:
    """Return a copy of an answer with every enum name replaced by its number."""
    if isinstance(value, list):
        return [with_numbers_for_enums(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: ENUMS[key].get(item, item) if key in ENUMS else with_numbers_for_enums(item) for key, item in value.items()
    }


class ApiError(Exception):
    """An error, answered as Google does. `retry_after_seconds` goes into RetryInfo and Retry-After."""

    def __init__(
        self, code: int, message: str, *, details: Details = (), retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = list(details)
        self.retry_after_seconds = retry_after_seconds
        if retry_after_seconds is not None:
            delay = f"{retry_after_seconds:g}s"
            self.details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})

    def body(self) -> dict[str, Any]:
        """Return the `{"error": …}` object."""
        error: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "status": STATUS_NAMES.get(self.code, "UNKNOWN"),
        }
        if self.details:
            error["details"] = self.details
        return {"error": error}

    def response(self, *, as_array: bool) -> Response:
        """Return the HTTP answer. as_array: wrap the error in an array, as Google's JSON streams do."""
        if self.code == 502:
            return Response(BAD_GATEWAY_PAGE, 502, mimetype="text/html")
        response = Response(
            to_json([self.body()] if as_array else self.body()),
            self.code,
            content_type="application/json; charset=UTF-8",
        )
        if self.retry_after_seconds is not None:
            response.headers["Retry-After"] = str(math.ceil(self.retry_after_seconds))
        return response


def model_not_found(model: str, method: str) -> ApiError:
    """Return the 404 for a model that does not exist or does not support this method."""
    return ApiError(
        404,
        f"models/{model} is not found for API version v1beta, or is not supported for {method}. "
        "Call ListModels to see the list of available models and their supported methods.",
    )


def asked_for(code: int, *, model: str, retry_after_seconds: float | None) -> ApiError:
    """Return the error that a directive or the control API asked for."""
    if code == 404:
        return model_not_found(model, "generateContent")
    message = MESSAGES.get(code, f"The sandbox was told to answer {code}.")
    if code != 429:
        return ApiError(code, message, retry_after_seconds=retry_after_seconds)
    if retry_after_seconds is not None:
        message += f"\nPlease retry in {retry_after_seconds:g}s."
    return ApiError(code, message, details=_quota_details(model, "Minute"), retry_after_seconds=retry_after_seconds)


def quota_spent(period: str, *, model: str) -> ApiError:
    """Return the 429 for a spent quota of a minute or a day. Google names seconds to wait in both cases."""
    message = f"{MESSAGES[429]}\nPlease retry in 17s."
    return ApiError(429, message, details=_quota_details(model, period.capitalize()), retry_after_seconds=17)


def _quota_details(model: str, period: str) -> Details:
    return [
        {
            "@type": "type.googleapis.com/google.rpc.Help",
            "links": [{"description": "Learn more about Gemini API quotas", "url": RATE_LIMITS_PAGE}],
        },
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [
                {
                    "quotaMetric": f"{SERVICE}/generate_content_free_tier_requests",
                    "quotaId": f"GenerateRequestsPer{period}PerProjectPerModel-FreeTier",
                    "quotaDimensions": {"location": "global", "model": model},
                    "quotaValue": "10",
                }
            ],
        },
    ]
