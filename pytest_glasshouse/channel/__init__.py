"""How the host reaches a guest: the archive that travels, SSH, and the messages."""
