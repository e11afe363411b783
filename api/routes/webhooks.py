"""What we send, not what we serve: the webhook, for the OpenAPI document (docs/webhooks.md)."""

from typing import Annotated

from fastapi import APIRouter, Header

from api.schemas import ResultCreated

router = APIRouter()


@router.post(
    "result.created",
    operation_id="result_created",
    tags=["results"],
    summary="A result was recorded",
    status_code=204,
    response_description="Taken, as with every other 2xx",
    responses={
        "default": {
            "description": "Not taken, and neither is no answer within 20 seconds: "
            "the same message comes again, for nearly three days"
        }
    },
)
def result_created(
    message: ResultCreated,
    webhook_id: Annotated[
        str, Header(description="the same at every attempt", examples=["msg_01a20589-9e8e-7000"])
    ],
    webhook_timestamp: Annotated[
        int, Header(description="of this attempt, in seconds of the epoch", examples=[1764061200])
    ],
    webhook_signature: Annotated[
        str,
        Header(
            description="`v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`; one for "
            "each secret, with a space between",
            examples=["v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="],
        ),
    ],
) -> None:
    """POST to PIGEONHOLE_WEBHOOK_URL for every result, at least once, in no promised order.

    The form is that of Standard Webhooks. Check the signature before you believe a message.
    `pigeonhole webhooks test` sends one of the type `test`.
    """
