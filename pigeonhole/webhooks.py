"""`pigeonhole webhooks`: try the webhook, and send again what was given up."""

from contextlib import closing
from datetime import UTC, datetime

from core.errors import SettingsError
from core.ids import uuid7
from core.settings import Settings
from monitoring.webhooks import Webhook, message
from pigeonhole.results import open_existing
from pigeonhole.talk import counted, say
from storage.outbox import Outbox


def test() -> int:
    """Send one signed message of type `test`; 0 if the receiver takes it."""
    settings = _with_webhook()
    body = message("test", datetime.now(UTC), {"text": "Pigeonhole can reach you."})
    answer = Webhook.of(settings).post(f"msg_{uuid7()}", body)
    if answer.error:
        say(f"{settings.webhook_url} does not take it: {answer.error}")
        return 1
    say(f"{settings.webhook_url} has taken a test message.")
    return 0


def retry() -> int:
    """Make what was given up due again; watcher or API then sends it."""
    with closing(open_existing(_with_webhook())) as store:
        again = Outbox(store.database).retry_given_up(datetime.now(UTC))
    say(f"{counted(again, 'result')} will be told again.")
    return 0


def _with_webhook() -> Settings:
    settings = Settings.read()
    if not settings.webhook_url:
        raise SettingsError("PIGEONHOLE_WEBHOOK_URL is not set. See docs/webhooks.md.")
    return settings
