"""Attend, Infer, Repeat (Eslami et al., NIPS 2016) in JAX."""
