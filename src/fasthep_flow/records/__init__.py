"""What happened: the run folder and how to read it."""
