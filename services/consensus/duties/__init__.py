"""What a member, mostly the leader, does without being asked: one module a duty, each a loop that `main` starts."""
