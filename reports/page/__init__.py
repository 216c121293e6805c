"""The interactive part of report.html: its data, its chart, its scripts and its files."""
