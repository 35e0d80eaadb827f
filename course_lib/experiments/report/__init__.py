"""Records as tables that people read: the scoreboard, the claims with their verdicts, and Markdown of both."""
