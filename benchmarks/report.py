"""JSON to words: `python -m benchmarks.report` writes the tables of docs/performance.md."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.models import INT8, MEANING

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def main() -> None:
    """Replace what stands between the two marks of the page."""
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text(RESULTS)}\n{END}{after}", "utf-8")


def text(results: Path) -> str:
    """Every part that was measured, as Markdown."""
    lines: list[str] = []
    for part, tables in _TABLES.items():
        file = results / f"{part}.json"
        if file.is_file():
            run = json.loads(file.read_text("utf-8"))
            lines += [*tables(run["found"]), "", _where(run), ""]
    return "\n".join(lines)


def _where(run: dict[str, Any]) -> str:
    machine = run["machine"]
    quick = " A quick run: few images, one round." if run["quick"] else ""
    return (
        f"*{machine['at']}, {machine['cores']} cores of {machine['processor']}, load before "
        f"{machine['load_before']}; {run['photos']}; ONNX Runtime {machine['onnxruntime']}, torch "
        f"{machine['torch']}; took {run['took_s']:.0f} s.{quick}*"
    )


def _folder(found: dict[str, Any]) -> Iterator[str]:
    yield f"### Folder: {found['images']} photographs dropped, until all are recorded and filed"
    yield from _row("", "images/s", "of the limit", "Pigeonhole is")
    yield from _rule(4)
    for model, figures in found["images_per_s"].items():
        ours, limit = figures["Pigeonhole"], figures["limit"]
        yield from _row(f"**{MEANING[model]}**", "", "", "")
        for name, per_s in figures.items():
            share = f"{per_s / limit:.2f}"
            times = "" if name in ("limit", "Pigeonhole") else f"{ours / per_s:.1f} times as fast"
            yield from _row(name, f"{per_s:.0f}", share, times)


def _serving(found: dict[str, Any]) -> Iterator[str]:
    yield "### API beside its peers, same model, photographs and client"
    yield (
        "`torch`: eager, default threads, as its users have it. `onnx`: given the very graph and "
        "runtime of our bundle. Ours also keeps each photo and commits its row before it answers; "
        "the peers keep nothing, and neither do we with `store=false`."
    )
    for model, by_name in found["models"].items():
        yield ""
        yield f"**{MEANING[model]}**"
        yield ""
        yield from _row("", "1 client, req/s", "p99 ms", "8, req/s", "p99", "32, req/s", "p99",
                        "errors", "ready s", "memory MB")  # fmt: skip
        yield from _rule(10)
        for name, run in by_name.items():
            cells = [name]
            for clients in (1, 8, 32):
                cells += [f"{run[f'c{clients}_per_s']:.0f}", f"{run[f'c{clients}_p99_ms']:.0f}"]
            errors = sum(run[f"c{clients}_errors"] for clients in (1, 8, 32))
            cells += [f"{errors:.0f}", f"{run['ready_s']:.1f}", f"{run['loaded_mb']:.0f}"]
            yield from _row(*cells)
        with_peers = found["models"].get(model.removesuffix(INT8), {}) | by_name
        for name in by_name:
            if name.startswith("Pigeonhole"):
                yield from _ratios(name, with_peers, "torch" if model.endswith(INT8) else None)
    for name, why in found["absent"].items():
        yield f"\n{name} is absent: {why}"


def _ratios(ours: str, by_name: dict[str, dict[str, float]], only: str | None) -> Iterator[str]:
    """How many times as many requests we answer as the best peer of each kind."""
    for runtime in (only,) if only else ("torch", "onnx"):
        peers = [run for name, run in by_name.items() if name.endswith(f", {runtime}")]
        if peers:
            ratios = [
                f"{by_name[ours][f'c{n}_per_s'] / max(peer[f'c{n}_per_s'] for peer in peers):.2f}"
                for n in (1, 8, 32)
            ]
            yield ""
            times = ", ".join(ratios)
            yield f"{ours}: times the best peer with {runtime}, at 1, 8 and 32 clients: {times}."


def _startup(found: dict[str, Any]) -> Iterator[str]:
    yield "### Start and rest, starter model"
    yield from _row("", "first start, with a new database, s", "ready after s", "memory at rest MB")
    yield from _rule(4)
    for command, run in found.items():
        yield from _row(
            f"`pigeonhole {command}`",
            f"{run['first_s']:.2f}",
            f"{run['ready_s']:.2f}",
            f"{run['rest_mb']:.0f}",
        )


def _latency(found: dict[str, Any]) -> Iterator[str]:
    yield "### One image on an idle machine, until its row is committed"
    yield from _row("", "p50 ms", "p99 ms")
    yield from _rule(3)
    for model, ways in found["models"].items():
        for way, run in ways.items():
            yield from _row(
                f"{way}, {MEANING[model]}", f"{run['p50_ms']:.0f}", f"{run['p99_ms']:.0f}"
            )


def _scale(found: dict[str, Any]) -> Iterator[str]:
    sizes = list(found["rows"])
    yield "### A million rows"
    yield from _row("ms", *(f"{int(size):,} rows" for size in sizes))
    yield from _rule(1 + len(sizes))
    for step in found["rows"][sizes[0]]["ms"]:
        yield from _row(step, *(f"{found['rows'][size]['ms'][step]:.1f}" for size in sizes))
    yield ""
    yield (
        f"With {found['waiting_files']:,} files waiting, the first batch was committed "
        f"{found['first_batch_s']:.1f} s after the command. How SQLite finds rows there:"
    )
    yield ""
    for query, plan in found["rows"][sizes[-1]]["plans"].items():
        yield f"    {query}"
        for line in plan:
            yield f"        {line}"


def _preparing(found: dict[str, Any]) -> Iterator[str]:
    yield "### Images prepared for training, per second"
    yield from _row("", *found)
    yield from _rule(1 + len(found))
    for who in next(iter(found.values())):
        yield from _row(who, *(f"{by_who[who]:.0f}" for by_who in found.values()))


def _row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


def _rule(columns: int) -> Iterator[str]:
    yield f"|{'---|' * columns}"


_TABLES: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "a": _folder,
    "b": _serving,
    "c": _startup,
    "d": _latency,
    "e": _scale,
    "f": _preparing,
}

if __name__ == "__main__":
    main()
