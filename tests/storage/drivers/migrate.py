"""Migrate when told to, as every process does at its start. URL."""

import sys

from monitoring import logs
from storage.store import Store

if __name__ == "__main__":
    logs.configure("json", "test")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    Store.open(sys.argv[1]).close()
