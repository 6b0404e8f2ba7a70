"""Pictures out of zip archives in the layout the SLIP paper's code reads.

The photograph of line 12345678 of YFCC100M's metadata is member `678.jpg` of `12/345.zip` (below `images/` in that
code; both are found). In come line numbers, out come the members' bytes or why there are none. What the bytes are
worth is judged in `sources`.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.fetch.sources import Rejected
from pipeline.records import Reason

MAX_LINE = 10**8
"""Lines have eight digits; YFCC100M has exactly 100,000,000."""
MAX_MEMBER_BYTES = 256 * 2**20
"""Longer members are not unpacked: a few bytes of a zip archive can announce gigabytes."""

# Whatever zipfile raises on damaged archives: NotImplementedError for methods it lacks, RuntimeError for a password.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    struct.error,
)


def member_of(line: int) -> tuple[str, str]:
    """Archive and member of a line: 12345678 -> ("12/345.zip", "678.jpg"), 7 -> ("00/000.zip", "007.jpg")."""
    digits = f"{line:08d}"
    return f"{digits[:2]}/{digits[2:5]}.zip", f"{digits[5:]}.jpg"


def read_zips(root: Path, lines: Sequence[int]) -> Iterator[tuple[int, bytes | Rejected]]:
    """Index into `lines` and picture (or why there is none), in the order of the lines; each archive is opened once."""
    order = sorted(range(len(lines)), key=lines.__getitem__)
    archive: zipfile.ZipFile | Rejected | None = None
    opened = ""
    try:
        for index in order:
            line = lines[index]
            if not 0 <= line < MAX_LINE:
                found = "unknown" if line < 0 else str(line)
                yield (
                    index,
                    Rejected(reason=Reason.MISSING_FILE, detail=f"line number {found}, so no archive to look in"),
                )
                continue
            name, member = member_of(line)
            if name != opened:
                if isinstance(archive, zipfile.ZipFile):
                    archive.close()
                archive, opened = _open(root, name), name
            assert archive is not None
            yield index, archive if isinstance(archive, Rejected) else _read(archive, name, member)
    finally:
        if isinstance(archive, zipfile.ZipFile):
            archive.close()


def _open(root: Path, name: str) -> zipfile.ZipFile | Rejected:
    for path in (root / name, root / "images" / name):
        try:
            return zipfile.ZipFile(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except _DAMAGE as error:
            return Rejected(reason=Reason.TRUNCATED, detail=f"archive {name} is damaged: {_text(error)}")
        except OSError as error:
            return Rejected(reason=Reason.MISSING_FILE, detail=f"archive {name}: {_text(error)}")
    return Rejected(reason=Reason.MISSING_FILE, detail=f"no archive {name}")


def _read(archive: zipfile.ZipFile, name: str, member: str) -> bytes | Rejected:
    where = f"{member} in {name}"
    try:
        info = archive.getinfo(member)
    except KeyError:
        return Rejected(reason=Reason.MISSING_FILE, detail=f"no {where}")
    if info.file_size > MAX_MEMBER_BYTES:
        return Rejected(reason=Reason.BOMB, detail=f"{where} announces {info.file_size} bytes")
    try:
        return archive.read(info)
    except _DAMAGE as error:
        return Rejected(reason=Reason.TRUNCATED, detail=f"{where} is damaged: {_text(error)}")
    except OSError as error:
        return Rejected(reason=Reason.TRUNCATED, detail=f"{where} cannot be read: {_text(error)}")


def _text(error: BaseException) -> str:
    """The error without paths, which differ between machines."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return " ".join((text or type(error).__name__).split())[:120]
