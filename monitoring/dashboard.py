"""Panels and dashboards as Grafana reads them from provisioned files; `boards` has ours."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

TAG = "pigeonhole"
WIDTH = 24  # of Grafana's grid
_SELECTED = 'job=~"$job", instance=~"$instance"'
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Kind = Literal["timeseries", "stat", "bargauge"]


class Query(NamedTuple):
    """PromQL, in which `@` stands for the jobs and instances that are chosen, and its legend."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture, of one or more queries."""

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    is_stacked: bool = False  # lines that add up to a whole
    least: float | None = 0
    most: float | None = None
    steps: Sequence[tuple[str, float]] = ()  # (colour, from this value on)

    def to_dict(self, number: int, x: int, y: int) -> dict[str, Any]:
        """As Grafana reads it."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": _SOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": _OPTIONS[self.kind],
            "targets": [
                self._target(letter, expr, legend)
                for letter, (expr, legend) in zip("ABCDEFGH", self.queries, strict=False)
            ],
        }

    def _target(self, letter: str, expr: str, legend: str) -> dict[str, Any]:
        is_now = self.kind != "timeseries"
        return {
            "refId": letter,
            "datasource": _SOURCE,
            "editorMode": "code",
            "expr": expr.replace("@", _SELECTED),
            "legendFormat": legend,
            "instant": is_now,
            "range": not is_now,
            "format": "time_series",
        }

    def _defaults(self) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        steps += [{"color": color, "value": value} for color, value in self.steps]
        defaults: dict[str, Any] = {
            "unit": self.unit,
            "color": {"mode": "palette-classic" if self.kind != "stat" else "thresholds"},
            "thresholds": {"mode": "absolute", "steps": steps},
            "mappings": [],
        }
        if self.least is not None:
            defaults["min"] = self.least
        if self.most is not None:
            defaults["max"] = self.most
        if self.kind == "timeseries":
            defaults["custom"] = {
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": 25 if self.is_stacked else 8,
                "showPoints": "never",
                "spanNulls": False,
                "stacking": {"mode": "normal" if self.is_stacked else "none", "group": "A"},
                "thresholdsStyle": {"mode": "line" if self.steps else "off"},
            }
        return defaults


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page of panels under headings."""

    uid: str
    title: str
    description: str
    rows: Mapping[str, Sequence[Panel]]  # by heading
    since: str = field(default="now-1h")

    def to_dict(self) -> dict[str, Any]:
        """As Grafana reads it from a provisioned file."""
        return {
            "id": None,
            "uid": f"pigeonhole-{self.uid}",
            "title": self.title,
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": 39,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": "30s",
            "time": {"from": self.since, "to": "now"},
            "timepicker": {},
            "annotations": {"list": []},
            "links": [_link()],
            "templating": {"list": _variables()},
            "panels": list(self._panels()),
        }

    def _panels(self) -> list[dict[str, Any]]:
        panels: list[dict[str, Any]] = []
        y = 0
        for heading, row in self.rows.items():
            panels.append(_heading(heading, len(panels) + 1, y))
            y, x, tallest = y + 1, 0, 0
            for panel in row:
                if x + panel.width > WIDTH:
                    y, x, tallest = y + tallest, 0, 0
                panels.append(panel.to_dict(len(panels) + 1, x, y))
                x, tallest = x + panel.width, max(tallest, panel.height)
            y += tallest
        return panels


def render(dashboard: Dashboard) -> str:
    """One provisioned file."""
    return json.dumps(dashboard.to_dict(), indent=2, ensure_ascii=False) + "\n"


# --- what Grafana wants around them --------------------------------------------------------------

_LEGEND = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
_OPTIONS: dict[Kind, dict[str, Any]] = {
    "timeseries": {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
    },
    "bargauge": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "displayMode": "basic",
        "orientation": "horizontal",
        "showUnfilled": True,
        "valueMode": "color",
        "text": {"titleSize": 14, "valueSize": 18},  # else long labels lose their ends
    },
}


def _heading(title: str, number: int, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
        "panels": [],
    }


def _variables() -> list[dict[str, Any]]:
    source = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {"text": "Prometheus", "value": "prometheus"},
        "refresh": 1,
        "regex": "",
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "options": [],
    }
    return [
        source,
        _variable("job", "Job", "label_values(pigeonhole_model_info, job)"),
        _variable(
            "instance", "Instance", 'label_values(pigeonhole_model_info{job=~"$job"}, instance)'
        ),
    ]


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": query,
        "current": {"text": "All", "value": "$__all"},
        "includeAll": True,
        "allValue": ".+",
        "multi": True,
        "refresh": 2,  # when the time range changes: instances come and go
        "regex": "",
        "sort": 1,
        "hide": 0,
        "options": [],
    }


def _link() -> dict[str, Any]:
    return {
        "title": "Pigeonhole",
        "type": "dashboards",
        "tags": [TAG],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }
