"""Can it be learned? Networks that share the physics: autoencoders whose decoder is a mixing model."""
