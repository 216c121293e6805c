"""Kinds of figures as records, and the drawing of their panels, marks and legends."""
