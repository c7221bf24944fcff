"""The parts of report.py's page."""
