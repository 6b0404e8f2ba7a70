"""What passes between the stages of the build: reasons for rejection and table schemas.

A row of metadata ends as one sample or under exactly one `Reason`, so the funnel's numbers
always add up to the number of rows read.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa


class Reason(StrEnum):
    """Why a row did not become a sample. Listed in the order in which they are tried."""

    MALFORMED_ROW = "malformed_row"
    """The line has the wrong number of columns or a field that cannot be read."""
    NOT_IN_LIST = "not_in_list"
    """The subset list does not name this row. This is the filter at work, not a fault."""
    LIST_MISMATCH = "list_mismatch"
    """The list names the row's line number with another photo id: list and metadata disagree."""
    DUPLICATE_ROW = "duplicate_row"
    """A row with the same photo id came before."""
    VIDEO = "video"
    """The row is one of YFCC100M's videos."""
    NO_CAPTION = "no_caption"
    """Title and description are both empty once markup is removed."""
    JUNK_CAPTION = "junk_caption"
    """What text there is, is a file name, a date, camera boilerplate, a single word, or far too long."""
    NOT_ENGLISH = "not_english"
    """Variant `english`: no text that may serve as a caption is in English."""

    DEAD_LINK = "dead_link"
    """The server says the photograph is gone or private (HTTP 401, 403, 404, 410)."""
    PLACEHOLDER = "placeholder"
    """The server sent its picture for removed photographs instead."""
    SERVER_ERROR = "server_error"
    """The server kept answering with an error that may pass (HTTP 429, 5xx)."""
    UNREACHABLE = "unreachable"
    """No complete answer: time-out, reset, refused connection, unknown host."""
    TRUNCATED = "truncated"
    """The answer was shorter than announced, or the picture's data ends early."""
    MISSING_FILE = "missing_file"
    """A local picture, or a zip archive's member, is not where the row says."""
    NOT_AN_IMAGE = "not_an_image"
    """What came is not a JPEG, PNG or WebP picture (an HTML page, for example)."""
    TOO_SMALL = "too_small"
    """The picture's shorter side is under the limit."""
    WRONG_ASPECT = "wrong_aspect"
    """The picture is longer and narrower than allowed."""
    BOMB = "bomb"
    """The picture's header announces more pixels than allowed; it was not decoded."""
    DUPLICATE_IMAGE = "duplicate_image"
    """The picture's bytes are those of an earlier sample."""

    @property
    def can_heal(self) -> bool:
        """Whether asking again later may succeed."""
        return self in {Reason.SERVER_ERROR, Reason.UNREACHABLE, Reason.TRUNCATED, Reason.MISSING_FILE}


SELECT_REASONS = (
    Reason.MALFORMED_ROW,
    Reason.NOT_IN_LIST,
    Reason.LIST_MISMATCH,
    Reason.DUPLICATE_ROW,
    Reason.VIDEO,
    Reason.NO_CAPTION,
    Reason.JUNK_CAPTION,
    Reason.NOT_ENGLISH,
)
"""Reasons the select stage counts; the others belong to fetch."""

SELECTION_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # the sample's key in the shards: the photo id, or the user's own
        ("row", pa.int64()),  # 0-based position of the row in the metadata
        ("photo_id", pa.int64()),  # Flickr's; -1 when unknown
        ("line", pa.int64()),  # number of the line in YFCC100M's v2 file, by which archives name it; -1 when unknown
        ("bucket_key", pa.string()),  # name of the picture in the public bucket; "" when unknown
        ("url", pa.string()),  # where the picture is: http(s)://, file:///path, parquet:///path#row
        ("title", pa.string()),  # cleaned, "" when empty
        ("description", pa.string()),  # cleaned, "" when empty
        ("title_usable", pa.bool_()),  # natural language, as far as the rules can tell
        ("description_usable", pa.bool_()),
        ("user", pa.string()),  # nickname of the photographer, decoded: attribution needs it
        ("date_taken", pa.string()),
        ("page_url", pa.string()),
        ("license", pa.string()),
        ("license_url", pa.string()),
    ]
)
"""One selected row; `selection/part-NNNNN.parquet` holds the rows of unit NNNNN, one shard's worth."""

ATTEMPT_TYPE = pa.struct([("source", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
"""One source's answer; `reason` is "" when it gave a good picture."""

OUTCOME_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("row", pa.int64()),
        ("url", pa.string()),  # the selection's
        ("source", pa.string()),  # that gave the picture or the reason: "url", "bucket", "zip" or "local"
        ("reason", pa.string()),  # "" when the picture is good, else a Reason
        ("detail", pa.string()),  # what exactly was found; "" when the picture is good
        ("attempts", pa.list_(ATTEMPT_TYPE)),  # every source that was asked, in order, the last one included
        ("member", pa.string()),  # name of the picture in fetched/NNNNN.tar; "" when rejected
        ("offset", pa.int64()),  # of the picture's first byte in that tar; -1 when rejected
        ("format", pa.string()),  # "jpg", "png" or "webp"; "" when rejected
        ("width", pa.int32()),  # pixels; 0 when unknown
        ("height", pa.int32()),
        ("num_bytes", pa.int64()),
        ("sha256", pa.string()),  # of the picture's bytes
    ]
)
"""What became of each row of a unit; `fetched/NNNNN.parquet`, in the selection's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """How many rows came in and where each of them went."""

    rows: int
    rejected: dict[Reason, int]
    kept: int

    def __post_init__(self) -> None:
        total = self.kept + sum(self.rejected.values())
        assert total == self.rows, f"funnel: {self.rows} rows in, {total} accounted for"


def unit_name(unit: int) -> str:
    """File-name stem of a unit of work (= one shard): 7 -> "00007"."""
    return f"{unit:05d}"
