"""Figures of searches and ranks, from arrays."""

__all__: list[str] = []
