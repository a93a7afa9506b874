"""The history of speed and accuracy: asv runs, their comparison, and the dashboard."""
