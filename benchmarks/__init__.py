"""Comparisons of speed: two things in one run, in turn, as ratios with their spread."""
