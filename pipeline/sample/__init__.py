"""The embedded sample: a small generated Flickr with its metadata, for a first look and for tests."""
