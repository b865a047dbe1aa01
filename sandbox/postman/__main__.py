"""`python -m sandbox.postman [--check]`: write docs/postman/, or say whether it is what it should be."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from app import create_app
from config import load_settings
from sandbox.postman.collection import collection_of, environment

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "postman"
NOWHERE = {"database_url": "postgresql://127.0.0.1:1/none", "redis_url": "redis://127.0.0.1:1"}  # nothing is asked


def files() -> dict[Path, str]:
    """The files and what must be in them."""
    app = create_app(load_settings(app_env="development", **NOWHERE))
    description = app.test_client().get("/openapi.json").get_json()
    return {
        FOLDER / "gemini-backend.postman_collection.json": spelled(collection_of(description)),
        FOLDER / "gemini-backend.postman_environment.json": spelled(environment()),
    }


def spelled(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """0 when written, or when all is as it should be."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.postman", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when something is stale")
    check = parser.parse_args().check
    if not check:
        FOLDER.mkdir(exist_ok=True)
        for path, text in files().items():
            path.write_text(text)
        return 0
    stale = [path.name for path, text in files().items() if not path.exists() or path.read_text() != text]
    for name in stale:
        print(f"docs/postman/{name} is not what the API's description makes it: run `make postman`.", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
