"""HTTP requests of this project: one answer, bounded in size and time, through the proxies of the environment."""
