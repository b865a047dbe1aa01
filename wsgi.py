"""What gunicorn serves: `gunicorn -c gunicorn.conf.py wsgi:app`."""

import os

from app.factory import create_app

app = create_app(commands="FLASK_RUN_FROM_CLI" in os.environ)
