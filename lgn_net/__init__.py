"""LGN-Net: video anomaly detection by local and global normality (arXiv 2211.07454)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lgn_net.video.detector import AnomalyDetector as AnomalyDetector

__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    """Import `AnomalyDetector`, and with it torch, only when it is asked for."""
    if name != "AnomalyDetector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lgn_net.video.detector import AnomalyDetector
    return AnomalyDetector
