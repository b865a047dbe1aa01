"""Generates a Python and a TypeScript client from the API's description, checks their types, and uses them.

    python -m ci.with_stack var/ci/tools/bin/python -m ci.clients.check FOLDER

FOLDER is where they are put. Run it with the Python that ci/install.sh sets up, which has the generator; mypy comes
from .venv.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import requests

from ci.newcomer import tokens

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "clients.md"
PACKAGE = "gemini_backend_client"
NODE = ROOT / "ci" / "node" / "node_modules" / ".bin"


def run(*command: str | Path, **variables: str) -> None:
    """Run a command with these variables. Raises CalledProcessError."""
    subprocess.run([str(word) for word in command], check=True, env=os.environ | variables)


def snippet(language: str) -> str:
    """Return the code in docs/clients.md in a language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, f"docs/clients.md shows no {language}"
    return found[1]


def check_python(folder: Path, description: Path) -> None:
    """Generate the Python client, check its types, and tell the story with it and the page's `follow`."""
    tools = Path(sys.executable).parent
    target = folder / "python"
    generate = (tools / "openapi-python-client", "generate", "--path", description, "--meta", "none")
    config = ROOT / "ci" / "clients" / "generator.yml"
    run(*generate, "--config", config, "--fail-on-warning", "--overwrite", "--output-path", target / PACKAGE)
    (target / "follow.py").write_text(snippet("python"))
    mypy = (ROOT / ".venv" / "bin" / "mypy", "--python-executable", sys.executable, "--config-file", os.devnull)
    story = ROOT / "ci" / "clients" / "story.py"
    # Without client.py, which is the generator's own and the same for every description.
    described = (target / PACKAGE / "api", target / PACKAGE / "models", story)
    strictly = ("--strict", "--follow-imports", "silent", "--cache-dir", folder / "mypy")
    run(*mypy, *strictly, *described, MYPYPATH=str(target))
    run(sys.executable, story, PYTHONPATH=str(target))


def check_typescript(folder: Path, description: Path) -> None:
    """Generate the TypeScript types, check a use of them, and run the page's `follow`."""
    types = folder / "api.d.ts"
    run(NODE / "openapi-typescript", description, "--output", types, "--default-non-nullable", "false")
    use = folder / "use.ts"
    use.write_text(
        'import type { components, operations } from "./api";\n'
        'type Body = operations["sendMessage"]["requestBody"]["content"]["application/json"];\n'
        'export const body: Body = { text: "Hello" };\n'
        'export const status = (message: components["schemas"]["MessageOut"]): string | undefined => message.status;\n'
    )
    target = ("--target", "es2022", "--module", "es2022", "--moduleResolution", "bundler")
    run(NODE / "tsc", "--noEmit", "--strict", *target, use)
    follow = folder / "follow.mjs"
    follow.write_text(
        snippet("js") + "\nconst types = [];\n"
        "for await (const { type } of follow(process.env.REPLY_URL, process.env.TOKEN)) types.push(type);\n"
        'if (types.at(-1) !== "completed" || !types.includes("delta")) throw new Error(types.join());\n'
    )
    run("node", follow, **streamed_reply())


def streamed_reply() -> dict[str, str]:
    """Return the address of a reply that is being written, and a token, as variables."""
    base = os.environ["BASE_URL"]
    token = tokens(base)["access_token"]

    def post(path: str, **body: object) -> requests.Response:
        answer = requests.post(base + path, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        answer.raise_for_status()
        return answer

    room = post("/chatroom").headers["Location"]
    sent = post(f"{room}/message", text="Explain DNS to a child", stream=True)
    return {"REPLY_URL": f"{base}{sent.headers['Location']}/stream", "TOKEN": token}


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    description = folder / "openapi.json"
    description.write_text(json.dumps(requests.get(f"{os.environ['BASE_URL']}/openapi.json", timeout=30).json()))
    check_python(folder, description)
    check_typescript(folder, description)
    print("Both clients work.")


if __name__ == "__main__":
    main()
