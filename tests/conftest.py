"""What every test may ask for: a model that can be checked by hand, and painted images."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import onnx
import pytest
from PIL import Image
from sqlalchemy import text

from core import bundle
from core.recipe import Recipe
from storage.database import Database
from storage.schema import metadata
from storage.store import Store
from tests import postgresql

SEED = 20261122
SOAK_SEEDS = "1,2,3,4,5"
REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes start; see the Makefile


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="the long form of each guarantee")
    parser.addoption("--seeds", default=SOAK_SEEDS, help="of the long form; 1,2,3,4,5")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        is_long = metafunc.config.getoption("--soak")
        seeds = metafunc.config.getoption("--seeds").split(",") if is_long else [SEED]
        metafunc.parametrize("seed", [int(seed) for seed in seeds])


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether guarantees are proven in their long form (`make soak`)."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[object], None]:
    """Print a figure that was measured, past pytest's capture."""

    def say(figure: object) -> None:
        with capsys.disabled():
            print(f"\n{figure}")  # noqa: T201

    return say


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("PIGEONHOLE_"):
            monkeypatch.delenv(name)
    # One result in a hundred would need review, whatever a test expects of it.
    monkeypatch.setenv("PIGEONHOLE_AUDIT_SHARE", "0")
    monkeypatch.setenv("PIGEONHOLE_ALLOWED_HOSTS", "testserver")  # what TestClient calls itself


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout; not part of the project (see CONTRIBUTING.md)."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data to develop against: {folder} does not exist")
    return folder


def _onnx(nodes: Sequence[onnx.NodeProto], **constants: onnx.TensorProto) -> bytes:
    """A model of (N, 8, 8, 3) uint8 `images` to (N, 3) `logits`; `place` is height and width."""
    value, number = onnx.helper.make_tensor_value_info, onnx.TensorProto
    graph = onnx.helper.make_graph(
        nodes,
        "a model for tests",
        [value("images", number.UINT8, ["N", 8, 8, 3])],
        [value("logits", number.FLOAT, ["N", 3])],
        [onnx.helper.make_tensor("place", number.INT64, [2], [1, 2]), *constants.values()],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    weights: bytes = model.SerializeToString()
    return weights


@pytest.fixture(scope="session")
def rgb_model() -> bytes:
    """ONNX: (N, 8, 8, 3) uint8 to (N, 3) logits, which are the mean of each channel, 0..255."""
    node = onnx.helper.make_node
    return _onnx(
        [
            node("Cast", ["images"], ["floats"], to=onnx.TensorProto.FLOAT),
            node("ReduceMean", ["floats", "place"], ["logits"], keepdims=0),
        ]
    )


@pytest.fixture(scope="session")
def rgb_bundle(rgb_model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that names the brightest channel. All tests share it: copy it to alter it."""
    folder = tmp_path_factory.mktemp("bundles") / "rgb"
    bundle.write(
        folder,
        name="rgb",
        weights=rgb_model,
        labels=["red", "green", "blue"],
        recipe=Recipe(size_px=8, mean=(0, 0, 0), std=(1, 1, 1)),
        metrics={"test_accuracy": 1.0},
        lineage={"made_by": "tests/conftest.py"},
    )
    return folder


@pytest.fixture(scope="session")
def french_bundle(rgb_model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network in other words: a label says which of the two bundles answered."""
    folder = tmp_path_factory.mktemp("bundles") / "french"
    bundle.write(
        folder,
        name="french",
        weights=rgb_model,
        labels=["rouge", "vert", "bleu"],
        recipe=Recipe(size_px=8, mean=(0, 0, 0), std=(1, 1, 1)),
    )
    return folder


@pytest.fixture(scope="session")
def fragile_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It loads, for it answers black images, and breaks down over every other one."""
    node = onnx.helper.make_node
    weights = _onnx(
        [
            node("Cast", ["images"], ["indices"], to=onnx.TensorProto.INT64),
            node("Gather", ["table", "indices"], ["floats"], axis=0),  # a table of one place
            node("ReduceMean", ["floats", "place"], ["logits"], keepdims=0),
        ],
        table=onnx.helper.make_tensor("table", onnx.TensorProto.FLOAT, [1], [0.0]),
    )
    folder = tmp_path_factory.mktemp("bundles") / "fragile"
    bundle.write(
        folder,
        name="fragile",
        weights=weights,
        labels=["red", "green", "blue"],
        recipe=Recipe(size_px=8, mean=(0, 0, 0), std=(1, 1, 1)),
    )
    return folder


@pytest.fixture(scope="session")
def broken_bundle(rgb_model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole on disk, but its network has one answer less than it has labels."""
    folder = tmp_path_factory.mktemp("bundles") / "broken"
    bundle.write(
        folder,
        name="broken",
        weights=rgb_model,
        labels=["red", "green", "blue", "purple"],
        recipe=Recipe(size_px=8, mean=(0, 0, 0), std=(1, 1, 1)),
    )
    return folder


@pytest.fixture(scope="session")
def paint() -> Callable[..., bytes]:
    """`paint("red", (W, H), "JPEG", **how_to_save)`: the bytes of an image of one colour."""

    def paint(
        color: str | tuple[int, ...] = "red",
        size: tuple[int, int] = (32, 24),
        file_format: str = "PNG",
        mode: str = "RGB",
        **how_to_save: object,
    ) -> bytes:
        file = io.BytesIO()
        Image.new(mode, size, color).save(file, file_format, **how_to_save)
        return file.getvalue()

    return paint


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    """A real server on loopback, for all tests of this run."""
    with postgresql.running() as server:
        if server is None:
            pytest.skip("NOT TESTED: PostgreSQL; install Debian's package `postgresql`")
        yield server


@pytest.fixture(scope="session")
def _migrated_in_postgresql(postgresql_server: postgresql.Server) -> str:
    url = postgresql_server.create("for_each_test")
    Store.open(url).close()
    return url


@pytest.fixture
def empty_in_postgresql(_migrated_in_postgresql: str) -> str:
    """The URL of a migrated database without rows, on a real server."""
    with closing(Database(_migrated_in_postgresql)) as database, database.write() as connection:
        tables = ", ".join(table.name for table in metadata.sorted_tables)
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))
    return _migrated_in_postgresql
