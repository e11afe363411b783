"""Every alert fires when it should and is silent when it should be, says promtool."""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import rules

WATCHER = 'job="watcher", instance="w:9108"'
API = 'job="api", instance="a:8000"'
ONE_UP = f"up{{{WATCHER}}}", "1x500"
OTHER_UP = f"up{{{API}}}", "1x500"


@dataclass(frozen=True)
class Case:
    """Series by the minute (Prometheus' own notation), and when we look."""

    alert: str
    why: str
    series: tuple[tuple[str, str], ...]
    after: str = "90m"
    firing: int = 0


def beats(values: str) -> tuple[str, str]:
    return f"pigeonhole_heartbeat_last_seen_timestamp_seconds{{{WATCHER}}}", values


def paused(reason: str, values: str) -> tuple[str, str]:
    return f'pigeonhole_watcher_paused{{{WATCHER}, reason="{reason}"}}', values


def share_of_5xx(failed_a_minute: int, fine_a_minute: int) -> tuple[tuple[str, str], ...]:
    name = "pigeonhole_http_requests_total"
    route = 'route="/v1/predict", method="POST"'
    return (
        (f'{name}{{{API}, {route}, status="201"}}', f"0+{fine_a_minute}x500"),
        (f'{name}{{{API}, {route}, status="503"}}', f"0+{failed_a_minute}x500"),
    )


def images(outcome: str, values: str) -> tuple[str, str]:
    labels = f'{WATCHER}, source="watcher", outcome="{outcome}"'
    return f"pigeonhole_images_total{{{labels}}}", values


def errors(code: str, values: str) -> tuple[str, str]:
    return f'pigeonhole_errors_total{{{WATCHER}, code="{code}"}}', values


def drift(values: str) -> tuple[str, str]:
    return f'pigeonhole_drift_score{{{WATCHER}, kind="label"}}', values


def accuracy(upper: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"pigeonhole_estimated_accuracy_ratio_upper{{{WATCHER}}}", upper),
        (f'pigeonhole_model_accuracy_ratio{{{WATCHER}, split="test"}}', "0.95x500"),
    )


def model(labels: str, version: str, values: str = "1x500") -> tuple[str, str]:
    return f'pigeonhole_model_info{{{labels}, name="m", version="{version}"}}', values


def reloads(values: str) -> tuple[str, str]:
    return f'pigeonhole_model_reloads_total{{{WATCHER}, result="failure"}}', values


def rescan(
    values: str, mode: str = "native", started: str = "0x500"
) -> tuple[tuple[str, str], ...]:
    return (
        (f'pigeonhole_watch_events_total{{{WATCHER}, source="rescan"}}', values),
        (f'pigeonhole_watcher_mode_info{{{WATCHER}, mode="{mode}"}}', "1x500"),
        (f"process_start_time_seconds{{{WATCHER}}}", started),
    )


def disk(free: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"pigeonhole_disk_free_bytes{{{WATCHER}}}", free),
        (f"pigeonhole_disk_size_bytes{{{WATCHER}}}", "100x500"),
    )


def oldest(values: str) -> tuple[tuple[str, str], ...]:
    return ((f"pigeonhole_inbox_oldest_file_timestamp_seconds{{{WATCHER}}}", values),)


CASES = [
    Case("HeartbeatLost", "no beat since the 60th minute", (beats("0+60x60 3600x100"),), firing=1),
    Case("HeartbeatLost", "the watcher itself is gone", (beats("0+60x60"),), firing=1),
    Case("HeartbeatLost", "a beat each minute", (beats("0+60x500"),)),
    Case("HeartbeatLost", "two beats missed, then one", (beats("0+60x85 5100x2 5280+60x9"),)),
    Case("HeartbeatLost", "no beat, for want of disk", (
        beats("0+60x60 3600x100"), paused("disk", "0x60 1x100")), firing=1),
    Case("HeartbeatLost", "no beat, for somebody said pause", (
        beats("0+60x60 3600x100"), paused("user", "0x60 1x100"))),
    Case("TargetDown", "one does not answer", ((ONE_UP[0], "0x500"), OTHER_UP), firing=1),
    Case("TargetDown", "one is no longer to be found", (
        (ONE_UP[0], "1x60 _x100"), OTHER_UP), firing=1),
    Case("TargetDown", "one of two replicas is down", (
        ONE_UP, OTHER_UP, ('up{job="api", instance="b:8000"}', "0x500")), firing=1),
    Case("TargetDown", "both answer", (ONE_UP, OTHER_UP)),
    Case("TargetDown", "one scrape was lost", ((ONE_UP[0], "1x89 0 1x100"), OTHER_UP)),
    Case("InboxAgeHigh", "a file is there since the 30th minute", oldest("1800x500"), firing=1),
    Case("InboxAgeHigh", "files pass through", oldest("0+60x500")),
    Case("InboxAgeHigh", "the inbox is empty", oldest("_x500")),
    Case("ErrorBudgetBurnFast", "one of five fails", share_of_5xx(2, 8), firing=1),
    Case("ErrorBudgetBurnFast", "one of ten fails", share_of_5xx(1, 9)),
    Case("ErrorBudgetBurnFast", "it was bad, and is over", (
        (share_of_5xx(0, 8)[0]), (share_of_5xx(0, 8)[1][0], "0+8x80 640x100"))),
    Case("ErrorBudgetBurnFast", "one of two, of a handful", (
        (share_of_5xx(0, 0)[0][0], "0x80 1x100"), (share_of_5xx(0, 0)[1][0], "0x80 1x100"))),
    Case("ErrorBudgetBurnFast", "nobody asks anything", ()),
    Case("ErrorBudgetBurnFast", "files cannot be filed", (
        images("classified", "0+8x500"), errors("cannot_file", "0+2x500")), firing=1),
    Case("ErrorBudgetBurnFast", "people send files that are no images", (
        images("quarantined", "0+9x500"), errors("unreadable_image", "0+9x500"))),
    Case("ErrorBudgetBurnSlow", "one of ten fails for hours", share_of_5xx(1, 9), "400m", 1),
    Case("ErrorBudgetBurnSlow", "one of a hundred fails", share_of_5xx(1, 99), "400m"),
    Case("ModelSplitBrain", "two versions", (model(WATCHER, "1"), model(API, "2")), firing=1),
    Case("ModelSplitBrain", "one version in two processes", (model(WATCHER, "1"), model(API, "1"))),
    Case("ModelSplitBrain", "the API is two minutes late", (
        model(WATCHER, "1", "1x85 _x100"), model(WATCHER, "2", "_x86 1x100"),
        model(API, "1", "1x87 _x100"), model(API, "2", "_x88 1x100"))),
    Case("ReloadFailed", "one failed five minutes ago", (reloads("0x85 1x100"),), firing=1),
    Case("ReloadFailed", "one failed an hour ago", (reloads("0x30 1x100"),)),
    Case("DriftSustained", "far away for over an hour", (drift("0.5x500"),), firing=1),
    Case("DriftSustained", "far away for half an hour", (drift("0.05x60 0.5x100"),)),
    Case("DriftSustained", "no reference", ()),
    Case("EstimatedAccuracyLow", "the upper bound is far below", accuracy("0.87x500"), firing=1),
    Case("EstimatedAccuracyLow", "the upper bound is near", accuracy("0.94x500")),
    Case("EstimatedAccuracyLow", "too few answers to say", accuracy("_x500")),
    Case("RescanFoundFiles", "three in ten minutes", rescan("0x80 3x100"), firing=1),
    Case("RescanFoundFiles", "none", rescan("3x500")),
    Case("RescanFoundFiles", "it polls, so rescans are its work", rescan("0x80 3x100", "polling")),
    Case("RescanFoundFiles", "what lay there at the start", rescan(
        "0x80 3x100", started="4800x500")),
    Case("DiskLow", "3 of 100 are left", disk("3x500"), firing=1),
    Case("DiskLow", "30 of 100 are left", disk("30x500")),
]  # fmt: skip


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("NOT TESTED: rules and configuration; install Debian's package `prometheus`")
    return found


@pytest.fixture(scope="module")
def groups(repository: Path) -> list[dict[str, Any]]:
    text = (repository / "monitoring/prometheus/rules.yml").read_text("utf-8")
    loaded: list[dict[str, Any]] = yaml.safe_load(text)["groups"]
    return loaded


@pytest.mark.parametrize("name", ["prometheus.yml", "local.yml"])
def test_promtool_accepts_the_configuration(promtool: str, repository: Path, name: str) -> None:
    config = repository / "monitoring/prometheus" / name
    answer = subprocess.run(
        [promtool, "check", "config", str(config)], capture_output=True, text=True, check=False
    )

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "rules found" in answer.stdout


def test_promtool_agrees_with_every_case(promtool: str, tmp_path: Path) -> None:
    # The committed rules, evaluated less often: this takes as long as there are evaluations.
    (tmp_path / "rules.yml").write_text(rules.render(interval="2m"))
    tests = tmp_path / "tests.yml"
    tests.write_text(
        yaml.safe_dump(
            {
                "rule_files": ["rules.yml"],
                "evaluation_interval": "2m",
                "tests": [unit_test(case) for case in CASES],
            }
        )
    )

    answer = subprocess.run(
        [promtool, "test", "rules", str(tests)], capture_output=True, text=True, check=False
    )

    assert answer.returncode == 0, answer.stdout + answer.stderr


def unit_test(case: Case) -> dict[str, Any]:
    firing = f'ALERTS{{alertname="{case.alert}", alertstate="firing"}}'
    return {
        "name": f"{case.alert}: {case.why}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series],
        "promql_expr_test": [
            {
                "expr": f"count({firing}) or vector(0)",
                "eval_time": case.after,
                "exp_samples": [{"labels": "{}", "value": case.firing}],
            }
        ],
    }


def test_every_alert_has_a_case_that_fires_and_one_that_is_silent() -> None:
    alerts = {alert.name for alert in rules.alerts(rules.Limits())}

    assert {case.alert for case in CASES if case.firing} == alerts
    assert {case.alert for case in CASES if not case.firing} == alerts


def test_every_alert_says_what_to_do(groups: list[dict[str, Any]], repository: Path) -> None:
    runbook = (repository / rules.RUNBOOK).read_text("utf-8")
    headings = {heading.lower() for heading in re.findall(r"^## (\w+)$", runbook, re.M)}
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]

    assert headings == {alert["alert"].lower() for alert in alerts}
    for alert in alerts:
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"].endswith(".")
        page, anchor = alert["annotations"]["runbook_url"].split("#")
        assert (repository / page).is_file()
        assert anchor in headings


def test_every_rule_is_about_metrics_that_exist(
    groups: list[dict[str, Any]],
    selectors: Callable[[str], list[Any]],
    known_names: frozenset[str],
) -> None:
    for group in groups:
        for rule in group["rules"]:
            assert {selector.name for selector in selectors(rule["expr"])} <= known_names


def test_what_is_recorded_is_asked_for(groups: list[dict[str, Any]], repository: Path) -> None:
    asked = "".join(
        file.read_text("utf-8") for file in (repository / "monitoring/grafana/dashboards").iterdir()
    ) + "".join(rule["expr"] for group in groups for rule in group["rules"])

    for group in groups:
        for rule in group["rules"]:
            assert rule.get("record", "") in asked
