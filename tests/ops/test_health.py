"""The two health checks. What they say when a server is gone is in tests/core/test_dependencies_gone.py."""

from sqlalchemy import event

from app.core.db import db


def test_healthz_asks_no_database(app, client):
    asked = []
    with app.app_context():
        engine = db.engine
    event.listen(engine, "checkout", lambda *_: asked.append(1))
    assert client.get("/healthz").json == {"status": "ok"}
    assert not asked
    client.get("/readyz")
    assert asked


def test_readyz_is_ok_while_everything_answers(client):
    response = client.get("/readyz")
    assert (response.status_code, response.json) == (200, {"status": "ok"})
    assert response.headers["Cache-Control"] == "no-store"
