"""The documentation site, beside what mkdocs does by itself."""
