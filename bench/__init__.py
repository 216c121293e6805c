"""How attention is measured: axes to cases, cases to rows. Never plots."""
