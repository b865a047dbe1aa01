"""What gunicorn serves: `gunicorn -c gunicorn.conf.py wsgi:app`."""

import sys

from app.factory import create_app
from config import ConfigError

try:
    app = create_app()
except ConfigError as error:
    sys.exit(f"Configuration: {error}")
