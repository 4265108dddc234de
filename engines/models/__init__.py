"""The networks of InstantIR (arXiv 2410.06551), one file per network."""
