"""A trained network over test videos: signals of every frame."""
