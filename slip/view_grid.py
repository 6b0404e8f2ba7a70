"""A picture of views: some samples, each with its views in both modes, made with the same parameters.

In: samples in memory. Out: the bytes of one PNG. A row is a sample: its views in reference mode, then the same ones in
fast mode, then what is different between them, eight times as strong.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from slip.data.decode import Pixels, open_picture
from slip.data.samples import RawSample
from slip.data.view_maker import AugmentMode, fill_views
from slip.data.view_params import ViewKind
from slip.input_costs import drawn_params

_GAP, _HEADING = 6, 18
_STRENGTH = 8
_MODES: tuple[AugmentMode, ...] = ("reference", "fast")


def _views(sample: RawSample, kinds: Sequence[ViewKind], size: int, seed: int) -> dict[AugmentMode, list[Pixels]]:
    """Each mode's views, (3, S, S)."""
    picture = open_picture(sample.image)
    (params,) = drawn_params([picture], kinds, seed)
    found = {mode: [np.empty((3, size, size), dtype=np.uint8) for _ in kinds] for mode in _MODES}
    for mode, outs in found.items():
        fill_views(picture, params, outs, mode=mode, colours=True)
    return found


def view_grid_png(samples: Sequence[RawSample], kinds: Sequence[ViewKind], size: int) -> bytes:
    """Draw all of them; the n-th sample's parameters follow from seed n."""
    columns = 3 * len(kinds)
    step = size + _GAP
    page = Image.new("RGB", (columns * step + _GAP, _HEADING + len(samples) * step + _GAP), "white")
    draw = ImageDraw.Draw(page)
    headings = (*_MODES, f"difference x {_STRENGTH}")
    for block, heading in enumerate(headings):
        for i, kind in enumerate(kinds):
            draw.text((_GAP + (block * len(kinds) + i) * step, 4), f"{heading}, {kind}", fill="black")
    for row, sample in enumerate(samples):
        found = _views(sample, kinds, size, seed=row)
        pairs = zip(found["reference"], found["fast"], strict=True)
        gaps = [np.clip(np.abs(a.astype(int) - b) * _STRENGTH, 0, 255).astype(np.uint8) for a, b in pairs]
        for column, view in enumerate([*found["reference"], *found["fast"], *gaps]):
            tile = Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0)))
            page.paste(tile, (_GAP + column * step, _HEADING + row * step + _GAP))
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()
