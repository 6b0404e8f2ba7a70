"""Captions of a batch of rows: cleaned, judged, and kept where the variant's rule lets them through.

In come the stored columns title and description, out go a code for every row (`KEPT` or a reason) and the captions of
the kept rows. How texts are cleaned and what is wrong with one is said by `captions` and `english`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.captions.columns import clean_column, is_faulty, paper_column, text_column
from pipeline.captions.english import english_fault
from pipeline.records import SELECT_REASONS, Reason

Mask = NDArray[np.bool_]
Codes = NDArray[np.uint8]

KEPT = 0
CODE_OF = {reason: code for code, reason in enumerate(SELECT_REASONS, 1)}
"""Reasons as small numbers, `KEPT` for none."""

_FIELDS = ("title", "description")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """Of every row its code; captions of the kept rows alone."""

    codes: Codes
    texts: Mapping[str, pa.StringArray]
    """title and description."""
    usable: Mapping[str, Mask]
    """Whether each may be drawn as a caption."""

    @property
    def is_kept(self) -> Mask:
        """Of every row."""
        kept: Mask = self.codes == KEPT
        return kept


def _is_empty(texts: pa.StringArray) -> Mask:
    empty: Mask = pc.equal(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)
    return empty


def clean_verdicts(batch: pa.RecordBatch, *, is_encoded: bool) -> Verdicts:
    """A row without any caption is NO_CAPTION, one without a usable one JUNK_CAPTION."""
    # Both columns as one: what a column costs apart from its texts, such as compiling expressions, is paid once.
    both = clean_column(pa.concat_arrays([batch.column(name) for name in _FIELDS]), is_encoded=is_encoded)
    of_field = {"title": slice(0, batch.num_rows), "description": slice(batch.num_rows, None)}
    texts = {name: both[rows] for name, rows in of_field.items()}
    is_usable = ~is_faulty(both)
    usable = {name: is_usable[rows] for name, rows in of_field.items()}
    kept = usable["title"] | usable["description"]
    codes = np.where(kept, KEPT, CODE_OF[Reason.JUNK_CAPTION]).astype(np.uint8)
    codes[_is_empty(texts["title"]) & _is_empty(texts["description"])] = CODE_OF[Reason.NO_CAPTION]
    where = pa.array(kept)
    return Verdicts(
        codes=codes,
        texts={name: text.filter(where) for name, text in texts.items()},
        usable={name: mask[kept] for name, mask in usable.items()},
    )


def paper_verdicts(batch: pa.RecordBatch, *, is_encoded: bool) -> Verdicts:
    """Captions as the published script makes them: it keeps every row, and draws empty texts too.

    Texts that are not encoded (DeCLIP's captions) stay as they are; among them an empty one is never drawn.
    """
    publish = paper_column if is_encoded else text_column
    texts = {name: publish(batch.column(name)) for name in _FIELDS}
    everything = np.ones(batch.num_rows, np.bool_)
    usable = {name: everything if is_encoded else ~_is_empty(text) for name, text in texts.items()}
    return Verdicts(codes=np.zeros(batch.num_rows, np.uint8), texts=texts, usable=usable)


def _english(texts: pa.StringArray) -> tuple[Mask, Mask]:
    """Which cleaned texts are natural language in English, and which are natural language in another."""
    natural = ~is_faulty(texts)
    faults = [english_fault(text) for text in texts.filter(pa.array(natural)).to_pylist()]
    is_english, is_foreign = np.zeros_like(natural), np.zeros_like(natural)
    is_english[natural] = [fault is None for fault in faults]
    is_foreign[natural] = [fault == "not_english" for fault in faults]
    return is_english, is_foreign


def english_verdicts(batch: pa.RecordBatch, *, fields: tuple[str, ...], is_encoded: bool) -> Verdicts:
    """A row is kept when one of the fields is natural language in English; every usable caption is.

    Else it is NO_CAPTION when all of them are empty, NOT_ENGLISH when one is natural language, JUNK_CAPTION when not.
    """
    texts = {name: clean_column(batch.column(name), is_encoded=is_encoded) for name in fields}
    judged = {name: _english(text) for name, text in texts.items()}
    kept = np.logical_or.reduce([is_english for is_english, _ in judged.values()])
    foreign = np.logical_or.reduce([is_foreign for _, is_foreign in judged.values()])
    codes = np.where(foreign, CODE_OF[Reason.NOT_ENGLISH], CODE_OF[Reason.JUNK_CAPTION]).astype(np.uint8)
    codes[np.logical_and.reduce([_is_empty(text) for text in texts.values()])] = CODE_OF[Reason.NO_CAPTION]
    codes[kept] = KEPT
    where = pa.array(kept)
    texts = {name: text.filter(where) for name, text in texts.items()}
    usable = {name: is_english[kept] for name, (is_english, _) in judged.items()}
    for name in set(_FIELDS) - set(fields):  # looked at only now: four of five rows are gone
        texts[name] = clean_column(batch.column(name).filter(where), is_encoded=is_encoded)
        usable[name], _ = _english(texts[name])
    return Verdicts(codes=codes, texts=texts, usable=usable)
