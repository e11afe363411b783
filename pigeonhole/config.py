"""`pigeonhole config`: every setting, its value and where it came from."""

from core.settings import Settings, sources
from pigeonhole.terminal import cell, plain_table, print_json, print_table


def run(*, as_json: bool) -> int:
    """Print the settings; keys and passwords are masked."""
    found = list(sources(Settings.read()))
    if as_json:
        print_json(
            {
                item.variable: {
                    "value": item.value,
                    "origin": item.origin,
                    "meaning": item.meaning,
                }
                for item in found
            }
        )
        return 0
    table = plain_table("setting", "value", "from", "meaning")
    for item in found:
        style = "" if item.origin == "default" else "bold"
        table.add_row(
            cell(item.variable, style), cell(item.value, style), item.origin, item.meaning
        )
    print_table(table)
    return 0
