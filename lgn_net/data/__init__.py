"""Frames of videos, windows of them, and their labels."""
