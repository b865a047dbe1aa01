"""What a proxy in front of web relies on."""

import os
import subprocess
import sys

import pytest

from tests.web_process import ROOT

# How long proxies keep an idle connection: nginx and AWS 60 seconds, Traefik 90, Caddy 120, Google 600, Cloudflare 900.
# https://cloud.google.com/load-balancing/docs/https/request-distribution
# https://developers.cloudflare.com/fundamentals/reference/connection-limits
LONGEST_SECONDS = 900


@pytest.mark.parametrize(
    ("proxies", "at_least", "at_most"), [(0, 60, 120), (1, LONGEST_SECONDS + 10, 1_000)], ids=["direct", "behind"]
)
def test_an_idle_connection_is_closed_by_the_proxy_and_not_by_web(proxies, at_least, at_most):
    """Otherwise a request that the proxy sends at that moment is lost, and its client sees a 502."""
    read = "import runpy; print(runpy.run_path('gunicorn.conf.py')['keepalive'])"
    own = {"APP_ENV": "development", "DATABASE_URL": "postgres://x", "REDIS_URL": "redis://x"}
    environ = os.environ | own | {"TRUSTED_PROXIES": str(proxies)}
    done = subprocess.run(
        [sys.executable, "-c", read], env=environ, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert at_least <= int(done.stdout) <= at_most
