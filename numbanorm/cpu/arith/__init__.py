"""How numbers are computed: vectors, numbers of two parts, accumulators, statistics, elements."""
