"""From a manifest to batches: plan, ranged reads, decoding, augmentation, tokens."""
