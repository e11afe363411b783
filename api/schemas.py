"""What goes over the wire, with the names of docs/rest.md; the OpenAPI document is made of these.

Routes answer with the dicts of `storage.results.Result.to_dict` and its like, so that REST, the
command line and exports write the same; these models describe and check them.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, RootModel
from pydantic.config import JsonDict

from storage import reviews
from storage.limbo import State
from storage.results import Order, ResultFilter, Source, Status
from storage.statistics import Resolution

DEFAULT_LIMIT, MAX_LIMIT = 50, 500
_MAX_TEXT = 255

_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d([.]\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)?)?", re.ASCII
)


def _moment(text: object) -> datetime:
    """RFC 3339 to UTC; without a zone it is UTC already, without a time it is midnight."""
    if not isinstance(text, str) or not _MOMENT.fullmatch(text):
        raise ValueError("must be a time such as 2026-11-22T09:30:00Z (in a URL, write + as %2B)")
    try:
        moment = datetime.fromisoformat(text.upper())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("there is no such time in the calendar") from None


def _no_nul(text: object) -> object:
    if isinstance(text, str) and "\0" in text:  # PostgreSQL refuses it
        raise ValueError("must not hold a NUL character")
    return text


Text = Annotated[
    str,
    BeforeValidator(_no_nul),
    Field(min_length=1, max_length=_MAX_TEXT, json_schema_extra={"pattern": r"^[^\u0000]*$"}),
]
Moment = Annotated[datetime, BeforeValidator(_moment)]
Timestamp = Annotated[
    str,
    Field(
        description="UTC, to the millisecond",
        examples=["2026-11-22T09:30:00.123Z"],
        json_schema_extra={"format": "date-time"},
    ),
]
Share = Annotated[float, Field(ge=0, le=1)]


class Wire(BaseModel):
    """A body whose fields are all of the fields that there are."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelScore(Wire):
    """One label and the score that it got; the scores of all labels sum to 1."""

    label: str = Field(examples=["dog"])
    score: Share


class ModelRef(Wire):
    """Which model answered."""

    name: str = Field(examples=["starter"])
    version: str = Field(examples=["0f3a9c61b2d4"])


class ResultError(Wire):
    """Why an image was not classified."""

    code: str = Field(examples=["unreadable_image"])
    detail: str


_EXAMPLE: JsonDict = {
    "id": "01a20589-9e8e-7000-ba5e-e5c1c573684f",
    "filename": "dog.jpg",
    "source": "upload",
    "status": "classified",
    "label": "dog",
    "confidence": 0.98,
    "scores": [{"label": "dog", "score": 0.98}, {"label": "cat", "score": 0.02}],
    "needs_review": False,
    "corrected_label": None,
    "reviewed_at": None,
    "error": None,
    "sha256": "ea0c64165b1f5cd9d39da10fe254db3ba60a1031cea9ae9b6b14a8b1822c4263",
    "bytes": 48213,
    "width": 640,
    "height": 480,
    "format": "JPEG",
    "path": "uploads/2026-11-22/01a20589-9e66-7000-8b0c-27d0bc2e7e60.jpg",
    "duplicate_of": None,
    "model": {"name": "starter", "version": "0f3a9c61b2d4"},
    "received_at": "2026-11-22T09:30:00.082Z",
    "classified_at": "2026-11-22T09:30:00.123Z",
    "latency_ms": 41.2,
}


class Result(Wire):
    """What became of one image."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str = Field(json_schema_extra={"format": "uuid"}, description="a UUID of version 7")
    filename: str = Field(examples=["dog.jpg"])
    source: Source
    status: Status
    label: str | None = Field(examples=["dog"])
    confidence: Share | None = Field(description="the calibrated score of `label`")
    scores: list[LabelScore] = Field(description="best first; at most 20")
    needs_review: bool = Field(description="whether confidence is below PIGEONHOLE_MIN_CONFIDENCE")
    corrected_label: str | None
    reviewed_at: Timestamp | None
    error: ResultError | None
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)
    width: int | None = Field(description="pixels, as seen upright")
    height: int | None
    format: str | None = Field(examples=["JPEG"])
    path: str | None = Field(description="where the file is now, relative to PIGEONHOLE_HOME")
    duplicate_of: str | None = Field(description="the id of the first result for the same bytes")
    model: ModelRef
    received_at: Timestamp
    classified_at: Timestamp
    latency_ms: float = Field(ge=0, description="from the last byte to the answer of the model")


class ResultCreated(Wire):
    """The message of the webhook: a result was recorded."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "result.created",
                    "timestamp": "2026-11-22T09:30:00.130Z",
                    "data": _EXAMPLE,
                }
            ]
        }
    )

    type: Literal["result.created"]
    timestamp: Timestamp
    data: Result


class ResultPage(Wire):
    """Some results, and how to get more."""

    items: list[Result]
    next_cursor: str | None = Field(description="give it as `cursor`; null: there are no more")


# No control characters, no ends of lines, no halves of surrogates, nothing blank at either end.
_HALVES = r"\ud800-\udfff"  # which no schema need speak of
_IN_LABEL = rf"\u0000-\u001f\u007f-\u009f\u2028\u2029{_HALVES}"
_LABEL = re.compile(rf"[^\s{_IN_LABEL}](?:[^{_IN_LABEL}]*[^\s{_IN_LABEL}])?")


def _label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError("must be one line of text, with no blank at either end")
    return text


class Correction(Wire):
    """What it really is; null takes back what was said."""

    corrected_label: (
        Annotated[
            str,
            AfterValidator(_label),
            Field(
                max_length=_MAX_TEXT,
                json_schema_extra={"pattern": f"^{_LABEL.pattern.replace(_HALVES, '')}$"},
            ),
        ]
        | None
    ) = Field(examples=["cat"])

    def meaning(self) -> reviews.Review:
        """The same as the store writes it down."""
        return reviews.Review(self.corrected_label is not None, self.corrected_label)


class Confirmation(Wire):
    """A person has looked, and it is right as it stands; false takes back what was said."""

    reviewed: bool = Field(strict=True)

    def meaning(self) -> reviews.Review:
        """The same as the store writes it down."""
        return reviews.Review(self.reviewed, keeps_correction=self.reviewed)


class Review(RootModel[Correction | Confirmation]):
    """What a person says of a result."""


class Retry(Wire):
    """A file that gets another try."""

    path: str = Field(description="where it is now", examples=["/srv/pigeonhole/inbox/dog.jpg"])


class Labels(Wire):
    """The labels that the model knows, in the order of its class indices."""

    labels: list[str] = Field(examples=[["cat", "dog"]])
    model: ModelRef


Counts = dict[str, Annotated[int, Field(ge=0)]]


class StatsBucket(Wire):
    """The results of one minute, hour or day."""

    start: Timestamp
    images: int = Field(ge=0)
    by_status: Counts = Field(examples=[{"classified": 40, "quarantined": 2}])
    by_label: Counts = Field(examples=[{"cat": 30, "dog": 10}])


class Rate(Wire):
    """Results per second."""

    last_minute: float = Field(ge=0)
    last_hour: float = Field(ge=0)


class Latency(Wire):
    """Below which so many per cent of the latencies lie, within 5 %; null without results."""

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


class ReviewCounts(Wire):
    """What waits for people, what they have looked at, and how much of that they corrected."""

    waiting: int = Field(ge=0)
    reviewed: int = Field(ge=0)
    corrected: int = Field(ge=0)


class Estimate(Wire):
    """A share with its 95 % interval."""

    value: Share
    lower: Share
    upper: Share
    images: int = Field(ge=0)


class InputDrift(Wire):
    """How far the images have moved: PSI of each number, beside the bundle's reference."""

    brightness: float | None
    contrast: float | None
    sharpness: float | None
    megapixels: float | None


class Quality(Wire):
    """How good the present model's latest 1,000 answers are; null: not known yet."""

    estimated_accuracy: Estimate | None = Field(description="the mean calibrated confidence")
    reviewed_accuracy: Estimate | None = Field(description="what people said of a random sample")
    audit_waiting: int = Field(ge=0, description="results of that sample to be looked at")
    label_drift: float | None = Field(
        description="PSI of labels against the bundle's reference; from 200 answers on"
    )
    input_drift: InputDrift = Field(description="the same of what the images look like")


class InboxFile(Wire):
    """A file that has no row yet, and why."""

    path: str = Field(description="relative to the inbox")
    state: State
    detail: str
    since: Timestamp | None = Field(description="its arrival")
    until: Timestamp | None = Field(
        description="when a claim ends, a retry is due, or it will have settled"
    )
    attempts: int = Field(ge=0)


class InboxNow(Wire):
    """What is in the inbox now, some seconds old where very many files wait."""

    waiting: int = Field(ge=0, description="files that will get a row by themselves")
    oldest_at: Timestamp | None
    by_state: Counts = Field(examples=[{"settling": 3, "retry": 1, "ignored": 2}])
    files: list[InboxFile] = Field(description="up to a hundred, those first that need somebody")


class Stats(Wire):
    """The results of a span of time, counted; how fast, how good."""

    since: Timestamp | None = Field(description="null: from the first result on")
    until: Timestamp
    bucket: Resolution
    images: int = Field(ge=0)
    by_status: Counts = Field(examples=[{"classified": 40, "quarantined": 2}])
    by_label: Counts = Field(examples=[{"cat": 30, "dog": 10}])
    buckets: list[StatsBucket] = Field(description="oldest first; those without results left out")
    rate: Rate
    latency_ms: Latency
    reviews: ReviewCounts
    quality: Quality | None
    inbox: InboxNow | None = Field(description="null: it cannot be listed; /readyz says why")


class Recipe(Wire):
    """How an image becomes the model's input."""

    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: str
    short_side_px: int | None
    interpolation: str
    background: tuple[int, int, int]


class Int8(Wire):
    """Weights in 8 bit integers, close enough to `weights_sha256` in their answers."""

    sha256: str


class Model(Wire):
    """The model that answers: what it knows, how good it was, where it comes from."""

    name: str
    version: str = Field(description="a hash of everything that changes an answer")
    weights_sha256: str
    labels: list[str]
    recipe: Recipe
    temperature: float = Field(description="what the logits are divided by before the softmax")
    metrics: dict[str, float] = Field(examples=[{"test_accuracy": 0.93}])
    lineage: dict[str, Any] = Field(description="data, parameters and code that it was made of")
    int8: Int8 | None = Field(description="the quantised weights, where a CPU serves those")


class Health(Wire):
    """Every check by name, and `ok` or what is wrong and what to do."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = Field(examples=[{"database": "ok", "model": "ok", "disk": "ok"}])
    notes: dict[str, str] = Field(
        default_factory=dict, description="what to know of, though it keeps nothing from working"
    )


class ServerLive(Wire):
    """Open Inference Protocol: is it alive?"""

    live: bool


class ServerReady(Wire):
    """Open Inference Protocol: can it work?"""

    ready: bool


class ServerMetadata(Wire):
    """Open Inference Protocol: the server."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Wire):
    """Open Inference Protocol: one input or output; -1 is any number of images."""

    name: str
    datatype: str = Field(examples=["FP32"])
    shape: list[int]


class ModelMetadata(Wire):
    """Open Inference Protocol: what goes into a model and comes out."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(Wire):
    """Open Inference Protocol: does this model serve?"""

    name: str
    ready: bool


class InferInput(BaseModel):
    """Open Inference Protocol: one input tensor."""

    name: str = Field(description="`image` or `pixels`")
    datatype: str = Field(description="BYTES or UINT8")
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = Field(None, description="in row-major order, flat or nested")


class InferOutput(BaseModel):
    """Open Inference Protocol: one output that is asked for."""

    name: str = Field(description="`scores` or `label`")
    parameters: dict[str, Any] = Field({}, examples=[{"classification": 3}])


class InferRequest(BaseModel):
    """Open Inference Protocol: images to classify."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [
                        {
                            "name": "image",
                            "datatype": "BYTES",
                            "shape": [1],
                            "data": ["base64 of an image"],
                        }
                    ],
                    "outputs": [{"name": "scores", "parameters": {"classification": 3}}],
                }
            ]
        }
    )

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[InferInput] = Field(min_length=1)
    outputs: list[InferOutput] = []


class InferTensor(Wire):
    """Open Inference Protocol: one output tensor."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class InferResponse(Wire):
    """Open Inference Protocol: the answer."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferTensor]


class ProblemItem(BaseModel):
    """One parameter or field that cannot be used."""

    parameter: str | None = None
    field: str | None = None
    detail: str


class Problem(BaseModel):
    """What every error looks like (RFC 9457, application/problem+json)."""

    type: str = Field(description="the address that explains `code`")
    title: str
    status: int
    detail: str = Field(description="what is wrong this time, and what to do")
    instance: str = Field(description="what was asked for")
    code: str = Field(description="stable: what programs should look at")
    errors: list[ProblemItem] | None = Field(None, description="with bad_parameter: which, and why")
    error: str | None = Field(None, description="below /v2: `detail`, as that protocol calls it")


class BatchItem(Wire):
    """What became of one file: its result, or why there is none."""

    filename: str
    status: int = Field(description="as if it had been sent alone", examples=[201])
    result: Result | None
    problem: Problem | None


class Batch(Wire):
    """What became of each file, in the order in which they were sent."""

    items: list[BatchItem]


class Uploads(BaseModel):
    """A form with up to 32 images, all under the name `file`."""

    file: list[
        Annotated[
            str,
            Field(
                json_schema_extra={
                    "format": "binary",
                    "contentMediaType": "application/octet-stream",
                }
            ),
        ]
    ] = Field(min_length=1, max_length=32)


class Upload(BaseModel):
    """A form with one image."""

    file: str = Field(
        description="the image",
        json_schema_extra={"format": "binary", "contentMediaType": "application/octet-stream"},
    )


class PredictQuery(BaseModel):
    """The parameters of POST /v1/predict."""

    model_config = ConfigDict(extra="forbid")

    store: bool = Field(True, description="`false`: answer, but keep no record")


class StatsQuery(BaseModel):
    """The parameters of GET /v1/stats."""

    model_config = ConfigDict(extra="forbid")

    since: Moment | None = Field(None, description="classified then or later; default: ever")
    until: Moment | None = Field(None, description="classified before then; default: now")
    bucket: Resolution | None = Field(
        None, description="default: what gives a chart of some hundred points"
    )


class ImageQuery(BaseModel):
    """The parameters of GET /v1/results/{id}/image."""

    model_config = ConfigDict(extra="forbid")

    size: Literal["thumb", "full"] = Field(
        "full", description="`thumb`: a JPEG of at most 256 pixels; `full`: the file itself"
    )


class FilterQuery(BaseModel):
    """Which results; every filter that is given must hold."""

    model_config = ConfigDict(extra="forbid")

    label: Text | None = Field(None, description="the predicted label, exactly")
    status: Status | None = None
    source: Source | None = Field(None, description="how the image came in")
    model_version: Text | None = None
    needs_review: bool | None = None
    min_confidence: Share | None = Field(None, description="inclusive")
    max_confidence: Share | None = Field(None, description="inclusive")
    q: Text | None = Field(None, description="part of the file name, in upper or lower case")
    since: Moment | None = Field(None, description="classified at this time or later")
    until: Moment | None = Field(None, description="classified before this time")
    order: Order = Field("desc", description="newest first, or oldest first")

    def filter(self) -> ResultFilter:
        """The same as the store asks for it."""
        return ResultFilter(**self.model_dump(include=set(FilterQuery.model_fields) - {"order"}))


class ResultQuery(FilterQuery):
    """The parameters of GET /v1/results."""

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="results per page")
    cursor: Text | None = Field(None, description="`next_cursor` of the page before")


class ExportQuery(FilterQuery):
    """The parameters of GET /v1/results/export."""

    format: Literal["csv", "jsonl", "parquet"] = Field("csv", description="of the file")
