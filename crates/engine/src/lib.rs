//! matome-engine
