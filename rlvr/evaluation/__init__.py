"""What an evaluation says: estimators with intervals, comparisons, and its folder."""
