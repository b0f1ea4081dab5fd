"""`siamscope sweep`: a search over a recipe's fields without labels, each trial a run of its own; needs Optuna."""
