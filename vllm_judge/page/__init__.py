"""What HTML pages are made of."""
