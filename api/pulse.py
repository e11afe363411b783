"""What the page shows of the whole: numbers, throughput, labels, inbox, model, health."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from api.charts import SPANS, Bucket, Chart, throughput
from api.parts import Parts
from monitoring.health import Report
from monitoring.quality import Estimate, Quality
from storage import feed, statistics, watchers

MOVED = 0.25  # as the alert DriftSustained has it
HOLES = 12  # labels in the rack; a model may have thousands


@dataclass(frozen=True, slots=True)
class Link:
    """One span of time to choose."""

    name: str
    href: str
    is_shown: bool


@dataclass(frozen=True, slots=True)
class Hole:
    """One pigeonhole of the rack: a label, how many lie in it, and the way to see them."""

    label: str
    count: int
    share: float  # of the fullest hole, 0..100
    href: str
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class Pulse:
    """The numbers above the list."""

    total: int
    last_hour: int
    to_review: int
    quarantined: int
    chart: Chart
    spans: Sequence[Link]
    rack: Sequence[Hole]
    more_labels: int


@dataclass(frozen=True, slots=True)
class State:
    """A sentence, and how good the news is: good, ask, bad or none."""

    text: str
    mood: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The model that answers; `quality`: what is known of its latest answers, in sentences."""

    name: str
    version: str
    labels: int
    accuracy: float | None
    quality: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """What stands beside the list."""

    inbox_path: str
    inbox: State
    model: ModelCard
    checks: Sequence[State]


def pulse(parts: Parts, asked: Mapping[str, str], span_key: str | None) -> Pulse:
    """The numbers as they are now; `asked` are the filters of the page, for the links."""
    now = datetime.now(UTC)
    span = next((span for span in SPANS if span.key == span_key), SPANS[0])
    since = span.since(now)
    database = parts.store.database
    seen = statistics.glance(database, now, since, span.resolution)
    counts = _with_all_labels(seen.by_label, parts.bundle.labels)
    most = max((count for _, count in counts), default=0)
    buckets = [
        Bucket(
            each.start, each.by_status.get("classified", 0), each.by_status.get("quarantined", 0)
        )
        for each in seen.buckets
    ]
    return Pulse(
        total=sum(seen.by_status.values()),
        last_hour=seen.last_hour,
        to_review=feed.progress(database).waiting,
        quarantined=seen.by_status.get("quarantined", 0),
        chart=throughput(span, since, buckets),
        spans=[Link(each.name, _href({**asked, "span": each.key}), each is span) for each in SPANS],
        rack=[_hole(label, count, most, asked) for label, count in counts[:HOLES]],
        more_labels=max(len(counts) - HOLES, 0),
    )


def side(parts: Parts, report: Report) -> Side:
    """Inbox, model and health; `report` is that of /readyz."""
    manifest = parts.bundle.manifest
    return Side(
        inbox_path=str(parts.settings.inbox),
        inbox=_inbox(watchers.reports(parts.store.database), datetime.now(UTC)),
        model=ModelCard(
            manifest.name,
            manifest.version[:12],
            len(manifest.labels),
            manifest.metrics.get("test_accuracy"),
            tuple(_told(parts.metrics.known_quality())),
        ),
        checks=[
            State(complaint or "ok", "bad" if complaint else "good", name)
            for name, complaint in report.complaints.items()
        ],
    )


def _told(quality: Quality | None) -> Iterator[State]:
    """Estimated and reviewed accuracy with their intervals, and drift; nothing of what is unknown.

    Above 0.25 a population stability index is taken for another world (see docs/monitoring.md).
    """
    if quality is None:
        return
    if estimate := quality.estimated_accuracy:
        yield State(f"{_share(estimate)} right, by its own confidence", "good")
    if reviewed := quality.reviewed_accuracy:
        yield State(f"{_share(reviewed)} right, by {reviewed.images} of the random sample", "good")
    if (drift := quality.label_drift) is not None:
        moved = drift > MOVED
        text = "Labels have moved away from its data" if moved else "Labels are as in its data"
        yield State(f"{text} (drift {drift:.2f})", "ask" if moved else "good")
    if images := {kind: score for kind, score in quality.input_drift.items() if score is not None}:
        yield _inputs(images)


def _inputs(drift: Mapping[str, float]) -> State:
    moved = [f"{kind} (drift {score:.2f})" for kind, score in drift.items() if score > MOVED]
    if moved:
        return State(f"Images have moved away from its data: {', '.join(moved)}", "ask")
    return State(f"Images are as in its data (drift {max(drift.values()):.2f})", "good")


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.0%} ({estimate.lower:.0%} to {estimate.upper:.0%})"


def _inbox(reports: Sequence[watchers.Report], now: datetime) -> State:
    """What the watchers say of the inbox; they all look at the same one."""
    alive = [report for report in reports if report.is_alive(now)]
    if not alive:
        return State("No watcher is running; files wait. `pigeonhole up` starts one.", "bad")
    waiting = max(report.inbox_files for report in alive)
    files = "Empty" if not waiting else f"{waiting} file{'' if waiting == 1 else 's'} waiting"
    paused = [report.pause for report in alive if report.pause]
    if paused:
        return State(f"Paused: {paused[0]}. {files}", "ask")
    return State(files, "good")


def _with_all_labels(counted: Mapping[str, int], labels: Sequence[str]) -> list[tuple[str, int]]:
    """The fullest first; a model of few labels shows its empty holes, too."""
    found = dict(counted)
    if len(labels) <= HOLES:
        found |= {label: found.get(label, 0) for label in labels}
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def _hole(label: str, count: int, most: int, asked: Mapping[str, str]) -> Hole:
    is_chosen = asked.get("label") == label
    others = {name: value for name, value in asked.items() if name != "label"}
    return Hole(
        label=label,
        count=count,
        share=round(100 * count / most, 1) if most else 0,
        href=_href(others if is_chosen else {**others, "label": label}),
        is_chosen=is_chosen,
    )


def _href(parameters: Mapping[str, str]) -> str:
    return f"/?{urlencode(parameters)}" if parameters else "/"
