"""Count up from several threads: read, then write, in one transaction each. URL THREADS TIMES."""

import sys
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text

from storage.database import Database


def main(url: str, threads: int, times: int) -> None:
    database = Database(url)

    def count_up(_: int) -> None:
        for _ in range(times):
            with database.write() as connection:
                number = connection.scalar(text("SELECT number FROM counter")) or 0
                connection.execute(text("UPDATE counter SET number = :next"), {"next": number + 1})

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(count_up, range(threads)))
    database.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
