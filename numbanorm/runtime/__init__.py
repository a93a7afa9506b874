"""What running programs want: compiled code on disk, and work that nothing interrupts."""
