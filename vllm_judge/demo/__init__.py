"""The embedded default: a small world of word problems, and a target, a draft and judge heads trained on it."""
