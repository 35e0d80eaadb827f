"""Labelled pictures. Every set yields `Sample`s and knows its classes, palette and background."""
