"""What an index is of: weights, rates, loss, settings of the model, and each training example by its fingerprint."""
