"""`pigeonhole models show`: what a model is and where it came from."""

from pathlib import Path
from typing import Any

from core.bundle import STARTER, Manifest, locate, read_manifest
from core.errors import BundleError
from core.settings import Settings
from pigeonhole.terminal import cell, plain_table, print_json, print_table
from storage.export import to_json


def run(version: str | None, *, as_json: bool) -> int:
    """Print one model: the one that serves, or the one of this version."""
    manifest = _find(Settings.read().home, version)
    if as_json:
        print_json(manifest.to_dict())
        return 0
    table = plain_table("", "")
    table.show_header = False
    for name, value in _lines(manifest):
        table.add_row(cell(name, "bold"), cell(value))
    print_table(table)
    return 0


def _find(home: Path, version: str | None) -> Manifest:
    serving = read_manifest(locate(home))
    if version in (None, serving.version):
        return serving
    starter = read_manifest(STARTER)
    if version == starter.version:
        return starter
    raise BundleError(
        f"There is no model of version {version}. {serving.version} serves, "
        f"{starter.version} is the starter."
    )


def _lines(manifest: Manifest) -> list[tuple[str, str]]:
    lines = [
        ("name", manifest.name),
        ("version", manifest.version),
        ("labels", f"{len(manifest.labels)}: {', '.join(manifest.labels)}"),
        ("temperature", f"{manifest.temperature:g}"),
    ]
    for heading, values in (
        ("recipe", manifest.recipe.to_dict()),
        ("metrics", manifest.metrics),
        ("lineage", manifest.lineage),
    ):
        lines += [(f"{heading}.{name}", _value(value)) for name, value in values.items()]
    return lines


def _value(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    return value if isinstance(value, str) else to_json(value)
