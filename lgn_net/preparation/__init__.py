"""Published archives and video files become folders of frames."""
