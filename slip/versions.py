"""What a run is made with, in words for its log."""

from __future__ import annotations

import PIL

from slip.config import TrainConfig
from slip.data import kernel


def pillow() -> str:
    """Which of the two packages that install PIL it is: pillow-simd's version has a .postN."""
    return f"{'pillow-simd' if '.post' in PIL.__version__ else 'Pillow'} {PIL.__version__}"


def views_in_words(config: TrainConfig, *, on_device: bool) -> str:
    """How the views are made."""
    if config.data.augment == "reference":
        return "views: reference, by Pillow"
    crops = "the compiled kernel" if kernel.available() else "torch (the kernel was not built)"
    return f"views: fast; crops by {crops}, colours {'on the device' if on_device else 'by the decode threads'}"
