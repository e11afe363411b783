"""What is exported is explained; units and property lists are valid."""

import plistlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest


def test_every_metric_of_ours_is_explained(repository: Path, known_names: frozenset[str]) -> None:
    text = (repository / "docs/monitoring.md").read_text("utf-8")
    explained = set(re.findall(r"`([a-z_]+)(?:\{[a-z,0-9]+\})?`", text))

    for name in known_names:
        short = name.removeprefix("pigeonhole_")
        if short == name or ":" in name:
            continue
        base = re.sub(r"_(bucket|sum|count|lower|upper)$", "", short)
        assert {base, short, f"{base}_total", f"{base}_info"} & explained, name


@pytest.mark.parametrize("page", ["monitoring.md", "operate.md", "runbook.md"])
def test_no_link_leads_nowhere(repository: Path, page: str) -> None:
    text = (repository / "docs" / page).read_text("utf-8")
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)

    assert links
    for link in links:
        assert (repository / "docs" / link).exists(), link


def test_systemd_accepts_the_units(repository: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("NOT TESTED: the units; systemd-analyze is not here")
    for unit in (repository / "deploy/systemd").iterdir():
        name = unit.name.replace("@.", "@8000.")
        # The program must exist; here it is another one.
        text = unit.read_text().replace("/opt/pigeonhole/.venv/bin/pigeonhole", "/bin/true")
        (tmp_path / name).write_text(text)

    answer = subprocess.run(
        [analyze, "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
    )

    ours = [line for line in answer.stderr.splitlines() if str(tmp_path) in line]
    assert ours == []
    assert answer.returncode == 0, answer.stderr


def test_launchd_can_read_the_property_list(repository: Path) -> None:
    loaded = plistlib.loads((repository / "deploy/launchd/org.pigeonhole.plist").read_bytes())

    assert loaded["ProgramArguments"][1:] == ["up"]
    assert loaded["KeepAlive"] is True
