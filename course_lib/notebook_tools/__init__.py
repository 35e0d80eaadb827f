"""Tools that check, store and list the notebooks."""
