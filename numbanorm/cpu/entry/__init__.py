"""The compiled entry of a call."""
