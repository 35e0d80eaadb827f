"""Labelled images. Every set yields samples (`Sample`) and knows its classes, palette and background."""
