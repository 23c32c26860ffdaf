//! matome-bus
