"""The tamper suite: messages that must be refused, and proof that each check of the product is needed."""
