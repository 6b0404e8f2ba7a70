"""The select stage: which rows belong to the data set, and how two data sets overlap."""
