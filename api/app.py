"""The application: settings in, routes and their surroundings out. Nothing opens before it runs."""

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from importlib.metadata import version
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.responses import Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Scope

from api import problems, view
from api.events import Events
from api.inbox import Inbox
from api.keyring import Keyring
from api.middleware import Hardened, HeadAsGet, KnownHost, LastResort, Observed
from api.parts import Parts
from api.recorder import Recorder
from api.routes import (
    docs,
    events,
    export,
    health,
    images,
    inference,
    model,
    pages,
    predict,
    results,
    retries,
    stats,
    webhooks,
)
from api.routes import problems as problem_routes
from api.schemas import InferRequest, Problem, Result, ResultCreated, Review, Upload, Uploads
from api.uploads import FRAMING_BYTES, MAX_AT_WORK
from core.bundle import Bundle, locate
from core.engine import Engine
from core.follow import Follower
from core.settings import Settings
from monitoring.metrics import HttpMetrics, Metrics
from monitoring.webhooks import telling
from storage import keys, uploads
from storage.store import Store

_DESCRIPTION = """\
Send an image and get its label; ask for what became of all images.

Every error is a problem (RFC 9457, `application/problem+json`) with a stable `code`.
"""
_TAGS = [
    {"name": "predict", "description": "One image in, one answer out."},
    {"name": "results", "description": "What became of the images."},
    {"name": "model", "description": "Who answers, and what it can say."},
    {"name": "inference", "description": "The model by the Open Inference Protocol v2."},
    {"name": "operations", "description": "For those who keep this running."},
]


def create_app(settings: Settings) -> FastAPI:
    """The API; database, model and engine are open between its startup and its shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as stack:
            app.state.parts = await run_in_threadpool(_open, settings, stack)
            yield
            app.state.parts.events.close()

    app = _Api(
        title="Pigeonhole",
        version=version("pigeonhole"),
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        webhooks=webhooks.router,
        middleware=[
            Middleware(Observed),
            Middleware(Hardened),
            Middleware(KnownHost, settings=settings),
            *_cors(settings),
            Middleware(HeadAsGet),
            Middleware(LastResort),
            Middleware(
                RequestBodyLimitMiddleware, max_body_size=settings.max_body_bytes + FRAMING_BYTES
            ),
        ],
    )
    problems.install(app)
    for routes in (
        predict,
        export,
        results,
        stats,
        images,
        retries,
        events,
        model,
        inference,
        health,
        problem_routes,
        docs,
        pages,
    ):
        app.include_router(routes.router)
    app.include_router(pages.inside)
    app.add_exception_handler(pages.SignInNeededError, pages.to_sign_in)
    app.mount("/static", _Static(directory=docs.WEB), name="static")
    return app


class _Static(StaticFiles):
    """Our own files; a browser asks whether they are still the same, also after an update."""

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """With a header that says so."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _cors(settings: Settings) -> list[Middleware]:
    """Other origins may use the API only where the settings name them."""
    origins = [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PATCH"],
            allow_headers=["X-API-Key", "Content-Type", "If-Match", "If-None-Match", "Range"],
            expose_headers=["ETag", "Link", "Location", "Retry-After", "X-Model-Version"],
        )
    ]


class _Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The document, with the schemas that FastAPI does not see.

        And with `Result` as pydantic has it: FastAPI takes the nulls out of examples.
        """
        document = super().openapi()
        document["components"]["schemas"] |= _schemas(
            Problem, Upload, Result, ResultCreated, Review, InferRequest, Uploads
        )
        return document


def _schemas(*models: type[BaseModel]) -> dict[str, Any]:
    _, schema = models_json_schema(
        [(model, "serialization") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    definitions: dict[str, Any] = schema["$defs"]
    return definitions


def _operation_id(route: APIRoute) -> str:
    return route.name


def _open(settings: Settings, stack: ExitStack) -> Parts:
    settings.home.mkdir(parents=True, exist_ok=True)
    view.compile_templates()
    store = Store.open(settings.database_url, with_outbox=bool(settings.webhook_url))
    stack.enter_context(closing(store))
    bundle = Bundle.load(locate(settings.home), settings.provider, cores=settings.workers)
    metrics = Metrics()
    metrics.model_loaded(bundle.manifest)
    metrics.watch_disk(settings.home)
    metrics.watch_quality(store.database, settings.audit_share)
    metrics.expect_errors(code for code, kind in problems.CATALOG.items() if kind.status >= 500)
    stack.enter_context(telling(settings, store.database, metrics))
    engine = stack.enter_context(
        Engine(bundle, workers=settings.workers, max_pixels=settings.max_pixels, observer=metrics)
    )
    recorder = stack.enter_context(Recorder(settings, store, lambda: engine.bundle.ref, metrics))
    follower = stack.enter_context(Follower(settings.home, engine, settings.provider, metrics))
    uploads.settle_stale(store.database, settings.home)
    return Parts(
        settings,
        store,
        engine,
        recorder,
        follower,
        metrics,
        HttpMetrics(metrics.registry),
        Events(store.database),
        Inbox(settings, store),
        Keyring(settings, store.database),
        cursor_secret=keys.shared_secret(store.database, "cursor"),
        thumbnailers=CapacityLimiter(settings.workers),
        inferrers=CapacityLimiter(settings.workers),
        uploaders=CapacityLimiter(MAX_AT_WORK),
    )
