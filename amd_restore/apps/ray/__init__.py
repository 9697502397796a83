"""Restoring with many machines: a Ray cluster does the work, folders or object stores hold the pictures.

Actors of Ray, and not Ray Data: what is lost with a worker, what is tried again and what became of each picture must be
known picture by picture, and Ray Data retries whole blocks and reports none of it.
"""
