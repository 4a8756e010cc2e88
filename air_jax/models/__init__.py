"""Flax modules: the inference network, the scene models and what they are made of."""
