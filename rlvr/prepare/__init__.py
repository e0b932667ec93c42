"""Fetching what a run needs: its model, and the files of its data."""
