"""Mathematical answers as text, as plain numbers and as expressions, for ``math``."""
