"""Claim many files, thirty at a time, in an order of one's own. URL OWNER FILES."""

import random
import sys
from datetime import UTC, datetime

from core.types import Stamp
from storage.store import Store


def main(url: str, owner: str, number: int) -> None:
    store = Store.open(url)
    files = [(f"{index}.jpg", Stamp(1, index, 10, 20)) for index in range(number)]
    random.Random(owner).shuffle(files)
    now = datetime.now(UTC)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for start in range(0, number, 30):
        for delivery in store.claim(files[start : start + 30], owner, now, 60):
            sys.stdout.write(f"{delivery.path}\n")
    store.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
