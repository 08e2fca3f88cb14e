"""The loop: methods, plan, candidates, selection, kernel votes."""
