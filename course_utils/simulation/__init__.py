"""A cluster that serves requests, on simulated time: the engine's scheduler with another clock.

Loads no torch. `cluster.py` puts the parts together.
"""
