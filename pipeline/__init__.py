"""From YFCC100M's metadata to sealed WebDataset shards. Never imports torch or slip."""
