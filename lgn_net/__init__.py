"""LGN-Net: video anomaly detection by local and global normality (arXiv 2211.07454)."""

__version__ = "0.2.0"
