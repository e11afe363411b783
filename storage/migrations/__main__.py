"""`python -m storage.migrations`: bring the database to the newest schema and end.

Every process does this when it starts; a deployment of many lets one do it before the others.
"""

import sys
import tempfile

from core.errors import PigeonholeError
from core.settings import Settings
from storage.store import Store


def main() -> int:
    """Migrate, and see that HOME can be written; 1 and a remedy if not."""
    try:
        settings = Settings.read()
        settings.inbox.mkdir(parents=True, exist_ok=True)
        for folder in (settings.home, settings.inbox):
            with tempfile.TemporaryFile(dir=folder):
                pass
        Store.open(settings.database_url).close()
    except PigeonholeError as error:
        return _said(str(error))
    except OSError as error:
        return _said(
            f"{error}. Give PIGEONHOLE_HOME and the inbox to the user that Pigeonhole runs as "
            "(in Docker: run deploy/prepare.sh)."
        )
    sys.stdout.write("the database is at the newest schema\n")
    return 0


def _said(trouble: str) -> int:
    sys.stderr.write(f"{trouble}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
