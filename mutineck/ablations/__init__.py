"""The comparison of arms: tidy results, a table, and paired statistics over seeds."""
