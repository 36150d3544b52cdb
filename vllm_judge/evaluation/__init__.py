"""The reference decoder, quality statistics, reports."""
