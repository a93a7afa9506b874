"""What is asked of a norm: plans, the order of sums, checks. Integers and errors only."""
