"""`python -m monitoring.healthcheck URL`: 0 if it answers 200, else 1 and why.

For containers that have neither a shell nor curl.
"""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

TIMEOUT_S = 4.0  # below the five seconds that Docker waits for us


def main(arguments: Sequence[str]) -> int:
    """Ask and say what is wrong; 2 for a wrong call."""
    if len(arguments) != 1 or not arguments[0].startswith(("http://", "https://")):
        sys.stderr.write("usage: python -m monitoring.healthcheck URL\n")
        return 2
    complaint = ask(arguments[0])
    sys.stdout.write(f"{complaint or 'ok'}\n")
    return 1 if complaint else 0


def ask(url: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """None when the address answers 200, else what it says instead."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            return None if answer.status == 200 else f"answers {answer.status}"
    except urllib.error.HTTPError as error:
        return f"answers {error.code}: {_complaints(error.read())}"
    except OSError as error:
        return f"does not answer: {getattr(error, 'reason', error)}"


def _complaints(body: bytes) -> str:
    """The checks of a health report that are not well; the text itself where it is none."""
    try:
        checks = json.loads(body)["checks"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return body[:500].decode(errors="replace")
    return "; ".join(f"{name}: {text}" for name, text in checks if text != "ok")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
