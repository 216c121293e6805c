"""What is drawn: kinds of figures as records, and how their panels, marks and legends are made."""
