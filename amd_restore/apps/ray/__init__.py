"""Restoring on a Ray cluster, from and to folders or object stores.

Uses Ray's actors instead of Ray Data, which retries whole blocks and does not report losses, retries and results of
single images.
"""
