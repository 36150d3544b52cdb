"""A page on a served target: the same question answered strictly and judged, side by side."""
