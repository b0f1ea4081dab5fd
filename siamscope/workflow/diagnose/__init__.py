"""`siamscope diagnose`: inputs to features, features to scores and a verdict, and how they are shown."""
