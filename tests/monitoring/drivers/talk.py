"""Log everything that a log may meet. FORMAT."""

import logging
import sys
import warnings
from pathlib import Path

import structlog

from core.errors import StoreError
from monitoring import logs

EVIL = "a\nERROR forged\x1b[31m\r\x85\u2028\u202e.jpg"


def fail(secret: str) -> None:
    raise StoreError(f"cannot read {EVIL!s} (the key has {len(secret)} letters)")


def main(log_format: str) -> None:
    logs.configure("json" if log_format == "json" else "console", "watcher")
    log = structlog.get_logger("watcher.batch")
    log.info("classified", file="dog.jpg", label="dog", confidence=0.98)
    log.warning(
        "quarantined", file=EVIL, path=Path(EVIL), name=b"\xff\n", odd="\udcff", many=[EVIL]
    )
    log.debug("not shown")
    logging.getLogger("uvicorn").warning("a library says %s", EVIL)
    logging.getLogger("alembic.runtime.migration").info("not shown")
    logging.getLogger("watchdog.observers").info("not shown")
    try:
        fail("open sesame")
    except StoreError:
        log.exception("broke")
        logging.getLogger("uvicorn").exception("a library broke")
    warnings.warn("something is old", UserWarning, stacklevel=1)
    log.info("last")


if __name__ == "__main__":
    main(sys.argv[1])
