"""The question: plans, the order of sums, checks of arguments. Integers and errors only."""
