"""The page on which people mark the first mistake of an answer."""
