"""Labels: by the final answer, by a model, by people, or brought along from elsewhere."""
