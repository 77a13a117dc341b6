"""NumPy references: one module per mechanism, each the algorithm whose memory really falls."""
