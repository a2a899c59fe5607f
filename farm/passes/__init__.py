"""Passes, one file each: what is measured of a loaded session, each apart from the others.

They run in one process, one after the other (memory, latency, energy, accuracy, then evidence), so that none
disturbs what another times.
"""
