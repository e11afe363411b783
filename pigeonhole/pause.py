"""`pigeonhole pause` and `resume`: watchers of this HOME stop taking files, and go on."""

from core.settings import Settings
from pigeonhole.talk import say
from storage import pause as flag


def pause() -> int:
    """Stop the watcher after the batch at hand, also over restarts."""
    settings = Settings.read()
    was_running = flag.pause(settings.home)
    say(
        "Paused: files stay in the inbox until `pigeonhole resume`."
        if was_running
        else f"Paused already, since {flag.paused_since(settings.home):%Y-%m-%d %H:%M:%SZ}."
    )
    return 0


def resume() -> int:
    """Go on."""
    settings = Settings.read()
    say("Resumed." if flag.resume(settings.home) else "Nothing was paused.")
    return 0
