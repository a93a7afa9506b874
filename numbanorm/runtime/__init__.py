"""For running programs: compiled code on disk, and work that nothing interrupts."""
