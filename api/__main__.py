"""Print the OpenAPI document: `python -m api > openapi.json`, as `make openapi` does."""

import json
import sys
from pathlib import Path

from api.app import create_app
from core.settings import Settings


def document() -> str:
    """The document as the API gives it, in a form that is good to compare."""
    found = create_app(Settings(_env_file=None, home=Path("var"))).openapi()
    return json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
