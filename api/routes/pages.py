"""The page: live results, review, quarantine, one result; and signing in."""

import time
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from api import session
from api.access import refuse_other_origins, require
from api.parts import Given, Parts
from api.problems import ProblemError
from api.pulse import pulse, side
from api.routes.health import checks
from api.schemas import ResultQuery
from api.view import page
from monitoring.health import examine
from storage import feed
from storage.feed import Entry
from storage.results import Result, ResultFilter

ROWS = 50
FIRST_ROWS = 20  # more than a screen shows; the rest is fetched behind the first sight
TILES = 60
_MAX_FORM_BYTES = 4096
_FILTERS = tuple(
    name for name in ResultQuery.model_fields if name not in ("order", "limit", "cursor")
)
_SHOWN_BY_BROWSERS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "ICO")
_CHOICES = 9


class SignInNeededError(Exception):
    """The visitor has no key yet; becomes a redirection to the form."""


async def _visitor(request: Request, parts: Given) -> None:
    try:
        await require(request, parts, None, "read")
    except ProblemError as problem:
        if problem.code == "unauthorized":
            raise SignInNeededError from None
        raise


router = APIRouter(include_in_schema=False)
inside = APIRouter(include_in_schema=False, dependencies=[Depends(_visitor)])


def to_sign_in(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """Where a page sends a visitor without a key; a part of a page is refused instead."""
    if request.url.path.startswith("/parts/"):
        raise ProblemError("unauthorized")
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?{urlencode({'next': wanted})}", 303)


# --- live ----------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """The filters of an address: what was said, what it means, and what cannot be meant."""

    said: dict[str, str]
    wanted: ResultFilter
    complaints: list[str]

    @property
    def query(self) -> str:
        """The filters again, as the end of an address."""
        return f"?{urlencode(self.said)}" if self.said else ""


async def _asked(request: Request) -> Asked:
    """Forms send empty fields, and people edit addresses: what cannot be used is said, and left."""
    given = request.query_params
    said = {name: given[name] for name in _FILTERS if given.get(name)}
    complaints: list[str] = []
    while True:
        try:
            return Asked(said, ResultQuery.model_validate(said).filter(), complaints)
        except ValidationError as error:
            for item in error.errors():
                name = str(item["loc"][0])
                complaints.append(f"{name}: {str(item['msg']).removeprefix('Value error, ')}")
                said.pop(name, None)


Filters = Annotated[Asked, Depends(_asked)]


@inside.get("/")
def get_live(request: Request, parts: Given, asked: Filters) -> Response:
    """Results as they come, the numbers, and the way to upload."""
    entries, at_end = _rows(parts, asked.wanted, _position(request, "before"), FIRST_ROWS)
    export = urlencode(asked.said)
    return page(
        "live.html",
        parts.bundle.labels,
        title="Results",
        **_frame(request, parts, "/"),
        pulse=pulse(parts, asked.said, request.query_params.get("span")),
        side=side(parts, examine(checks(parts))),
        asked=_Blank(asked.said),
        complaints=asked.complaints,
        query=asked.query,
        export_query=f"{export}&" if export else "",
        more_is_open=bool(set(asked.said) - {"q", "label", "status"}),
        entries=entries,
        at_end=at_end,
        older=_older(asked.said, entries),
        max_bytes=int(parts.settings.max_body_bytes),
    )


@inside.get("/parts/rows")
def get_rows(request: Request, parts: Given, asked: Filters) -> Response:
    """More of the list, older than `before` or newer than `after`; X-Rows: whether that is all."""
    after = _position(request, "after")
    if after is None:
        entries, at_end = _rows(parts, asked.wanted, _position(request, "before"))
    else:
        found = feed.before(parts.store.database, None, ROWS + 1, asked.wanted, after=after)
        entries, at_end = found[:ROWS], len(found) <= ROWS
    template = (
        "quarantine_rows.html" if request.query_params.get("as") == "bad" else "more_rows.html"
    )
    answer = page(template, parts.bundle.labels, entries=entries, query=asked.query)
    answer.headers["X-Rows"] = "all" if at_end else "more"
    return answer


@inside.get("/parts/pulse")
def get_pulse(request: Request, parts: Given, asked: Filters) -> Response:
    """The numbers, the chart and the rack."""
    shown = pulse(parts, asked.said, request.query_params.get("span"))
    return page("pulse.html", parts.bundle.labels, pulse=shown)


@inside.get("/parts/side")
def get_side(parts: Given) -> Response:
    """Inbox, model and health."""
    answer = page("side.html", side=side(parts, examine(checks(parts))))
    answer.background = BackgroundTask(parts.metrics.known_quality, at_once=True)
    return answer


# --- review --------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """One label that a result may get."""

    label: str
    score: float | None


@inside.get("/review")
def get_review(request: Request, parts: Given) -> Response:
    """What the model is unsure of, the most doubtful first."""
    entries = feed.doubtful(parts.store.database, TILES + 1)
    progress = feed.progress(parts.store.database)
    return page(
        "review.html",
        parts.bundle.labels,
        title="Review",
        **_frame(request, parts, "/review"),
        entries=entries[:TILES],
        more=len(entries) > TILES,
        choices=_choices(parts),
        reviewed=progress.reviewed,
        waiting=progress.waiting,
        min_confidence=parts.settings.min_confidence,
        audit_share=parts.settings.audit_share,
    )


@inside.get("/parts/tiles")
def get_tiles(request: Request, parts: Given) -> Response:
    """More of the queue: what comes behind the result with the id `after`."""
    last = feed.find(parts.store.database, _canonical(request.query_params.get("after", "")))
    if last is None:
        raise ProblemError("result_not_found")
    entries = feed.doubtful(parts.store.database, TILES + 1, last)
    answer = page(
        "tiles.html", parts.bundle.labels, entries=entries[:TILES], choices=_choices(parts)
    )
    answer.headers["X-Rows"] = "more" if len(entries) > TILES else "all"
    return answer


def _choices(parts: Parts) -> Any:  # noqa: ANN401 - a function for the template
    labels = parts.bundle.labels

    def choices(result: Result) -> list[Choice]:
        """The model's labels in their order, if keys 1 to 9 reach all; else the likeliest."""
        if len(labels) > _CHOICES:
            return [Choice(item.label, item.score) for item in result.scores[:_CHOICES]]
        scores = {item.label: item.score for item in result.scores}
        return [Choice(label, scores.get(label)) for label in labels]

    return choices


# --- quarantine ----------------------------------------------------------------------------------


@inside.get("/quarantine")
def get_quarantine(request: Request, parts: Given) -> Response:
    """What could not be classified, and why."""
    wanted = ResultFilter(status="quarantined")
    entries, at_end = _rows(parts, wanted, _position(request, "before"), FIRST_ROWS)
    return page(
        "quarantine.html",
        parts.bundle.labels,
        title="Quarantine",
        **_frame(request, parts, "/quarantine"),
        entries=entries,
        at_end=at_end,
        folder=str(parts.settings.home / "quarantine"),
    )


# --- one result ----------------------------------------------------------------------------------


@inside.get("/results/{identifier}")
def get_result_page(identifier: str, request: Request, parts: Given, asked: Filters) -> Response:
    """One result with its picture, scores, lineage and history."""
    database = parts.store.database
    entry = feed.find(database, _canonical(identifier))
    labels = parts.bundle.labels
    if entry is None:
        frame = _frame(request, parts, "")
        return page("missing.html", labels, status=404, title="No such result", **frame)
    result = entry.result
    newer = feed.after(database, entry.seq, 1, asked.wanted)
    older = feed.before(database, entry.seq, 1, asked.wanted)
    return page(
        "result.html",
        labels,
        title=result.filename,
        **_frame(request, parts, ""),
        result=result,
        query=asked.query,
        up=f"/{asked.query}",
        newer=newer[0].result.id if newer else None,
        older=older[0].result.id if older else None,
        picture_size="full" if result.format in _SHOWN_BY_BROWSERS else "thumb",
        is_serving=result.model == parts.bundle.ref,
    )


def _canonical(identifier: str) -> str:
    try:
        return str(UUID(identifier))
    except ValueError:
        return ""


# --- signing in ----------------------------------------------------------------------------------


@router.get("/login")
async def get_login(request: Request) -> Response:
    """The form that asks for the key."""
    wanted = _inner(request.query_params.get("next", "/"))
    return page("login.html", title="Sign in", nav=[], next=wanted, complaint="")


@router.post("/login", dependencies=[Depends(refuse_other_origins)])
async def post_login(request: Request, parts: Given) -> Response:
    """A cookie for a good key, and back to where the visitor wanted to go."""
    form = await _form(request)
    wanted = _inner(form.get("next", "/"))
    keyring = parts.keyring
    if keyring.is_stale:
        await run_in_threadpool(keyring.refresh)
    answer = RedirectResponse(wanted, 303)
    if not keyring.is_asked_for:
        return answer
    key = keyring.find(form.get("key", ""))
    if key is None:
        complaint = "This is not a key. `pigeonhole keys list` shows which there are."
        values = {"title": "Sign in", "nav": [], "next": wanted, "complaint": complaint}
        return page("login.html", status=401, **values)
    session.sign_in(answer, key, time.time(), is_https=request.url.scheme == "https")
    return answer


@router.post("/logout", dependencies=[Depends(refuse_other_origins)])
async def post_logout() -> Response:
    """The cookie is forgotten."""
    answer = RedirectResponse("/login", 303)
    session.sign_out(answer)
    return answer


async def _form(request: Request) -> Mapping[str, str]:
    """A small urlencoded form."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            raise ProblemError("body_too_large")
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
    return {name: values[-1] for name, values in fields.items()}


def _inner(address: str) -> str:
    """An address of this server, or the front page: a form must not lead elsewhere."""
    split = urlsplit(address)
    is_ours = not split.scheme and not split.netloc and split.path.startswith("/")
    is_plain = "\\" not in address and not address.startswith("//") and address.isprintable()
    return address if is_ours and is_plain else "/"


# --- what several views share --------------------------------------------------------------------


class _Blank(dict[str, str]):
    """Fields of a form, empty where nothing was said."""

    def __missing__(self, name: str) -> str:
        return ""


def _frame(request: Request, parts: Parts, here: str) -> dict[str, Any]:
    """What every page shows around its content."""
    to_review = feed.progress(parts.store.database).waiting
    quarantined = parts.store.count(ResultFilter(status="quarantined"))
    return {
        "here": here,
        "nav": [
            {"name": "Live", "href": "/", "count": 0},
            {"name": "Review", "href": "/review", "count": to_review},
            {"name": "Quarantine", "href": "/quarantine", "count": quarantined},
        ],
        "signed_in": session.COOKIE in request.cookies,
    }


def _rows(
    parts: Parts, wanted: ResultFilter, seq: int | None, number: int = ROWS
) -> tuple[list[Entry], bool]:
    found = feed.before(parts.store.database, seq, number + 1, wanted)
    return found[:number], len(found) <= number


def _older(said: Mapping[str, str], entries: list[Entry]) -> str:
    return f"/?{urlencode({**said, 'before': entries[-1].seq})}" if entries else "/"


def _position(request: Request, name: str) -> int | None:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
