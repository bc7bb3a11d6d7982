"""One's own videos and cameras."""
