"""Metrics of the loss landscape around a trained model, and between two of them."""
