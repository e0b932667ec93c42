"""The programs that run inside of the sandbox.

Each verdict starts them anew, so they import next to nothing: ``typing`` alone would take longer
than the rest together.
"""
