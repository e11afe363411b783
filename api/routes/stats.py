"""GET /v1/stats: how many, how fast, how good, and what still waits."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query, Request, Response
from starlette.background import BackgroundTask

from api import inbox
from api.access import v1_router
from api.conditional import ETAG, NOT_MODIFIED, json_answer
from api.parts import Given, Parts
from api.problems import responses
from api.schemas import Stats, StatsQuery
from storage import statistics
from storage.results import iso
from storage.statistics import Bucket, Statistics

router = v1_router("results")


@router.get(
    "/stats",
    summary="Count results",
    response_model=Stats,
    responses={
        **responses("unauthorized", "scope_missing", "bad_parameter", "database_unavailable"),
        **NOT_MODIFIED,
        200: {"headers": ETAG},
    },
)
def get_stats(query: Annotated[StatsQuery, Query()], request: Request, parts: Given) -> Response:
    """Counts by label and status over time, rates, latencies, reviews, quality, and the inbox.

    The span is widened to whole buckets; minutes are kept for two days, and `since` in the answer
    says where they begin. `quality` is asked for in
    the background, so it may be some seconds old.
    """
    now = datetime.now(UTC)
    since = query.since
    if query.bucket == "minute":
        oldest = now - statistics.MINUTES_KEPT
        since = max(since, oldest) if since else oldest
    found = statistics.look(
        parts.store.database, now, since=since, until=query.until, resolution=query.bucket
    )
    answer = json_answer(request, _shown(found, parts))
    answer.background = BackgroundTask(parts.metrics.known_quality, at_once=True)
    return answer


def _shown(found: Statistics, parts: Parts) -> dict[str, Any]:
    quality = parts.metrics.known_quality()
    return {
        "since": iso(found.since),
        "until": iso(found.until),
        "bucket": found.resolution,
        "images": sum(found.by_status.values()),
        "by_status": found.by_status,
        "by_label": found.by_label,
        "buckets": [_bucket(bucket) for bucket in found.buckets],
        "rate": {
            "last_minute": round(found.last_minute / 60, 4),
            "last_hour": round(found.last_hour / 3600, 4),
        },
        "latency_ms": {
            f"p{round(quantile * 100)}": found.latency_ms.get(quantile)
            for quantile in statistics.QUANTILES
        },
        "reviews": asdict(found.reviews),
        "quality": asdict(quality) if quality else None,
        "inbox": inbox.shown(parts.inbox.look()),
    }


def _bucket(bucket: Bucket) -> dict[str, Any]:
    return {
        "start": iso(bucket.start),
        "images": bucket.images,
        "by_status": bucket.by_status,
        "by_label": bucket.by_label,
    }
