"""Rows of any metadata: YFCC100M's forms, other data sets' lists, tables of one's own; and copying them to Parquet."""
