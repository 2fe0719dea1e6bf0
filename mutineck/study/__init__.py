"""What a study is: its settings, arms, stages, jobs, inputs, and what makes a job stale."""
