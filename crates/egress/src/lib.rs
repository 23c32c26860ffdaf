//! matome-egress
