"""From sealed WebDataset shards to a trained and evaluated CLIP, SimCLR or SLIP model."""
