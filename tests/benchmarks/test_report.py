"""What `make bench` says is what it measured."""

import json
from pathlib import Path

from benchmarks import report
from benchmarks.measure import interleaved, quantiles_ms

MACHINE = {
    "at": "2026-01-01 12:00", "cores": 2, "processor": "a CPU", "load_before": 0.1,
    "onnxruntime": "1", "torch": "2",
}  # fmt: skip


def write(folder: Path, part: str, found: object) -> None:
    run = {"machine": MACHINE, "photos": "9 photographs", "quick": False, "took_s": 1.0}
    (folder / f"{part}.json").write_text(json.dumps({**run, "found": found}))


def test_the_folder_is_shown_beside_its_limit_and_the_plain_scripts(tmp_path: Path) -> None:
    per_s = {"limit": 100.0, "Pigeonhole": 95.0, "PIL + torch, one by one": 19.0}
    write(tmp_path, "a", {"images": 9, "images_plain": 9, "images_per_s": {"cnn": per_s}})

    text = report.text(tmp_path)

    assert "| Pigeonhole | 95 | 0.95 |  |" in text
    assert "| PIL + torch, one by one | 19 | 0.19 | 5.0 times as fast |" in text
    assert "2 cores of a CPU" in text


def test_ratios_are_to_the_best_peer_and_an_absent_one_is_named(tmp_path: Path) -> None:
    def run(per_s: float) -> dict[str, float]:
        by_clients = {
            f"c{clients}_{name}": value
            for clients in (1, 8, 32)
            for name, value in (("per_s", per_s), ("p99_ms", 9.0), ("errors", 0.0))
        }
        return {**by_clients, "ready_s": 1.0, "loaded_mb": 100.0}

    by_name = {"Pigeonhole": run(60), "A, torch": run(10), "B, torch": run(20), "A, onnx": run(40)}
    write(tmp_path, "b", {"models": {"cnn": by_name}, "absent": {"C, torch": "pip: no network"}})

    text = report.text(tmp_path)

    assert "best peer with torch, at 1, 8 and 32 clients: 3.00, 3.00, 3.00." in text
    assert "best peer with onnx, at 1, 8 and 32 clients: 1.50, 1.50, 1.50." in text
    assert "C, torch is absent: pip: no network" in text


def test_a_part_that_was_not_measured_is_not_shown(tmp_path: Path) -> None:
    assert report.text(tmp_path) == ""


def test_rounds_are_interleaved_and_the_median_counts() -> None:
    order: list[str] = []
    figures = {"a": iter([1.0, 9.0, 2.0]), "b": iter([3.0, 3.0, 3.0])}

    def measured(name: str) -> float:
        order.append(name)
        return next(figures[name])

    found = interleaved(3, {name: lambda name=name: measured(name) for name in figures})

    assert order == ["a", "b"] * 3
    assert found == {"a": 2.0, "b": 3.0}


def test_quantiles_are_in_milliseconds() -> None:
    found = quantiles_ms([number / 1000 for number in range(1, 101)])

    assert round(found["p50_ms"]) in (50, 51)
    assert round(found["p99_ms"]) in (99, 100)
