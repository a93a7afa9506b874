"""Arrays on a device: of which library, how described, and what a call does with them."""
