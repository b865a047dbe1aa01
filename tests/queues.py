"""What waits for a worker, read out of the broker's lists in Valkey."""

import base64
import json
from typing import Any

import redis


def waiting_tasks(client: redis.Redis, queue: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the names and arguments of the tasks in a queue, in the order in which workers take them."""
    messages = [json.loads(document) for document in reversed(client.lrange(queue, 0, -1))]  # type: ignore[arg-type]
    return [(message["headers"]["task"], tuple(arguments_of(message))) for message in messages]


def arguments_of(message: dict[str, Any]) -> list[Any]:
    return json.loads(base64.b64decode(message["body"]))[0]
