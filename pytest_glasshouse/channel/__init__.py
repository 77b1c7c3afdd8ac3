"""How the host reaches a guest: the archive it sends, SSH, and the requests to the agent."""
