//! What a workload links.
