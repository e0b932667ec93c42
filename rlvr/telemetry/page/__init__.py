"""A run, or responses, to look at in a browser: one HTML file that needs nothing else."""
