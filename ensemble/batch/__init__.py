"""Many prompts voted on as one job: rows in, the same rows answered once each out, whatever is killed meanwhile."""
