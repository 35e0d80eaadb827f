"""What recipes ask for, a file for each task: `run(recipe, sitting) -> Finished`."""
