"""Put a file where nothing larger than 100,000 bytes can be written. SOURCE FOLDER."""

import resource
import signal
import sys
from pathlib import Path

from storage.files import put, stamp_of


def main(source: Path, folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        put(source, stamp_of(source.lstat()), folder, "01234567", None)
    except OSError as error:
        sys.stdout.write(f"{error.strerror}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
