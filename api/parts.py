"""What the routes work with: opened by the lifespan, handed down, closed with the application."""

from dataclasses import dataclass
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from api.events import Events
from api.inbox import Inbox
from api.keyring import Keyring
from api.recorder import Recorder
from core.bundle import Bundle
from core.engine import Engine
from core.follow import Follower
from core.settings import Settings
from monitoring.metrics import HttpMetrics, Metrics
from storage.store import Store


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that is open while the application runs; safe to use from many threads."""

    settings: Settings
    store: Store
    engine: Engine
    recorder: Recorder
    follower: Follower
    metrics: Metrics
    http: HttpMetrics
    events: Events
    inbox: Inbox
    keyring: Keyring
    cursor_secret: bytes
    # One large image each: decoding takes memory.
    thumbnailers: CapacityLimiter
    inferrers: CapacityLimiter
    uploaders: CapacityLimiter

    @property
    def bundle(self) -> Bundle:
        """The model that answers."""
        return self.engine.bundle


def parts_of(request: Request) -> Parts:
    """The parts of the application that has this request."""
    parts: Parts = request.app.state.parts
    return parts


async def _parts(request: Request) -> Parts:  # `async`: a `def` would cost a hop to a thread
    return parts_of(request)


Given = Annotated[Parts, Depends(_parts)]
