"""Numbers and how they are computed: vectors, arithmetics, stages of an element, accumulators, statistics, results."""
