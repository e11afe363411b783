"""A stranger's zip, read with suspicion: what is safe to unpack, and where it belongs.

Understood are the folders train, valid and test (also Training, val, validation, test_set ...) with
a folder per class, class folders that hold the splits, and class folders alone; each at the top or
inside other folders. What is left out is told, but for what systems leave behind.
"""

import difflib
import hashlib
import lzma
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.params import Unzip
from pipeline.stage import StageError, counted, shown

SPLITS = ("train", "valid", "test")

_SPELLINGS = {
    "train": ("train", "training", "trainset"),
    "valid": ("valid", "val", "validation", "dev", "validset", "valset"),
    "test": ("test", "testing", "testset"),
}
_SPLIT_OF = {spelling: split for split, all_of in _SPELLINGS.items() for spelling in all_of}
_FILLERS = frozenset(("set", "data", "dataset", "images", "img", "imgs", "split", "folder"))

_JUNK = frozenset(("__macosx", "thumbs.db", "desktop.ini", ".ds_store"))
_DOCUMENTS = frozenset(
    (
        ".csv", ".db", ".doc", ".docx", ".htm", ".html", ".ini", ".ipynb", ".json", ".jsonl",
        ".lnk", ".log", ".mat", ".md", ".pdf", ".pickle", ".pkl", ".py", ".rtf", ".tsv", ".txt",
        ".url", ".xls", ".xlsx", ".xml", ".yaml", ".yml",
    )
)  # fmt: skip
_ARCHIVES = frozenset((".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"))

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED = 0x1
_ABSOLUTE = re.compile(r"/|[A-Za-z]:")
_MAX_NAME_BYTES = 255  # of a file or a folder, on nearly every disk

_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)
# First bytes of what people take for a zip.
_OTHER_KINDS = (
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x1f\x8b", "a gzip (.tar.gz?)"),
    (b"BZh", "a bzip2 (.tar.bz2?)"),
    (b"\xfd7zXZ", "an xz (.tar.xz?)"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"<", "a web page; was it downloaded whole?"),
)
_LAYOUT = (
    "Expected are folders train, valid and test with a folder of images per class, or a folder of "
    "images per class alone."
)

Parts = tuple[str, ...]


class Entry(NamedTuple):
    """One image: `name` is that of its file in the folder of its class, `info` its zip entry."""

    split: str
    label: str
    name: str
    info: zipfile.ZipInfo

    @property
    def path(self) -> str:
        """Where it belongs, relative to data/images."""
        return f"{self.split}/{self.label}/{self.name}"


class LeftOut(NamedTuple):
    """A file of the zip that is not used, and why."""

    member: str
    reason: str


class DamagedMemberError(Exception):
    """One file inside the zip cannot be read; the others may be whole."""


@dataclass(slots=True)
class Layout:
    """What a zip holds: the images, sorted, and what a user should know of the rest."""

    entries: list[Entry] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, info: zipfile.ZipInfo, reason: str) -> None:
        """Do without this file, and say so."""
        self.left_out.append(LeftOut(info.filename, reason))


class _Placed(NamedTuple):
    """A file whose split and class folder are known; both as the zip spells them."""

    split: str
    label: str
    inner: Parts
    info: zipfile.ZipInfo


_Member = tuple[Parts, zipfile.ZipInfo]


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip; what is wrong with the file itself becomes a `StageError`."""
    if path.is_dir():
        raise StageError(f"{path} is a folder. Pack it: (cd {path} && zip -r ../my.zip .)")
    if not path.is_file():
        raise StageError(f"{path} is not here. Name your zip in params.yaml, unzip.archive.")
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        with path.open("rb") as file:
            head = file.read(8)
        kind = next((kind for magic, kind in _OTHER_KINDS if head.startswith(magic)), None)
        if kind:
            raise StageError(f"{path} is {kind}, not a zip. Pack the images as a zip.") from error
        reason = shown(str(error))
        raise StageError(f"{path} is damaged or not a zip ({reason}). Pack it again.") from error
    with archive:
        yield archive


def chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The bytes of a member, piece by piece, checked by CRC; raises `DamagedMemberError`."""
    try:
        with archive.open(info) as file:
            while chunk := file.read(1 << 20):
                yield chunk
    except _DAMAGED as error:
        raise DamagedMemberError(f"damaged inside the zip ({shown(str(error))})") from error


def images(archive: zipfile.ZipFile) -> list[Entry]:
    """Every image of a zip, as `layout` finds them."""
    return layout(archive).entries


def layout(archive: zipfile.ZipFile) -> Layout:
    """What is where; raises `StageError` if a member is unsafe or the folders not understood.

    Images of class folders alone are all in train: `pipeline.split` cuts valid and test from it.
    """
    found = Layout()
    members, folders = _members(archive, found)
    if not members:
        raise StageError(f"{_nothing_in(archive)} {_LAYOUT}")
    depth = _outer_folders(members)
    placed = _placed(members, depth, found)
    if not placed:
        raise StageError(f"no image is in the folder of a class. {_LAYOUT}\n{tree(members)}")
    spelled = _spelled_labels(placed, found)
    _note_empty_folders(folders, depth, spelled, found)
    known = {spelled[one.label] for one in placed if one.split == "train"}
    placed = _of_known_classes(placed, spelled, known, found)
    if len(known) < 2:
        raise StageError(
            f"a classifier needs images of two or more classes in train; here "
            f"{_listed(known) or 'none'}. {_LAYOUT}\n{tree(members)}"
        )
    found.entries = sorted(_named(placed, spelled, found), key=lambda entry: entry[:3])
    found.left_out.sort()
    return found


def check_limits(archive: zipfile.ZipFile, limits: Unzip) -> None:
    """Refuse a bomb by the sizes that it declares: `zipfile` never unpacks more than declared."""
    count = len(archive.infolist())
    total = sum(info.file_size for info in archive.infolist())
    packed = max(1, sum(info.compress_size for info in archive.infolist()))
    for key, value, limit in (
        ("max_files", count, limits.max_files),
        ("max_total_bytes", total, limits.max_total_bytes),
        ("max_ratio", total // packed, limits.max_ratio),
    ):
        if value > limit:
            raise StageError(
                f"{archive.filename}: {value:,} is above the limit unzip.{key} = {limit:,}. "
                "Raise it in params.yaml if you trust this zip."
            )


def tree(members: Iterable[_Member], most: int = 24) -> str:
    """The folders of a zip with the number of files in each, as an indented list."""
    counts = Counter(parts[:-1] for parts, _ in members)
    folders = {folder[:depth] for folder in counts for depth in range(1, len(folder) + 1)}
    if () in counts:
        folders.add(())
    lines = [
        "  " * len(folder)
        + (f"{shown(folder[-1])}/" if folder else "(top)")
        + (f"  {counted(counts[folder], 'file')}" if folder in counts else "")
        for folder in sorted(folders)
    ]
    more = [f"  ... and {len(lines) - most:,} more folders"] if len(lines) > most else []
    return "\n".join(["What was seen:", *lines[:most], *more])


def _members(archive: zipfile.ZipFile, found: Layout) -> tuple[list[_Member], list[Parts]]:
    """The files that may be images, and the folders that the zip names."""
    members, folders = [], []
    for info in archive.infolist():
        parts = _safe_parts(info)
        if _is_junk(parts):
            continue
        if info.is_dir():
            folders.append(parts)
        elif reason := _not_an_image(parts):
            found.leave_out(info, reason)
        else:
            members.append((parts, info))
    return members, folders


def _safe_parts(info: zipfile.ZipInfo) -> Parts:
    """The path of a member; raises `StageError` if it leaves the folder or is no plain file."""
    name = unicodedata.normalize("NFC", info.filename.replace("\\", "/"))
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if _ABSOLUTE.match(name) or ".." in parts:
        raise StageError(f"the zip is unsafe: {info.filename!r} points outside its folder.")
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR and not info.is_dir()):
        raise StageError(f"the zip is unsafe: {info.filename!r} is a link or a device, not a file.")
    if info.flag_bits & _ENCRYPTED:
        raise StageError(f"{info.filename!r} is locked by a password. Pack the zip without one.")
    if info.compress_type not in _METHODS:
        raise StageError(
            f"{info.filename!r} is packed by method {info.compress_type} (9 is Deflate64, which "
            "Windows takes for large files), which cannot be read here. Pack with zip or 7-Zip, "
            "method Deflate."
        )
    return parts


def _is_junk(parts: Parts) -> bool:
    """What systems leave behind, and whatever is in a hidden folder."""
    hidden_folder = any(part.startswith(".") for part in parts[:-1])
    return hidden_folder or any(p.casefold() in _JUNK or p.startswith("._") for p in parts)


def _not_an_image(parts: Parts) -> str | None:
    """Why this file is not even tried; the first bytes of any other are looked at later."""
    suffix = PurePosixPath(parts[-1]).suffix.lower() if parts else ""
    if not parts or parts[-1].startswith("."):
        return "hidden"
    if suffix in _ARCHIVES:
        return "an archive inside the archive"
    return f"not an image ({suffix})" if suffix in _DOCUMENTS else None


def _nothing_in(archive: zipfile.ZipFile) -> str:
    """Why there is no image, in one sentence."""
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    if not names:
        return "the zip is empty."
    inner = [name for name in names if PurePosixPath(name).suffix.lower() in _ARCHIVES]
    if inner:
        return (
            f"the zip holds other archives ({_listed(inner)}). Unpack that and use what is in it."
        )
    return f"the zip holds no images, only {_listed(names)}."


def _outer_folders(members: list[_Member]) -> int:
    """How many folders merely hold everything, as `dataset/` in `dataset/train/cat/1.png`."""
    depth = 0
    while True:
        deeper = [parts[depth:] for parts, _ in members if len(parts) > depth + 1]
        tops = {parts[0] for parts in deeper}
        has_folders_inside = any(len(parts) > 2 for parts in deeper)
        if len(tops) != 1 or split_named(next(iter(tops))) or not has_folders_inside:
            return depth
        depth += 1


def split_named(folder: str) -> str | None:
    """The split that a folder's name means: train of `Training`, `train_set` or `Train images`."""
    words = [w for w in re.findall(r"[^\W\d_]+", folder.casefold()) if w not in _FILLERS]
    return _SPLIT_OF.get(words[0]) if len(words) == 1 else None


def _placed(members: list[_Member], depth: int, found: Layout) -> list[_Placed]:
    """Each image with its split and class; what is in no class folder is left out."""
    inside: list[_Member] = []
    for parts, info in members:
        if len(parts) > depth + 1:
            inside.append((parts[depth:], info))
        else:
            found.leave_out(info, "in no folder of a class")
    if any(split_named(parts[0]) for parts, _ in inside):
        return _in_splits(inside, members, found)
    if all(len(parts) == 3 and split_named(parts[1]) for parts, _ in inside):
        return [_Placed(split_named(p[1]) or "", p[0], p[2:], info) for p, info in inside]
    if any(split_named(part) for parts, _ in inside for part in parts[1:-1]):
        raise StageError(f"folders of splits are not side by side. {_LAYOUT}\n{tree(members)}")
    found.notes.append("The zip has class folders alone: valid and test are cut from them.")
    return [_Placed("train", parts[0], parts[1:], info) for parts, info in inside]


def _in_splits(inside: list[_Member], members: list[_Member], found: Layout) -> list[_Placed]:
    placed = []
    elsewhere = sorted({parts[0] for parts, _ in inside if not split_named(parts[0])})
    if elsewhere:
        raise StageError(
            f"beside the folders of splits there are images in {_listed(elsewhere)}. Is that a "
            f"split, or are these classes? {_LAYOUT}\n{tree(members)}"
        )
    for (top, *rest), info in inside:
        split = split_named(top) or ""
        # As in training_set/training_set/cat/1.png, which some tools write.
        inner = tuple(rest[1:] if len(rest) > 2 and split_named(rest[0]) == split else rest)
        if len(inner) < 2:
            found.leave_out(info, f"in {split}, but in no folder of a class")
        else:
            placed.append(_Placed(split, inner[0], inner[1:], info))
    return placed


def _spelled_labels(placed: list[_Placed], found: Layout) -> dict[str, str]:
    """How each class folder is written from now on: as most of the images in train have it."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for one in placed:
        # One image in train weighs more than all in valid and test.
        spellings[_folded(one.label)][one.label] += len(placed) if one.split == "train" else 1
    spelled = {}
    for counts in spellings.values():
        best = min(counts, key=lambda label: (-counts[label], label))
        for label in counts:
            spelled[label] = best.strip()
            if label.strip() != best.strip():
                found.notes.append(
                    f"The folder {shown(label)} is taken for the class {shown(best)}: only upper "
                    "and lower case differ."
                )
        _check_label(best.strip())
    return spelled


def _folded(label: str) -> str:
    return unicodedata.normalize("NFC", label.strip().casefold())


def _check_label(label: str) -> None:
    """Refuse what cannot be a line of labels.txt or a folder of sorted images."""
    odd = any(unicodedata.category(character) in ("Cc", "Cs") for character in label)
    if odd or not label or label.splitlines() != [label]:
        raise StageError(f"a class folder is named {label!r}, which cannot be a label. Rename it.")
    if len(label.encode()) > _MAX_NAME_BYTES:
        raise StageError(f"the name of the class folder {shown(label)} is too long. Shorten it.")


def _note_empty_folders(
    folders: list[Parts], depth: int, spelled: dict[str, str], found: Layout
) -> None:
    """Name the class folders in which there is no image: they do not become classes."""
    for parts in sorted(folders):
        inner = parts[depth:]
        label = inner[1:2] if inner and split_named(inner[0]) else inner[:1]
        is_class_folder = bool(label) and inner[-1] == label[0]
        if is_class_folder and not split_named(label[0]) and label[0] not in spelled:
            found.notes.append(f"The folder {shown('/'.join(inner))} holds no image: no class.")


def _of_known_classes(
    placed: list[_Placed], spelled: dict[str, str], known: set[str], found: Layout
) -> list[_Placed]:
    """Leave out the classes that train lacks: they cannot be learned."""
    kept = []
    lost = Counter[str]()
    for one in placed:
        label = spelled[one.label]
        if label in known:
            kept.append(one)
        else:
            lost[label] += 1
            found.leave_out(one.info, f"of class {shown(label)}, which train does not have")
    for label, count in sorted(lost.items()):
        close = difflib.get_close_matches(label, known, 1, 0.8)
        hint = f" Is it {shown(close[0])}?" if close else ""
        found.notes.append(
            f"The class {shown(label)} is not in train, so {counted(count, 'image')} of it in "
            f"valid and test cannot be used.{hint}"
        )
    return kept


def _named(placed: list[_Placed], spelled: dict[str, str], found: Layout) -> Iterator[Entry]:
    """Give each image a file name that every disk takes and that no other has."""
    taken: set[tuple[str, str, str]] = set()
    for one in sorted(placed, key=lambda one: (one.split, one.label, one.inner)):
        label = spelled[one.label]
        wanted = "__".join(one.inner)
        name = _short(wanted)
        if name != wanted:
            found.notes.append(f"{shown(one.info.filename)} has too long a name: it is {name} now.")
        number = 1
        while (one.split, label, name.casefold()) in taken:
            number += 1
            path = PurePosixPath(_short(wanted))
            name = f"{path.stem} ({number}){path.suffix}"
        if number > 1:
            found.notes.append(
                f"{shown(one.info.filename)} has the name of another: it is {shown(name)} now."
            )
        taken.add((one.split, label, name.casefold()))
        yield Entry(one.split, label, name, one.info)


def _short(name: str) -> str:
    """A name that fits on a disk, with room for a number."""
    if len(name.encode()) <= _MAX_NAME_BYTES - 8:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    suffix = PurePosixPath(name).suffix
    suffix = suffix if len(suffix.encode()) <= 10 else ""
    return name.encode()[:100].decode("utf-8", "ignore") + f"~{digest}{suffix}"


def _listed(names: Iterable[str], most: int = 8) -> str:
    """Names in one line, not too many."""
    ordered = sorted(names)
    more = [f"{len(ordered) - most:,} more"] if len(ordered) > most else []
    return ", ".join([*map(shown, ordered[:most]), *more])
