"""From signals to normality, metrics and protocols; no torch."""
