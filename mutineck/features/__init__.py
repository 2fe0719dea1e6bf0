"""Features stage: one vector for each target of the training split, as each teacher sees it."""
