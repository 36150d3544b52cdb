"""From labelled answers to a judge head: features, fit, threshold, model card."""
