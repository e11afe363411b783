"""`python -m monitoring`: write the rules and the dashboards that Prometheus and Grafana read."""

import sys
from pathlib import Path

from monitoring import boards, dashboard, rules

HERE = Path(__file__).resolve().parent


def generated() -> dict[Path, str]:
    """Every file that is written from code, below monitoring/."""
    files = {Path("prometheus/rules.yml"): rules.render()}
    for made in boards.dashboards():
        files[Path(f"grafana/dashboards/{made.uid}.json")] = dashboard.render(made)
    return files


def main() -> int:
    """Write them all."""
    for path, text in generated().items():
        (HERE / path).write_text(text, "utf-8")
        sys.stdout.write(f"monitoring/{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
