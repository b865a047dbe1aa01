"""What gunicorn serves: `gunicorn -c gunicorn.conf.py wsgi:app`."""

import os
import sys

from app.factory import create_app
from config import ConfigError

try:
    app = create_app(commands="FLASK_RUN_FROM_CLI" in os.environ)
except ConfigError as error:
    sys.exit(f"Configuration: {error}")
