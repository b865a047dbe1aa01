"""What the service is compared with: views that do almost nothing, on the same server with the same settings.

`/empty` does nothing; `/token` checks a token as flask-jwt-extended does and reads one key of Redis.
"""

import os
from typing import Any

import redis
from flask import Flask
from flask_jwt_extended import JWTManager, create_access_token, jwt_required

app = Flask(__name__)
app.config["JWT_SECRET_KEY"] = "bench-" * 8
JWTManager(app)
client = redis.Redis.from_url(os.environ["REDIS_URL"])


@app.get("/empty")
def empty() -> dict[str, Any]:
    return {}


@app.get("/token")
@jwt_required()
def token() -> dict[str, Any]:
    return {"known": client.get("floor") is not None}


@app.get("/issue")
def issue() -> dict[str, Any]:
    return {"token": create_access_token("somebody")}
