"""The fetch stage: pictures from URLs, the public bucket, zip archives or files; checked, counted, kept once."""
