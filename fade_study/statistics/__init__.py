"""Statistics of reports: rank correlations, standings of searches, trends."""

__all__: list[str] = []
