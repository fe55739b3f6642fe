"""What several files of tests share: models, worlds, trainings."""
