"""JSON as Google writes it: compact UTF-8, enums by name or, with `$alt=json;enum-encoding=int`, by number.

Numbers from googleapis/google/ai/generativelanguage/v1beta (generative_service.proto, safety.proto).
"""

import json
from collections.abc import Mapping
from typing import Any

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
