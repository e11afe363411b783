"""The rules of Grafana's dashboard-linter, and our own: a dashboard is wrong here or nowhere."""

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from monitoring.__main__ import generated
from monitoring.boards import IMAGES_PER_S, PER_S, dashboards

# Of Grafana's own list, or a suffix of ours; each is asked for by a panel.
UNITS = {"short", "s", "reqps", "percentunit", "bytes", "Bps", IMAGES_PER_S, PER_S}

BOARDS = {board.uid: board.to_dict() for board in dashboards()}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


class Asked(NamedTuple):
    """One query of one panel."""

    board: str
    title: str
    expr: str
    legend: str


ASKED = [
    Asked(uid, panel["title"], target["expr"], target["legendFormat"])
    for uid, board in BOARDS.items()
    for panel in panels(board)
    for target in panel["targets"]
]


def parsable(expr: str) -> str:
    """With what Grafana puts in the place of its variables."""
    return expr.replace("$__rate_interval", "1m").replace("$job", ".+").replace("$instance", ".+")


def test_the_committed_files_are_what_the_code_writes(repository: Path) -> None:
    for path, text in generated().items():
        committed = (repository / "monitoring" / path).read_text("utf-8")
        assert committed == text, f"{path}: run `make monitoring`"


def test_no_dashboard_is_left_of_an_earlier_time(repository: Path) -> None:
    folder = repository / "monitoring/grafana/dashboards"

    assert {file.stem for file in folder.iterdir()} == set(BOARDS)


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
class TestBoard:
    def test_is_provisioned_with_a_stable_name(self, board: dict[str, Any]) -> None:
        assert board["id"] is None
        assert re.fullmatch(r"pigeonhole-[a-z]+", board["uid"])
        assert board["title"].startswith("Pigeonhole: ")
        assert board["description"]

    def test_cannot_be_edited_away_from_the_code(self, board: dict[str, Any]) -> None:
        assert board["editable"] is False

    def test_data_source_job_and_instance_can_be_chosen(self, board: dict[str, Any]) -> None:
        source, job, instance = board["templating"]["list"]

        assert (source["name"], source["type"], source["query"]) == (
            "datasource",
            "datasource",
            "prometheus",
        )
        for variable in (job, instance):
            assert variable["datasource"]["uid"] == "${datasource}"
            assert variable["type"] == "query"
            assert variable["query"].startswith("label_values(")
            assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (
                True,
                True,
                ".+",
            )
            assert variable["refresh"] == 2, "instances come and go with the time range"
        assert (job["name"], instance["name"]) == ("job", "instance")

    def test_every_panel_says_what_it_shows(self, board: dict[str, Any]) -> None:
        titles = [panel["title"] for panel in panels(board)]

        assert len(titles) == len(set(titles))
        for panel in panels(board):
            assert panel["title"]
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]

    def test_every_panel_asks_the_chosen_data_source(self, board: dict[str, Any]) -> None:
        for panel in panels(board):
            assert panel["targets"], panel["title"]
            for part in (panel, *panel["targets"]):
                assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            letters = [target["refId"] for target in panel["targets"]]
            assert len(letters) == len(set(letters))

    def test_lines_have_legends(self, board: dict[str, Any]) -> None:
        for panel in panels(board):
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]

    def test_grafanas_own_thresholds_are_on_no_panel(self, board: dict[str, Any]) -> None:
        for panel in panels(board):
            steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
            assert steps[0] == {"color": "green", "value": None}
            assert 80 not in [step["value"] for step in steps], panel["title"]

    def test_no_panel_lies_over_another(self, board: dict[str, Any]) -> None:
        ids = [panel["id"] for panel in board["panels"]]
        places = [panel["gridPos"] for panel in board["panels"]]

        assert len(ids) == len(set(ids))
        assert all(place["x"] + place["w"] <= 24 for place in places)
        for one, other in combinations(places, 2):
            assert (
                one["x"] + one["w"] <= other["x"]
                or other["x"] + other["w"] <= one["x"]
                or one["y"] + one["h"] <= other["y"]
                or other["y"] + other["h"] <= one["y"]
            ), (one, other)


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: f"{asked.board}: {asked.title}")
class TestQuery:
    def test_asks_for_metrics_that_exist(
        self,
        asked: Asked,
        selectors: Callable[[str], list[Any]],
        known_names: frozenset[str],
    ) -> None:
        found = {selector.name for selector in selectors(parsable(asked.expr))}

        assert found
        assert found <= known_names

    def test_is_about_the_chosen_jobs_and_instances(
        self, asked: Asked, selectors: Callable[[str], list[Any]]
    ) -> None:
        for selector in selectors(parsable(asked.expr)):
            matched = {matcher.name for matcher in selector.matchers.matchers}
            # What is recorded for all processes together has neither.
            assert {"job", "instance"} <= matched or selector.name.startswith("pigeonhole:")

    def test_its_range_follows_the_zoom_or_is_said_in_the_title(self, asked: Asked) -> None:
        assert "$__interval" not in asked.expr
        for fixed in re.findall(r"\[(\d+\w)\]", asked.expr):
            assert {"1h": "hour", "24h": "24 h"}[fixed] in asked.title

    def test_a_counter_is_only_asked_how_fast_it_grows(self, asked: Asked) -> None:
        bare = re.sub(r"(rate|increase|count)\([^()]*\)", "", parsable(asked.expr))

        assert not re.findall(r"\b\w+_(?:total|bucket|sum|count)\{", bare)

    def test_a_quantile_keeps_the_bounds_of_the_buckets(self, asked: Asked) -> None:
        if "histogram_quantile" in asked.expr:
            assert re.search(r"by \([^)]*\ble\b", asked.expr)

    def test_returns_the_labels_of_its_legend(self, asked: Asked) -> None:
        for label in re.findall(r"\{\{(\w+)\}\}", asked.legend):
            assert re.search(rf"by \([^)]*\b{label}\b", asked.expr)


def test_the_files_are_json_that_grafana_reads(repository: Path) -> None:
    for file in (repository / "monitoring/grafana/dashboards").iterdir():
        assert json.loads(file.read_text("utf-8"))["schemaVersion"] >= 36
