//! The node's attester.
