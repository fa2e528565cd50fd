"""Raw model outputs to answers."""
