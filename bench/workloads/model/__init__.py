"""Replace the attention of a pretrained model by variants while the model reads a text; measure the
changes in its predictions and its time."""
