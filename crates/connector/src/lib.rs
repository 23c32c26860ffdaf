//! matome-connector
