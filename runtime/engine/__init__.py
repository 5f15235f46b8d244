"""Requests: how they are given, join, step together, and leave."""
