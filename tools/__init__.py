"""Tools that want a clone of the repository; they are in no wheel."""
