"""The planner's score: an exhaustive table of measured arms, and every planner and baseline replayed against it."""
