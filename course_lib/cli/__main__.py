"""`python -m course_lib.cli` is the command `course`."""

from course_lib.cli import app

app(prog_name="course")
