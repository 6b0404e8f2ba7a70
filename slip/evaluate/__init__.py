"""Evaluation of a trained model: so far zero-shot transfer."""
