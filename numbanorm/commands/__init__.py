"""Commands of the command line that are no other part's, and what all of them share."""
