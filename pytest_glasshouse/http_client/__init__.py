"""HTTP requests: one answer each, limited in size and time, through the proxies of the environment."""
