//! matome-aggregation
