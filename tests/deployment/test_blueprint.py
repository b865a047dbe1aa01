"""render.yaml says what Render's documentation knows, and starts what the Procfile starts.

Fields and their values: https://render.com/docs/blueprint-spec, read in November 2026. Render publishes the same as a
JSON Schema at https://render.com/schema/render.yaml.json. What is listed here is what we rely on.
"""

import re
from typing import Any

import pytest
import yaml
from flask import request

from app.generation.worker import FINISH_WITHIN_SECONDS
from tests.deployment.files import process_names, procfile_lines, setting_names
from tests.web_process import ROOT

SERVICE_FIELDS = {
    "type", "name", "runtime", "plan", "region", "branch", "numInstances", "dockerCommand", "dockerfilePath",
    "healthCheckPath", "preDeployCommand", "maxShutdownDelaySeconds", "envVars", "autoDeployTrigger",
}  # fmt: skip
KEY_VALUE_FIELDS = {"type", "name", "plan", "region", "maxmemoryPolicy", "ipAllowList"}
DATABASE_FIELDS = {"name", "plan", "region", "databaseName", "user", "postgresMajorVersion", "ipAllowList"}
SOURCES = {"value", "generateValue", "sync", "fromDatabase", "fromService"}  # of one variable, exactly one
MAX_SHUTDOWN_SECONDS = 300
PLANS = {"starter", "standard", "pro"}
# https://render.com/docs/postgresql-creating-connecting and https://render.com/pricing, read in November 2026
POSTGRES_CONNECTIONS = {"basic-256mb": 100, "basic-1gb": 100, "basic-4gb": 100}
KEY_VALUE_CONNECTIONS = {"starter": 250}
DEPLOYS_OVERLAP = 2  # the new processes are there before the old ones have gone
OPERATIONS = (ROOT / "docs/operations.md").read_text()
RESERVE = 10  # migrations, commands, people
# The client, Cloudflare and Render's balancer, in the form in which programs on Render received them in 2025. What the
# client itself sends comes before: https://github.com/arcjet/arcjet-js/issues/3899 and …/5411
FORWARDED = "198.51.100.24, 172.71.195.123, 10.226.90.65"
DATABASE_PLANS = {"basic-256mb", "basic-1gb", "basic-4gb"}


@pytest.fixture(scope="module")
def blueprint() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "render.yaml").read_text())


@pytest.fixture(scope="module")
def services(blueprint) -> dict[str, dict[str, Any]]:
    return {service["name"].removeprefix("gemini-backend-"): service for service in blueprint["services"]}


@pytest.fixture(scope="module")
def group(blueprint) -> dict[str, Any]:
    [only] = blueprint["envVarGroups"]
    return only


def variables(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["key"]: variable for variable in service["envVars"] if "key" in variable}


def test_every_field_is_documented(blueprint):
    assert set(blueprint) == {"services", "databases", "envVarGroups"}
    for service in blueprint["services"]:
        known = KEY_VALUE_FIELDS if service["type"] == "keyvalue" else SERVICE_FIELDS
        assert set(service) <= known, service["name"]
        assert service["plan"] in PLANS
    for database in blueprint["databases"]:
        assert set(database) <= DATABASE_FIELDS
        assert database["plan"] in DATABASE_PLANS


def test_the_blueprint_has_all_processes_and_their_stores(services, blueprint):
    assert {name: service["type"] for name, service in services.items()} == {
        "web": "web", "worker": "worker", "beat": "worker", "redis": "keyvalue",
    }  # fmt: skip
    assert [database["name"] for database in blueprint["databases"]] == ["gemini-backend-db"]
    assert services["redis"]["maxmemoryPolicy"] == "noeviction"
    assert services["redis"]["ipAllowList"] == []
    assert services["beat"]["numInstances"] == 1


def test_the_new_version_takes_traffic_after_the_migrations_and_when_it_is_healthy(services, make_app):
    assert services["web"]["preDeployCommand"] == "flask db upgrade -x wait=1500"
    assert make_app().test_client().get(services["web"]["healthCheckPath"]).status_code == 200
    assert [name for name, service in services.items() if "preDeployCommand" in service] == ["web", "worker"]


def test_a_worker_of_the_new_version_waits_for_its_migrations_too(services):
    """Render deploys the services at the same time, and each on its own, even if another one's deploy fails."""
    assert services["worker"]["preDeployCommand"] == services["web"]["preDeployCommand"]


@pytest.mark.parametrize("sent", ["", "203.0.113.9,", "203.0.113.9,192.0.2.1, "])
def test_a_client_behind_renders_proxies_is_known_whatever_it_sends(group, make_app, sent):
    app = make_app(trusted_proxies=variables(group)["TRUSTED_PROXIES"]["value"])
    app.add_url_rule("/client", view_func=lambda: [request.remote_addr, request.scheme])
    headers = {"X-Forwarded-For": sent + FORWARDED, "X-Forwarded-Proto": "https"}
    seen = app.test_client().get("/client", headers=headers, environ_base={"REMOTE_ADDR": "10.21.157.68"})
    assert seen.json == ["198.51.100.24", "https"]


def test_processes_are_given_the_time_to_end(services):
    [graceful] = re.findall(r"^graceful_timeout = (\d+)$", (ROOT / "gunicorn.conf.py").read_text(), flags=re.MULTILINE)
    assert max(int(graceful), FINISH_WITHIN_SECONDS) + 5 <= 30
    told = re.search(r"Web has (\d+) seconds .*gives its calls (\d+) seconds", OPERATIONS, flags=re.DOTALL)
    assert told
    assert [float(seconds) for seconds in told.groups()] == [float(graceful), FINISH_WITHIN_SECONDS]
    for name in ("web", "worker", "beat"):
        assert 30 <= services[name]["maxShutdownDelaySeconds"] <= MAX_SHUTDOWN_SECONDS


@pytest.mark.parametrize("name", ["worker", "beat"])
def test_commands_are_those_of_the_procfile(services, name):
    assert services[name]["dockerCommand"] == procfile_lines()[name]


def test_every_variable_has_one_source_and_is_a_setting(services, group):
    for holder in (*services.values(), group):
        for variable in holder.get("envVars", []):
            if "fromGroup" in variable:
                assert variable["fromGroup"] == group["name"]
                continue
            assert variable["key"] in setting_names() | process_names(), f"nothing reads {variable['key']}"
            assert len(SOURCES & set(variable)) == 1, variable


def test_references_lead_somewhere(services, blueprint):
    by_name = {service["name"]: service for service in blueprint["services"]}
    for service in services.values():
        for variable in service.get("envVars", []):
            source = variable.get("fromService")
            if source:
                assert by_name[source["name"]]["type"] == source["type"]
                if "envVarKey" in source:
                    assert source["envVarKey"] in variables(by_name[source["name"]])
            if "fromDatabase" in variable:
                assert variable["fromDatabase"]["name"] in {database["name"] for database in blueprint["databases"]}


def test_the_group_asks_for_nothing(group):
    """Render ignores `sync: false` within a group, so what is asked for stands at a service."""
    assert all("value" in variable or variable.get("generateValue") for variable in group["envVars"])


def test_secrets_are_generated_or_asked_for(services, group):
    for holder in (*services.values(), group):
        for name, variable in variables({"envVars": holder.get("envVars", [])}).items():
            if any(part in name for part in ("SECRET", "_KEY", "TOKEN", "PASSWORD")):
                assert "value" not in variable, name


def test_the_keys_addresses_and_the_price_are_asked_for_and_other_secrets_are_generated(services, group):
    """As docs/operations.md says; what is asked for is asked once."""
    holders = [*services.values(), group]
    asked, made = (
        [one["key"] for holder in holders for one in holder.get("envVars", []) if one.get(source) is value]
        for source, value in (("sync", False), ("generateValue", True))
    )
    keys = ["GEMINI_API_KEY", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_PRO_PRICE_ID"]
    assert asked == [*keys, "FRONTEND_URL", "CORS_ORIGINS"]
    assert made == ["JWT_SECRET", "HASH_SECRET", "METRICS_TOKEN"]


def test_all_processes_share_what_must_be_the_same(services):
    worker, beat, web = (variables(services[name]) for name in ("worker", "beat", "web"))
    for name in set(beat) - {"REDIS_POOL_SIZE"}:  # each has pools as large as it needs
        assert beat[name] == worker[name]
    assert set(worker) <= set(web)
    for service in ("web", "worker", "beat"):
        assert {"fromGroup": "gemini-backend"} in services[service]["envVars"]


def number(service: dict[str, Any], name: str) -> int:
    return int(variables(service)[name]["value"])


def instances(service: dict[str, Any]) -> int:
    return int(service.get("numInstances", 1))


def to_postgres(services: dict[str, dict[str, Any]]) -> int:
    """The connections of all pools; beat has none."""
    processes = {"web": number(services["web"], "WEB_CONCURRENCY"), "worker": 1}
    return sum(
        instances(services[name]) * count * number(services[name], "DATABASE_POOL_SIZE")
        for name, count in processes.items()
    )


def to_redis(services: dict[str, dict[str, Any]]) -> int:
    """The sums of docs/operations.md#connections."""
    pool = {name: number(services[name], "REDIS_POOL_SIZE") for name in ("web", "worker", "beat")}
    held = number(services["web"], "STREAMS_PER_PROCESS")
    web = number(services["web"], "WEB_CONCURRENCY") * (2 * pool["web"] + held)
    together = {"web": web, "worker": 2 * pool["worker"] + 2, "beat": 2 * pool["beat"]}
    return sum(instances(services[name]) * count for name, count in together.items())


def test_the_database_has_connections_for_all_pools_while_a_deploy_overlaps(services, blueprint):
    [database] = blueprint["databases"]
    assert f"{to_postgres(services)} connections to PostgreSQL" in OPERATIONS
    assert to_postgres(services) * DEPLOYS_OVERLAP + RESERVE <= POSTGRES_CONNECTIONS[database["plan"]]


def test_redis_has_connections_for_all_pools_while_a_deploy_overlaps(services):
    assert f"{to_redis(services)} to Redis" in OPERATIONS
    assert to_redis(services) * DEPLOYS_OVERLAP + RESERVE <= KEY_VALUE_CONNECTIONS[services["redis"]["plan"]]


def test_a_second_worker_needs_larger_plans(services, blueprint):
    told = re.search(
        r"plans \((\d+) and (\d+)\) must allow twice that and ten .* A second worker needs larger plans\.",
        OPERATIONS,
        flags=re.DOTALL,
    )
    assert told
    plans = [int(connections) for connections in told.groups()]
    [database] = blueprint["databases"]
    assert plans == [POSTGRES_CONNECTIONS[database["plan"]], KEY_VALUE_CONNECTIONS[services["redis"]["plan"]]]
    more = services | {"worker": services["worker"] | {"numInstances": instances(services["worker"]) + 1}}
    for needed, allowed in zip((to_postgres(more), to_redis(more)), plans, strict=True):
        assert needed * DEPLOYS_OVERLAP + RESERVE > allowed
