"""Makes the Postman collection from the API's own description and the story in `postman_story`.

`python -m sandbox.postman` writes docs/postman/.
"""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from uuid import NAMESPACE_URL, uuid5

from app.factory import create_app
from config import load_settings
from sandbox import postman_story as story
from sandbox.postman_story import STORY, Step

SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
METHODS = ("get", "post", "put", "patch", "delete")
SUCCESSES = range(200, 300)
# The variables that start empty, and those whose values Postman hides.
FILLED = (
    *("metrics_token", "mobile", "new_mobile", "password", "new_password", "otp", "access_token", "refresh_token"),
    *("session_id", "api_key", "key_id", "chatroom_id", "message_id", "webhook_body", "webhook_signature"),
)
SECRET = {
    *("password", "new_password", "access_token", "refresh_token", "api_key", "webhook_secret", "metrics_token"),
}

Json = dict[str, Any]


def operations_of(description: Json) -> dict[str, Json]:
    """Return every operation by `METHOD /path`."""
    return {
        f"{method.upper()} {path}": operation
        for path, item in description["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def collection_of(description: Json) -> Json:
    """Return the collection: the story's steps, in a folder for each part."""
    operations = operations_of(description)
    folders = [
        {"name": name, "item": [item_of(step, operations[step.operation]) for step in steps]}
        for name, steps in STORY.items()
    ]
    return {
        "info": {
            "_postman_id": str(uuid5(NAMESPACE_URL, "gemini-backend/collection")),
            "name": description["info"]["title"],
            "description": "Run it from top to bottom: it signs somebody new up and tells the whole story.\n\n"
            + description["info"].get("description", ""),
            "schema": SCHEMA,
        },
        "item": folders,
    }


def item_of(step: Step, operation: Json) -> Json:
    method, path = step.operation.split()
    documented = tuple(int(status) for status in operation["responses"] if int(status) in SUCCESSES)
    statuses = step.only or (*documented, *step.also)
    request: Json = {
        "method": method,
        "header": [{"key": name, "value": value} for name, value in headers_of(step).items()],
        "url": url_of(path, step.query),
        "description": operation.get("description", ""),
        "auth": auth_of(step, operation),
    }
    if step.body is not None:
        request["body"] = {"mode": "raw", "raw": raw_body(step.body), "options": {"raw": {"language": "json"}}}
    events = [event("prerequest", step.before)] if step.before else []
    events.append(event("test", (story.answers(statuses), *step.after)))
    return {"name": step.name, "event": events, "request": request, "response": []}


def headers_of(step: Step) -> dict[str, str]:
    sends_json = step.body is not None and "Content-Type" not in step.headers
    return ({"Content-Type": "application/json"} if sends_json else {}) | step.headers


def url_of(path: str, query: dict[str, str]) -> Json:
    """Return a path as Postman writes it: `/chatroom/{id}` becomes `{{base_url}}/chatroom/{{id}}`."""
    filled = re.sub(r"{(\w+)}", r"{{\1}}", path)
    url: Json = {"raw": "{{base_url}}" + filled, "host": ["{{base_url}}"], "path": filled.strip("/").split("/")}
    if query:
        url["raw"] += f"?{urlencode(query, quote_via=quote)}"
        url["query"] = [{"key": name, "value": value} for name, value in query.items()]
    return url


def auth_of(step: Step, operation: Json) -> Json:
    if not operation.get("security") and step.token != "metrics_token":
        return {"type": "noauth"}
    return {"type": "bearer", "bearer": [{"key": "token", "value": "{{" + step.token + "}}", "type": "string"}]}


def event(listen: str, parts: tuple[str, ...]) -> Json:
    lines = [line for part in parts for line in part.split("\n")]
    return {"listen": listen, "script": {"type": "text/javascript", "exec": lines}}


def raw_body(body: Json | str) -> str:
    return body if isinstance(body, str) else json.dumps(body, indent=4, ensure_ascii=False)


def environment() -> Json:
    """Return the variables that the requests share, with values for the stack of `make run`."""
    given = {"base_url": "http://127.0.0.1:5000", "webhook_secret": "whsec_sandbox"}
    values = given | dict.fromkeys(FILLED, "")
    return {
        "id": str(uuid5(NAMESPACE_URL, "gemini-backend/environment")),
        "name": "Gemini Backend, make run",
        "values": [
            {"key": key, "value": value, "type": "secret" if key in SECRET else "default", "enabled": True}
            for key, value in values.items()
        ],
        "_postman_variable_scope": "environment",
    }


FOLDER = Path(__file__).resolve().parents[1] / "docs" / "postman"
NOWHERE = {"database_url": "postgresql://127.0.0.1:1/none", "redis_url": "redis://127.0.0.1:1"}  # never connected to


def files() -> dict[Path, str]:
    """Return each file with the text that it must have."""
    app = create_app(load_settings(app_env="development", **NOWHERE))
    description = app.test_client().get("/openapi.json").get_json()
    return {
        FOLDER / "gemini-backend.postman_collection.json": spelled(collection_of(description)),
        FOLDER / "gemini-backend.postman_environment.json": spelled(environment()),
    }


def spelled(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
