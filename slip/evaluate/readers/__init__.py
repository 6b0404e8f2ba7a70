"""Readers of labelled sets, one module per form; which form a set has is found out in `slip.evaluate.catalogue`."""
