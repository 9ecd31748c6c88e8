"""A predictor fitted to finished runs, and its error on sources left out."""
