"""NumPy references: one module per mechanism, each the algorithm whose memory really falls.

What is not finite never reaches a row that may not attend to it: a query with NaN or infinity
spoils its own row, a NaN in a key and a NaN or infinity in a value the rows that may attend to
them, whatever the blocks and tiles.
"""
