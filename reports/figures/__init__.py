"""Static figures (PNG and SVG): each kind has a file, and `drawn_figures.py` selects the scenes."""
