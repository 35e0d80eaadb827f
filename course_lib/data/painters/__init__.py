"""Painters of the generated scenes."""
