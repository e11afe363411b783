"""What the gate is told of a bundle's latency and memory."""

import json
import subprocess
import sys
from pathlib import Path

MIB = 1024**2
_WHO_TRAINS_HAS_MUCH = """
import json, sys
from pathlib import Path
from pipeline import cost
much = bytearray(b"x") * (600 * 1024 ** 2)
print(json.dumps(cost.measured(Path(sys.argv[1]))._asdict()))
"""


def test_memory_is_that_of_the_model_and_not_of_who_asks(rgb_bundle: Path) -> None:
    command = [sys.executable, "-c", _WHO_TRAINS_HAS_MUCH, str(rgb_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    told = json.loads(done.stdout)

    assert 30 * MIB < told["memory_bytes"] < 400 * MIB
    assert told["latency_ms_p95"] > 0
