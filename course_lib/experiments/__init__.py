"""From a table's row to a run, its record and a report."""
