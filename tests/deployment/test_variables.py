"""Every variable that production must be told is told by both deployments, or stands here with its reason.

A new variable in config.py fails these tests until somebody has decided about it.
"""

import re

import pytest

from tests.deployment.files import process_names, setting_names
from tests.web_process import ROOT

# Good as they are on any platform; .env.example has their defaults.
LEFT_ALONE = {
    "PORT",  # Render sets it; compose publishes it
    "FLASK_DEBUG",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",  # needs requirements-otel.txt
    "JWT_SECRET_PREVIOUS",  # only while JWT_SECRET is rotated
    "DATABASE_POOL_SIZE",  # said by render.yaml, whose plans are small
    "REDIS_POOL_SIZE",
    "JWT_EXPIRES_IN",
    "REFRESH_EXPIRES_IN",
    "OTP_RESPONSE_IN_PRODUCTION",
    "STRIPE_TEST_KEY_IN_PRODUCTION",
    "PLAIN_HTTP_IN_PRODUCTION",
    "ALLOWED_COUNTRY_CODES",
    "TWILIO_ACCOUNT_SID",
    "TWILIO_AUTH_TOKEN",
    "TWILIO_FROM",
    "TWILIO_API_BASE",
    "GEMINI_API_ENDPOINT",
    "GEMINI_MODELS",
    "MODEL_PRICES",
    "GEMINI_TITLE_MODEL",
    "AUTO_TITLE",
    "GEMINI_SDK",
    "GEMINI_TIMEOUT",
    "GEMINI_IDLE_TIMEOUT",
    "GEMINI_MAX_OUTPUT_TOKENS",
    "GEMINI_SYSTEM_INSTRUCTION",
    "GEMINI_HISTORY_MAX_CHARS",
    "GEMINI_HISTORY_MAX_TOKENS",
    "GENERATIONS_PER_USER",
    "REPLY_MAX_ATTEMPTS",
    "REPLY_MAX_SECONDS",
    "REPLY_LEASE_SECONDS",
    "REPLY_REQUEUE_AFTER_SECONDS",
    "REPLY_SWEEP_SECONDS",
    "STRIPE_API_BASE",
    "STRIPE_TIMEOUT",
    "STRIPE_GRACE_DAYS",
    "BILLING_SYNC_SECONDS",
    "BASIC_DAILY_PROMPTS",
    "RATE_LIMIT_PER_MINUTE",
    "CODES_PER_HOUR",
    "WRONG_CODES_PER_HOUR",
    "CHATROOM_LIST_TTL_SECONDS",
    "STREAMS_PER_PROCESS",
    "STREAMS_PER_USER",
    "EXPORT_MAX_SECONDS",
}


@pytest.mark.parametrize("file", ["render.yaml", "compose.yaml"])
def test_every_setting_is_given_or_left_alone_on_purpose(file):
    text = (ROOT / file).read_text()
    given = {name for name in setting_names() if re.search(rf"(key: |^ +){name}(:|$)", text, re.M)}
    undecided = setting_names() - given - LEFT_ALONE
    assert not undecided, f"{file} does not say {sorted(undecided)}: add them there, or to LEFT_ALONE with a reason"


def test_the_variables_of_the_processes_are_known():
    assert process_names() == {
        "WEB_CONCURRENCY",
        "WEB_THREADS",
        "WORKER_CONCURRENCY",
        "PROMETHEUS_MULTIPROC_DIR",
    }
