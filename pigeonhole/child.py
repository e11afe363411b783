"""A process below `pigeonhole up`: it ends when its supervisor does, even by kill -9.

`python -m pigeonhole.child FD COMMAND`, where FD is the end of a pipe that only the supervisor can
write to. Nobody ever writes: the pipe ends when the supervisor is gone, on every POSIX system.
"""

import os
import signal
import sys
import threading
import time

from pigeonhole.__main__ import main

_GRACE_S = 15.0


def _end_with(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    main(sys.argv[2:])
