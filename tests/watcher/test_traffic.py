"""API readers, API writers and a watcher at full speed on one database (G19)."""

import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest

from storage.store import Store
from tests.api.conftest import Server

READERS, WRITERS = 8, 2
Start = Callable[..., subprocess.Popen[bytes]]
Until = Callable[..., None]
Say = Callable[[object], None]
