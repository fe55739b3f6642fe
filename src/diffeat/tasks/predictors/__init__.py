"""What a training leaves, and predictions by it; :class:`~diffeat.tasks.predictors.predictor.Predictor` is the door."""
