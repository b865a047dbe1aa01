"""Both deployments say the same variables, or one of them is here with its reason.

What neither says has a default that production takes: `test_gunicorn_takes_what_compose_tells_it` holds that.
"""

import re

from tests.deployment.files import process_names, setting_names
from tests.web_process import ROOT

SAID_BY_ONE = {
    # render.yaml, whose plans are small
    "DATABASE_POOL_SIZE",
    "REDIS_POOL_SIZE",
    "STREAMS_PER_PROCESS",
    # compose.yaml, which passes them on from the shell; on Render they are added in the dashboard
    "ALLOWED_COUNTRY_CODES",
    "JWT_SECRET_PREVIOUS",
    "LOG_LEVEL",
    "OTP_RESPONSE_IN_PRODUCTION",
    "STRIPE_TEST_KEY_IN_PRODUCTION",
    "TWILIO_ACCOUNT_SID",
    "TWILIO_AUTH_TOKEN",
    "TWILIO_FROM",
    "WEB_THREADS",
    "PORT",  # Render sets it
}


def test_both_deployments_set_the_same_settings_or_give_a_reason():
    said = [
        {name for name in setting_names() if re.search(rf"(key: |^ +){name}(:|$)", (ROOT / file).read_text(), re.M)}
        for file in ("render.yaml", "compose.yaml")
    ]
    assert said[0] ^ said[1] == SAID_BY_ONE, "add it to the other file as well, or to SAID_BY_ONE with a reason"


def test_the_variables_of_the_processes_are_known():
    assert process_names() == {"WEB_CONCURRENCY", "WORKER_CONCURRENCY"}
