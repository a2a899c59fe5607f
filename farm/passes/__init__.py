"""Passes, one file each: what is measured of a loaded session, each apart from the others.

They run in one process, one after the other (memory, latency, accuracy, then evidence, then profile), so that none
disturbs what another times.
"""
